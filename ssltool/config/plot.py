"""The settings of the stages that draw: single pictures, and the report of runs."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import LAYERS, SPECTRA
from ssltool.settings import Checked, setting
from ssltool.viz import PLOTS

AGAINST = ("images", "epoch", "accuracy")
GROUPED = ("arch", "method", "strategy")


@dataclass(frozen=True)
class PlotConfig(Checked):
    """Settings of ``ssltool plot``."""

    kind: str = setting("spectrum", "what to draw", choices=PLOTS)
    inputs: tuple[str, ...] = setting((), "spectra or representations, or run folders")
    type: str = setting(
        "svd",
        "spectrum: singular values (svd), eigenvalues of the covariance (cov) or per-dimension deviations (std)",
        choices=SPECTRA,
    )
    x: str = setting(
        "images",
        "auc: what it is drawn against: training images, epochs, or kNN accuracy of the backbone",
        choices=AGAINST,
    )
    group_by: str = setting("arch", "auc: what the runs of one line share", choices=GROUPED)
    layer: str = setting("backbone", "auc: of which layer's outputs", choices=LAYERS[:2])
    rows: int = setting(6, "views: how many images", minimum=1)
    epoch: int = setting(1, "views: those of the first step of this epoch, counted from 1", minimum=1)
    data: str | None = setting(
        None, "views, schedule: folder of the images [default: the run's]", section="Data", metavar="DIR"
    )
    out: str | None = setting(None, "picture to write: .png, .pdf or .svg", "-o", section="Output", metavar="FILE")
