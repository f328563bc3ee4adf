"""Figures: spectra, curves, schedules, pictures; here the registry of what ``ssltool plot`` draws.

A plot's module is imported when the plot is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.config import PlotConfig


@dataclass(frozen=True)
class Plot:
    """A kind of plot: the function ``target(config, out)`` that draws ``config.inputs`` into the file ``out``, what the
    ``inputs`` are, a line of ``help``, the ``settings`` of ``PlotConfig`` that it uses, and whether it takes one
    input only."""

    target: str | Callable[[PlotConfig, str], None]
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
            "Singular values, the same over the largest, and their cumulative shares with the AUC; with --type cov the "
            "eigenvalues of the covariance, on a logarithmic scale",
            ("type",),
        ),
        "curves": Plot(
            ".plot_curves:draw", "run folders", "Loss, AUC, effective rank, feature std and kNN over the epochs"
        ),
        "auc": Plot(
            ".plot_auc:draw",
            "run folders",
            "AUC of the last monitored epoch against --x, a line for each --group-by",
            ("x", "group_by", "layer"),
        ),
        "views": Plot(
            ".plot_views:draw",
            "a run folder",
            "Training images, and the views that the run made of them",
            ("rows", "epoch", "data"),
            one_input=True,
        ),
        "schedule": Plot(
            ".plot_schedule:draw",
            "a run folder",
            "The images of each epoch, how often each is seen, the learning rate",
            ("data",),
            one_input=True,
        ),
    },
)
"""What ``ssltool plot`` draws."""
