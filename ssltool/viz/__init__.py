"""Figures: spectra, curves, schedules and images; and the registry of the plots of ``ssltool plot``.

The module of a plot is imported when the plot is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.config import PlotConfig
    from ssltool.settings import Record


@dataclass(frozen=True)
class Plot:
    """A kind of plot.

    Attributes:
        target: the function ``target(config, out)``, which plots ``config.inputs`` to the file ``out``. It returns
            further entries of the result, or None.
        inputs: the type of its inputs, for help and messages.
        help: one line.
        settings: the settings of ``PlotConfig`` that it uses.
        one_input: whether it accepts a single input only.
    """

    target: str | Callable[[PlotConfig, str], Record | None]
    inputs: str
    help: str
    settings: tuple[str, ...] = ()
    one_input: bool = False


PLOTS: Registry[Plot] = Registry(
    "plot",
    __name__,
    {
        "spectrum": Plot(
            ".plot_spectrum:draw",
            "spectra or representations",
            "Singular values, relative to the largest, and their cumulative sums with the AUC; with --type cov the "
            "eigenvalues of the covariance, on a logarithmic scale",
            ("type", "pool"),
        ),
        "renyi": Plot(
            ".plot_renyi:draw",
            "spectra or representations",
            "Effective ranks against the order of the Renyi entropy: a small order counts weak directions too",
            ("pool",),
        ),
        "curves": Plot(
            ".plot_curves:draw",
            "run folders",
            "Loss, AUC, effective rank, feature std and kNN accuracy over the epochs",
        ),
        "auc": Plot(
            ".plot_auc:draw",
            "run folders",
            "AUC of the last monitored epoch against --x, one line per --group-by",
            ("x", "group_by", "layer"),
        ),
        "views": Plot(
            ".plot_views:draw",
            "a run folder",
            "Training images and their augmented views",
            ("rows", "epoch", "data"),
            one_input=True,
        ),
        "patches": Plot(
            ".plot_patches:draw",
            "tokens (save-reprs --tokens), a checkpoint or a run folder",
            "Principal components of the patches of images as colours, cosines to one patch, and norms",
            ("rows", "data", "patch"),
            one_input=True,
        ),
        "schedule": Plot(
            ".plot_schedule:draw",
            "a run folder",
            "The images of each epoch, how often each is seen, and the learning rate",
            ("data",),
            one_input=True,
        ),
    },
)
"""The plots of ``ssltool plot``."""
