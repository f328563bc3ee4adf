"""``ssltool plot schedule``: the images of each epoch of a run, and the learning rate."""

from __future__ import annotations

from ssltool.checkpoints.build import outline_method
from ssltool.config import PlotConfig
from ssltool.data.found import record_of
from ssltool.runs.data_preview import schedule_of
from ssltool.runs.history import read_runs, restore_setup
from ssltool.settings import Record
from ssltool.viz.data_schedule import plot_schedule


def draw(config: PlotConfig, out: str) -> Record:
    """Plots the schedule of the run."""
    (run,) = read_runs(config.inputs)
    setup = restore_setup(run, config.data)
    plot_schedule(schedule_of(setup, outline_method(run.saved), run.records), out)
    return {"found": [record_of(setup.images)]}
