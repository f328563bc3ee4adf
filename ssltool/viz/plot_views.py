"""``ssltool plot views``: training images of a run and their augmented views."""

from __future__ import annotations

from ssltool.checkpoints.build import outline_method
from ssltool.config import PlotConfig
from ssltool.data.found import record_of
from ssltool.runs.data_preview import views_of
from ssltool.runs.history import read_runs, restore_setup
from ssltool.settings import Record
from ssltool.viz.pictures import plot_views


def draw(config: PlotConfig, out: str) -> Record:
    """Plots some training images and their views in the first step of an epoch."""
    (run,) = read_runs(config.inputs)
    setup = restore_setup(run, config.data)
    method = outline_method(run.saved)
    plot_views(views_of(setup, method, config.rows, epoch=config.epoch - 1), out)
    return {"found": [record_of(setup.images)]}
