"""``ssltool plot curves``: metrics of runs over epochs."""

from __future__ import annotations

from ssltool.config import PlotConfig
from ssltool.errors import SSLToolError
from ssltool.runs.history import read_runs
from ssltool.viz.curves import curves_of, plot_curves


def draw(config: PlotConfig, out: str) -> None:
    """Plots the recorded metrics of the runs.

    Raises:
        SSLToolError: if no run has a recorded epoch.
    """
    runs = {run.name: run.records for run in read_runs(config.inputs)}
    if not curves_of(list(runs.values())):
        raise SSLToolError(
            f"no recorded epoch or look in {', '.join(config.inputs)}; a run must complete at least one epoch"
        )
    plot_curves(runs, out)
