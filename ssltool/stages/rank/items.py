"""The items that ``rank`` orders: run folders with the monitor's records, their kept checkpoints, and files of
representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.setting_names import stage_of
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.token_blocks import tokens_of
from ssltool.errors import SSLToolError
from ssltool.files.reading import require
from ssltool.reprs.readers import read_entries
from ssltool.reprs.representations import Representations
from ssltool.runs import monitor_folder
from ssltool.runs.display_names import display_names
from ssltool.runs.evaluations import PROTOCOL
from ssltool.runs.folder import RunFolder
from ssltool.runs.history import read_runs
from ssltool.runs.run_table import hash_after_epoch, kept_checkpoint
from ssltool.runs.untrained import untrained_record
from ssltool.settings import Record, Settings
from ssltool.stages.rank.forecast import LOSS, record_key

OF_FILES = ("method", "arch", "strategy", "dataset", "split", "layer")
"""Metadata of a file of representations that is in the table."""


@dataclass
class RankedItem:
    """A run at one epoch, a monitored training at one step, a kept checkpoint, or a file of representations.

    Attributes:
        path: the run folder or file.
        origin: the settings of the run, or the metadata of the file, with ``epoch`` counted from 0.
        settings: the settings of the run, or main metadata of the file, for the table.
        record: the record of this epoch or step, or what was measured of the file.
        metrics: values by layer and name (``backbone_auc``), NaN where a metric is undefined.
        verdict: the monitor's verdict at this epoch, or None.
        accuracy: the accuracy in [0, 1] to compare with, or None.
        checkpoint: the checkpoint file of this epoch, or None if it was not kept.
        checkpoint_hash: for a file of representations, the hash of the checkpoint that they were computed with.
        display_name: a short name that differs from the other items'.
        untrained: whether this is the network before its training.
    """

    path: str
    origin: Settings
    settings: Settings
    record: Record
    metrics: dict[str, float]
    verdict: str | None = None
    accuracy: float | None = None
    checkpoint: Path | None = None
    checkpoint_hash: str | None = None
    display_name: str = ""
    untrained: bool = False

    def value(self, layer: str, metric: str) -> float:
        """The value of one metric; raises ``SSLToolError`` if the item does not have it."""
        key = record_key(layer, metric)
        if key not in self.metrics:
            if (layer, metric) == LOSS:
                raise SSLToolError(f"{self.path} has no {key}; give a run folder of pretrain, or a forecast without it")
            known = ", ".join(name for name in self.metrics if name != LOSS[1])
            raise SSLToolError(
                f"{self.path} has no {key}, only {known}; choose one of these, or give a file of the {layer}'s "
                "representations instead (ssltool save-reprs)"
            )
        return self.metrics[key]

    def source_hash(self) -> str | None:
        """The hash of the item's checkpoint, or None if it is not known."""
        return self.checkpoint_hash or hash_after_epoch(self.checkpoint, self.record)

    @property
    def knn(self) -> float | None:
        """The kNN accuracy in [0, 1] that the monitor recorded, or None."""
        return next((value for key, value in self.record.items() if key.endswith("_knn")), None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a table of accuracies may use: the path as given, then shorter ones."""
        return self.path, self.display_name, Path(self.path).name


def split_items(items: Sequence[str], *, checkpoints: bool) -> tuple[list[str], list[str], dict[str, str]]:
    """Splits ``items`` into run folders of pretrain and folders of monitors, files, and run folders of later stages,
    each with its stage.

    Raises:
        SSLToolError: for a path that does not exist or is given twice, if there is nothing to rank, or if
            ``checkpoints`` is set and there is no run folder.
    """
    paths = [Path(item) for item in items]
    for path in paths:
        require(path, "run folder or file")
    resolved = [path.resolve() for path in paths]
    repeated = [path for path, target in zip(paths, resolved, strict=True) if resolved.count(target) > 1]
    if repeated:
        raise SSLToolError(f"{repeated[0]} is given twice; name it once")
    settings = {path: RunFolder(path).read_config() for path in paths if path.is_dir()}
    stages = {path: stage_of(config) for path, config in settings.items()}
    later = {str(path): stage for path, stage in stages.items() if stage in PROTOCOL}
    folders = [path for path, stage in stages.items() if stage in ("pretrain", monitor_folder.STAGE)]
    files = [path for path in paths if not path.is_dir()]
    if not folders and not files:
        raise SSLToolError("name at least one run folder of pretrain or file of representations to rank")
    if checkpoints and not folders:
        raise SSLToolError("--checkpoints does nothing without a run folder; leave it out")
    return list(map(str, folders)), list(map(str, files)), later


def read_run_folder(path: str, *, checkpoints: bool) -> tuple[list[RankedItem], list[str]]:
    """The run in ``path`` at its last monitored epoch, or with ``checkpoints`` at the epoch of each kept checkpoint.

    Returns:
        The items, and notes for the user.

    Raises:
        SSLToolError: if the folder holds no run, no epoch was monitored, or with ``checkpoints`` none whose checkpoint
            was kept.
    """
    folder = RunFolder(Path(path))
    settings = folder.read_config()
    if stage_of(settings) == monitor_folder.STAGE:
        return _read_monitored(path, checkpoints=checkpoints), []
    records = folder.read_metrics()
    monitored = {record["epoch"]: record for record in records if recorded_metrics(record)}
    if not monitored:
        raise SSLToolError(
            f"{path} has no records of the monitor; train with --monitor-every, "
            "or save representations (ssltool save-reprs) and give their file instead"
        )
    epochs, notes = [max(monitored)], []
    kept: dict[int, Path | None]
    if checkpoints:
        kept = {**folder.kept()}
        epochs = [epoch for epoch in kept if epoch in monitored]
        if not epochs:
            found = f"of epochs {', '.join(str(epoch + 1) for epoch in kept)}, none monitored" if kept else "none"
            raise SSLToolError(
                f"{path}: kept checkpoints: {found}; --checkpoints needs a --monitor-every that divides --save-every"
            )
        if len(epochs) < len(kept):
            notes.append(f"{path}: {len(kept) - len(epochs)} kept checkpoints were not monitored and are left out")
    else:
        kept = {epochs[0]: kept_checkpoint(folder, monitored[epochs[0]], records)}
    return [
        _recorded(str(kept[epoch]) if checkpoints else path, settings, monitored[epoch], "backbone", kept[epoch])
        for epoch in epochs
    ], notes


def read_untrained(path: str) -> tuple[list[RankedItem], list[str]]:
    """The untrained network of the run of pretrain in ``path``, or a note on why it could not be measured."""
    try:
        (run,) = read_runs([path])
        first = min(run.path.glob("checkpoint_[0-9]*.pt"))
        record = untrained_record(run, first, torch.device("cpu"))
    except SSLToolError as error:
        return [], [f"the untrained network is not in the table: {error}"]
    item = _recorded(path, run.settings, record, "backbone", None)
    item.untrained = True
    return [item], []


def _recorded(path: str, settings: Settings, record: Record, layer: str, checkpoint: Path | None) -> RankedItem:
    """A run with the values in ``record``; its kNN accuracy is that of ``layer``."""
    return RankedItem(
        path,
        {**settings, **record},
        settings,
        record,
        recorded_metrics(record),
        verdict=record.get("verdict"),
        accuracy=record.get(f"{layer}_knn"),
        checkpoint=checkpoint,
    )


def _read_monitored(path: str, *, checkpoints: bool) -> list[RankedItem]:
    """The training that a monitor watched, at its last look."""
    folder = monitor_folder.MonitorFolder(Path(path))
    if checkpoints:
        raise SSLToolError(f"{path} is the folder of a monitor, without checkpoints; leave --checkpoints or it out")
    looks = [record for record in folder.records if recorded_metrics(record)]
    if not looks:
        raise SSLToolError(f"{path} has no look of a monitor; the first is at step 0 of the training")
    return [_recorded(path, folder.settings, looks[-1], folder.settings["layers"][0], None)]


def recorded_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that the monitor recorded in an epoch, by layer and name, and the loss; nothing of an epoch that was
    not monitored."""
    ends = tuple(f"_{metric}" for metric in METRICS)
    metrics = {key: _nan_if_none(value) for key, value in record.items() if key.endswith(ends)}
    return metrics | {LOSS[1]: _nan_if_none(record["loss"])} if metrics and LOSS[1] in record else metrics


def measure_file(
    path: str, layer: str, metrics: Sequence[str], pool: str | None = None
) -> tuple[RankedItem, list[str]]:
    """The ``metrics`` of the representations in ``path``; ``pool`` says how several rows of an image are read.

    Returns:
        The item, and notes for the user.

    Raises:
        SSLToolError: if the file is unreadable, holds no representations or another layer's, or cannot be measured.
    """
    entries = read_entries(path)
    if entries.get("format") == Checkpoint.FORMAT:
        raise SSLToolError(
            f"{path} is a checkpoint; give its run folder with --checkpoints, or representations (ssltool save-reprs)"
        )
    stored = Representations.of(entries, path, pool)
    meta = stored.meta
    if (meta.get("layer") or layer) != layer:
        raise SSLToolError(
            f"{path} holds outputs of the {meta['layer']}, but --layer is {layer}; rank one layer at a time"
        )
    rows = Rows([stored.representations], labels=[stored.targets], name=path)
    measured = measure(rows, metrics, bound=meta.get("directions"), tokens=tokens_of([path], [stored], metrics))
    origin = dict(meta)
    if meta.get("random"):
        origin |= {"method": "untrained", "epoch": None}
    elif meta.get("epoch") is not None:
        origin["epoch"] = meta["epoch"] - 1
    values = {f"{layer}_{name}": value for name, value in measured.metrics.items()}
    checkpoint_hash = None if meta.get("random") else meta.get("checkpoint_hash")
    notes = [f"{path}: {note}" for note in measured.notes]
    settings = {key: origin[key] for key in OF_FILES if key in origin}
    return RankedItem(path, origin, settings, values, values, checkpoint_hash=checkpoint_hash), notes


def assign_display_names(items: Sequence[RankedItem]) -> None:
    """Gives each item a short name that no other item has."""
    paths = [str(Path(item.path) / "untrained") if item.untrained else item.path for item in items]
    for item, name in zip(items, display_names(paths), strict=True):
        item.display_name = name


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else float(value)
