"""What can be ranked: run folders with the monitor's records, their kept checkpoints, and files of representations."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import stage_of
from ssltool.config import LAYERS
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.row_blocks import Rows
from ssltool.errors import SSLToolError
from ssltool.files import file_hash, load_dict
from ssltool.reprs.representations import Representations
from ssltool.runs.display_names import labels
from ssltool.runs.folder import RunFolder

KEYS = [f"{layer}_{metric}" for layer in LAYERS for metric in METRICS]
"""What the monitor may record."""


@dataclass
class Candidate:
    """A run at one epoch, a kept checkpoint, or a file of representations.

    ``metrics`` go by layer and name (``backbone_auc``), NaN where there was nothing to measure; ``origin`` is what the
    run or file says of itself, with ``epoch`` counted from 0. ``checkpoint`` is the file of that epoch, where it is
    kept, and ``checkpoint_hash`` what a file of representations says of the checkpoint behind it.
    """

    path: str
    origin: dict[str, Any]
    metrics: dict[str, float]
    verdict: str | None = None
    accuracy: float | None = None
    checkpoint: Path | None = None
    checkpoint_hash: str | None = None
    label: str = ""

    def value(self, layer: str, metric: str) -> float:
        """One of its metrics; raises ``SSLToolError`` where it has none."""
        key = f"{layer}_{metric}"
        if key not in self.metrics:
            raise SSLToolError(
                f"{self.path} has no {key}, only {', '.join(self.metrics)}; choose among these, or give a file of the "
                f"{layer}'s representations instead (ssltool save-reprs)"
            )
        return self.metrics[key]

    def source_hash(self) -> str | None:
        """The hash of the checkpoint that it stands for, if that is known."""
        return file_hash(self.checkpoint) if self.checkpoint is not None else self.checkpoint_hash

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called in a table: its path as given, then shorter."""
        return self.path, self.label, Path(self.path).name


def sort_out(items: Sequence[str], *, checkpoints: bool) -> tuple[list[str], list[str], list[str]]:
    """The run folders of pretrain, the files, and the run folders of lincls among ``items``; those of finetune and
    scan are left out.

    Raises:
        SSLToolError: for a path that does not exist or is given twice, or if nothing is left to rank; with
            ``checkpoints``, if there is no run folder.
    """
    paths = [Path(item) for item in items]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise SSLToolError(f"no such run folder or file: {missing[0]}")
    resolved = [path.resolve() for path in paths]
    twice = [path for path, one in zip(paths, resolved, strict=True) if resolved.count(one) > 1]
    if twice:
        raise SSLToolError(f"{twice[0]} is given twice; name it once")
    settings = {path: RunFolder(path).read_config() for path in paths if path.is_dir()}
    stages = {path: stage_of(own) for path, own in settings.items()}
    probes = [path for path, stage in stages.items() if stage == "lincls"]
    folders = [path for path, stage in stages.items() if stage == "pretrain"]
    files = [path for path in paths if not path.is_dir()]
    if not folders and not files:
        raise SSLToolError("name at least one run folder of pretrain or file of representations to rank")
    if checkpoints and not folders:
        raise SSLToolError("--checkpoints does nothing without a run folder; leave it out")
    return list(map(str, folders)), list(map(str, files)), list(map(str, probes))


def of_run(path: str, *, checkpoints: bool) -> tuple[list[Candidate], list[str]]:
    """A run at its last monitored epoch, or with ``checkpoints`` each of its kept ones; and what is to be said of it.

    Raises:
        SSLToolError: if the folder holds no run, no epoch of it was monitored, or none whose checkpoint is kept.
    """
    folder = RunFolder(Path(path))
    settings, records = folder.read_config(), folder.read_metrics()
    monitored = {record["epoch"]: record for record in records if any(key in record for key in KEYS)}
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
            found = f"of epochs {', '.join(map(str, kept))}, none of them monitored" if kept else "none"
            raise SSLToolError(
                f"{path}: kept checkpoints: {found}; --checkpoints needs a --monitor-every that divides --save-every"
            )
        if len(epochs) < len(kept):
            notes.append(f"{path}: {len(kept) - len(epochs)} kept checkpoints were not monitored and are left out")
    elif epochs[0] not in kept and epochs[0] == records[-1]["epoch"] and folder.newest.exists():
        kept[epochs[0]] = folder.newest
    return [
        Candidate(
            str(kept[epoch]) if checkpoints else path,
            {**settings, **monitored[epoch]},
            {key: _number(monitored[epoch][key]) for key in KEYS if key in monitored[epoch]},
            verdict=monitored[epoch].get("verdict"),
            accuracy=monitored[epoch].get("backbone_knn"),
            checkpoint=kept.get(epoch),
        )
        for epoch in epochs
    ], notes


def of_file(path: str, layer: str, metrics: Sequence[str]) -> tuple[Candidate, list[str]]:
    """Representations with these ``metrics``, measured now; and what may mislead in them.

    Raises:
        SSLToolError: if the file is unreadable, no representations or another layer's, or cannot be measured.
    """
    if load_dict(path, mmap=True).get("format") == Checkpoint.FORMAT:
        raise SSLToolError(
            f"{path} is a checkpoint; give its run folder with --checkpoints, or representations (ssltool save-reprs)"
        )
    stored = Representations.stored(path)
    meta = stored.meta
    if meta.get("layer", layer) != layer:
        raise SSLToolError(
            f"{path} holds outputs of the {meta['layer']}, and --layer is {layer}; rank one layer at a time"
        )
    found = measure(Rows([stored.representations], name=path), metrics)
    origin = dict(meta)
    if meta.get("random"):
        origin |= {"method": "untrained", "epoch": None}
    elif meta.get("epoch") is not None:
        origin["epoch"] = meta["epoch"] - 1
    values = {f"{layer}_{name}": value for name, value in found.metrics.items()}
    trained = None if meta.get("random") else meta.get("checkpoint_hash")
    return Candidate(path, origin, values, checkpoint_hash=trained), [f"{path}: {note}" for note in found.notes]


def give_labels(candidates: Sequence[Candidate]) -> None:
    """Gives each a short name that no other has."""
    paths = [one.path if Path(one.path).name not in ("", "..") else os.path.abspath(one.path) for one in candidates]
    for one, name in zip(candidates, labels(paths), strict=True):
        one.label = name


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
