"""The items that ``rank`` orders: run folders with the monitor's records, their kept checkpoints, and files of
representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import stage_of
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.token_blocks import tokens_of
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash, require
from ssltool.reprs.readers import read_entries
from ssltool.reprs.representations import Representations
from ssltool.runs import monitor_folder
from ssltool.runs.display_names import display_names
from ssltool.runs.folder import RunFolder
from ssltool.settings import Settings


@dataclass
class RankedItem:
    """A run at one epoch, a monitored training at one step, a kept checkpoint, or a file of representations.

    Attributes:
        path: the run folder or file.
        origin: the settings of the run, or the metadata of the file, with ``epoch`` counted from 0.
        metrics: values by layer and name (``backbone_auc``), NaN where a metric is undefined.
        verdict: the monitor's verdict at this epoch, or None.
        accuracy: the accuracy in [0, 1] to compare with, or None.
        checkpoint: the checkpoint file of this epoch, or None if it was not kept.
        checkpoint_hash: for a file of representations, the hash of the checkpoint that they were computed with.
        display_name: a short name that differs from the other items'.
    """

    path: str
    origin: Settings
    metrics: dict[str, float]
    verdict: str | None = None
    accuracy: float | None = None
    checkpoint: Path | None = None
    checkpoint_hash: str | None = None
    display_name: str = ""

    def value(self, layer: str, metric: str) -> float:
        """The value of one metric; raises ``SSLToolError`` if the item does not have it."""
        key = f"{layer}_{metric}"
        if key not in self.metrics:
            raise SSLToolError(
                f"{self.path} has no {key}, only {', '.join(self.metrics)}; choose one of these, or give a file of the "
                f"{layer}'s representations instead (ssltool save-reprs)"
            )
        return self.metrics[key]

    def source_hash(self) -> str | None:
        """The hash of the item's checkpoint, or None if it is not known."""
        return file_hash(self.checkpoint) if self.checkpoint is not None else self.checkpoint_hash

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a table of accuracies may use: the path as given, then shorter ones."""
        return self.path, self.display_name, Path(self.path).name


def split_items(items: Sequence[str], *, checkpoints: bool) -> tuple[list[str], list[str], list[str]]:
    """Splits ``items`` into run folders of pretrain and folders of monitors, files, and run folders of lincls. Run
    folders of finetune and scan, whose settings have ``stage``, are ignored.

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
    probes = [path for path, stage in stages.items() if stage == "lincls"]
    folders = [path for path, stage in stages.items() if stage in ("pretrain", monitor_folder.STAGE)]
    files = [path for path in paths if not path.is_dir()]
    if not folders and not files:
        raise SSLToolError("name at least one run folder of pretrain or file of representations to rank")
    if checkpoints and not folders:
        raise SSLToolError("--checkpoints does nothing without a run folder; leave it out")
    return list(map(str, folders)), list(map(str, files)), list(map(str, probes))


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
    kept = {int(file.stem[11:]): file for file in sorted(folder.path.glob("checkpoint_[0-9]*.pt"))}
    epochs, notes = [max(monitored)], []
    if checkpoints:
        epochs = [epoch for epoch in kept if epoch in monitored]
        if not epochs:
            found = f"of epochs {', '.join(str(epoch + 1) for epoch in kept)}, none monitored" if kept else "none"
            raise SSLToolError(
                f"{path}: kept checkpoints: {found}; --checkpoints needs a --monitor-every that divides --save-every"
            )
        if len(epochs) < len(kept):
            notes.append(f"{path}: {len(kept) - len(epochs)} kept checkpoints were not monitored and are left out")
    elif epochs[0] not in kept and epochs[0] == records[-1]["epoch"] and folder.newest.exists():
        kept[epochs[0]] = folder.newest
    return [
        RankedItem(
            str(kept[epoch]) if checkpoints else path,
            {**settings, **monitored[epoch]},
            recorded_metrics(monitored[epoch]),
            verdict=monitored[epoch].get("verdict"),
            accuracy=monitored[epoch].get("backbone_knn"),
            checkpoint=kept.get(epoch),
        )
        for epoch in epochs
    ], notes


def _read_monitored(path: str, *, checkpoints: bool) -> list[RankedItem]:
    """The training that a monitor watched, at its last look."""
    folder = monitor_folder.MonitorFolder(Path(path))
    if checkpoints:
        raise SSLToolError(f"{path} is the folder of a monitor, without checkpoints; leave --checkpoints or it out")
    looks = [record for record in folder.records if recorded_metrics(record)]
    if not looks:
        raise SSLToolError(f"{path} has no look of a monitor; the first is at step 0 of the training")
    last, first_layer = looks[-1], folder.settings["layers"][0]
    return [
        RankedItem(
            path,
            folder.settings | last,
            recorded_metrics(last),
            verdict=last.get("verdict"),
            accuracy=last.get(f"{first_layer}_knn"),
        )
    ]


def recorded_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that the monitor recorded in an epoch, by layer and name."""
    ends = tuple(f"_{metric}" for metric in METRICS)
    return {key: _nan_if_none(value) for key, value in record.items() if key.endswith(ends)}


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
    measured = measure(rows, metrics, bound=meta.get("directions"), tokens=tokens_of([path], [stored]))
    origin = dict(meta)
    if meta.get("random"):
        origin |= {"method": "untrained", "epoch": None}
    elif meta.get("epoch") is not None:
        origin["epoch"] = meta["epoch"] - 1
    values = {f"{layer}_{name}": value for name, value in measured.metrics.items()}
    checkpoint_hash = None if meta.get("random") else meta.get("checkpoint_hash")
    notes = [f"{path}: {note}" for note in measured.notes]
    return RankedItem(path, origin, values, checkpoint_hash=checkpoint_hash), notes


def assign_display_names(items: Sequence[RankedItem]) -> None:
    """Gives each item a short name that no other item has."""
    for item, name in zip(items, display_names([item.path for item in items]), strict=True):
        item.display_name = name


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else float(value)
