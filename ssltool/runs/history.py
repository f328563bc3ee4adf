"""Reads run folders: their settings and records, and the setup of their training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssltool.checkpoints.build import require_plugins
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.checkpoints.setting_names import stage_of
from ssltool.config import PretrainConfig
from ssltool.data.computed_orders import Order
from ssltool.data.detection import can_exist
from ssltool.data.found import announce
from ssltool.data.images import open_dataset
from ssltool.data.shard_stream import open_stream
from ssltool.data.strategies import computed_order, images_seen, read_order
from ssltool.errors import SSLToolError, found_in
from ssltool.files.misfit import shown
from ssltool.methods import method_options, saved_options
from ssltool.runs import monitor_folder
from ssltool.runs.display_names import display_names
from ssltool.runs.folder import SHARDS, RunFolder
from ssltool.runs.resume import DERIVED_SETTINGS, changed_images
from ssltool.settings import Record, Settings
from ssltool.training.setup import TrainingSetup

SCHEDULE = (
    *("strategy", "epochs", "batch_size", "chunk_size", "n_rounds", "replay_size", "replay_rule", "repeat_batch"),
    *("steps_per_epoch", "seed", "keyed_order", "stream"),
)
"""The settings that say which images an epoch uses."""


@dataclass(frozen=True)
class FinishedRun:
    """A run folder of ``pretrain``, or the folder of a monitor in another program's training.

    Attributes:
        settings: the settings in ``config.json``.
        records: the lines of ``metrics.jsonl``, one per epoch or look.
        name: a short name that differs from those of the other runs.
        run: the saved run; None for the folder of a monitor.
    """

    path: Path
    settings: Settings
    records: list[Record]
    name: str
    run: SavedRun | None = None

    @property
    def saved(self) -> SavedRun:
        """The saved run.

        Raises:
            SSLToolError: for the folder of a monitor.
        """
        if self.run is None:
            raise SSLToolError(
                f"{self.path} is the folder of a monitor, without the images and settings of a run; name a run folder "
                "of pretrain"
            )
        return self.run

    def images_seen(self, last: Record) -> int:
        """How many different training images the epochs up to that of the record ``last`` used.

        Raises:
            SSLToolError: for the folder of a monitor, or a run that was resumed with another data strategy, because the
                settings of the first one are not saved.
        """
        settings, epochs = self.saved.settings, last["epoch"] + 1
        used = {record.get("strategy", settings["strategy"]) for record in self.records if record["epoch"] < epochs}
        if used - {settings["strategy"]}:
            raise SSLToolError(
                f"{self.path} was resumed with another data strategy, so the number of images that it saw is not known"
            )
        return images_seen(settings["n_images"], epochs, **{name: settings[name] for name in SCHEDULE})


def read_runs(paths: Sequence[str]) -> list[FinishedRun]:
    """Reads the run folders of ``pretrain`` and the folders of monitors at ``paths``.

    Raises:
        SSLToolError: if one is no such folder, cannot be read, or is given twice.
    """
    folders = [Path(path) for path in paths]
    read = [_read(RunFolder(folder)) for folder in folders]
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise SSLToolError("a run folder is given twice; name each once")
    names = display_names([str(path) for path in resolved])
    return [dataclasses.replace(run, name=name) for run, name in zip(read, names, strict=True)]


def _read(folder: RunFolder) -> FinishedRun:
    settings = folder.read_config()
    stage = stage_of(settings)
    if stage == monitor_folder.STAGE:
        monitored = monitor_folder.MonitorFolder(folder.path)
        return FinishedRun(folder.path, monitored.settings, monitored.records, "")
    if stage != "pretrain":
        raise SSLToolError(f"{folder.path} is a run folder of {stage}; name a run folder of pretrain")
    saved = SavedRun.read(settings, folder.config)
    return FinishedRun(folder.path, saved.settings, folder.read_metrics(), "", saved)


def restore_setup(run: FinishedRun, data: str | None = None) -> TrainingSetup:
    """Restores the setup of a run, without its trained teacher and labelled images, which only training needs.

    ``data`` is the folder of the images, if they have been moved.

    Raises:
        SSLToolError: if the images cannot be opened, or are not those that the run was trained on.
    """
    names = [f.name for f in dataclasses.fields(PretrainConfig) if not f.metadata["method_option"]]
    settings = run.saved.settings
    values = {name: settings[name] for name in names if name in settings and name != "options"} | run.saved.pixels
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    if values.get("cache") is not None:  # a picture does not need it, and would write it if it was deleted
        values |= {"cache": None, "cache_size": None}
    if data is not None and settings["data"] is None:
        raise SSLToolError(f"{run.path} was trained on the bundled images; leave --data out")
    with found_in(run.path / "config.json"):
        require_plugins(run.saved)
        config = PretrainConfig(**(values if data is None else values | {"data": data}))
        options = method_options(config.method, saved_options(config.method, settings["method_options"]))
    if config.data is not None and not can_exist(config.data):
        raise SSLToolError(f"the images of {run.path} are not in {config.data}; name their folder with --data")
    if config.idx_path is not None and not Path(config.idx_path).is_file():
        raise SSLToolError(
            f"{run.path} was trained on the images listed in {config.idx_path}, which does not exist; restore the file"
        )
    images = (
        open_stream(config, settings["n_images"], run.path / SHARDS) if config.stream else open_dataset(config, "train")
    )
    changed = changed_images(settings, run.path, images)
    if changed is not None and images.name == settings["dataset"]:
        raise SSLToolError(
            f"{run.path} was trained on other images: {changed}; restore them, or name their folder with --data"
        )
    order: Order | None = computed_order(len(images), config.seed, keyed=config.keyed_order, stream=config.stream)
    if order is None and config.strategy == "iid":
        order = np.arange(len(images))
    if order is None:
        saved_order = run.path / "order.npy"
        order_file = str(saved_order) if saved_order.is_file() else config.incremental_idx_path
        order = read_order(order_file, len(images), config.seed)
    setup = TrainingSetup(config, options, images, order, run.saved.recipe)
    current = setup.saved_run.settings
    for key in ("dataset", "n_images", "index_hash", "order_hash"):
        if key in settings and current[key] != settings[key]:
            raise SSLToolError(
                f"{run.path} was trained on other images: {DERIVED_SETTINGS[key]} was {shown(settings[key])}, "
                f"is now {current[key]}; name the folder of its images with --data"
            )
    announce(images)
    return setup
