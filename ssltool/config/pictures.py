"""The settings of the stages that draw: single pictures, and the report of runs."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.diagnose import SPECTRA
from ssltool.config.shared import LAYERS, DeviceSettings, decoders
from ssltool.settings import Checked, setting

PLOTS = ("spectrum", "curves", "auc", "views", "schedule")
AGAINST = ("images", "epoch", "accuracy")
GROUPED = ("arch", "method", "strategy")
MAPS = ("pca", "tsne")


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
    epoch: int = setting(0, "views: those of the first step of which epoch", minimum=0)
    data: str | None = setting(
        None, "views, schedule: folder of the images [default: the run's]", section="Data", metavar="DIR"
    )
    out: str | None = setting(None, "picture to write: .png, .pdf or .svg", "-o", section="Output", metavar="FILE")


@dataclass(frozen=True)
class ReportConfig(DeviceSettings):
    """Settings of ``ssltool report``."""

    runs: tuple[str, ...] = setting((), "run folders of pretrain")
    checkpoint: str = setting("checkpoint.pt", "which checkpoint of each run", section="Model", metavar="NAME")
    data: str | None = setting(
        None, "folder of the images, where it has moved [default: each run's own]", section="Data", metavar="DIR"
    )
    size: int = setting(2000, "training images that are looked at", section="Data", minimum=2)
    workers: int | None = decoders()
    neighbours: int = setting(8, "neighbours shown of each image", minimum=1)
    queries: int = setting(8, "images whose neighbours are shown", minimum=1)
    rows: int = setting(4, "images whose views are shown", minimum=1)
    map: str = setting(
        "pca", "the two dimensions of the map: principal components, or t-SNE by scikit-learn", choices=MAPS
    )
    seed: int = setting(10, "seed of the choice of images, and of t-SNE", minimum=0)
    title: str | None = setting(None, "heading of the page [default: the runs' names]", section="Output")
    out: str = setting("report.html", "page to write", "-o", section="Output", metavar="FILE")
