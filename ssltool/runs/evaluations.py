"""Accuracies that later stages measured of the checkpoints of runs: linear probes, fine-tuned networks and clusters.

Each result names the checkpoint by the hash of its file, so it is found again wherever the files are.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.probe import Probe
from ssltool.errors import SSLToolError, counted
from ssltool.files.schema import ANYTHING, conform, mapping
from ssltool.reprs.clusters_file import Clusters
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.settings import Record

PROTOCOL = {
    "lincls": (
        *("features", "optimizer", "epochs", "batch_size", "labels_fraction", "val_size", "image_size"),
        *("layer", "tokens", "pool"),
    ),
    "finetune": ("optimizer", "epochs", "batch_size", "lr", "layer_decay", "labels_fraction", "image_size"),
    "scan": ("clusters", "neighbours", "seed", "scored_on"),
}
"""The settings that results of a stage must share to be comparable."""

FINISHED = mapping({"acc1": ANYTHING, "random": ANYTHING}, other=ANYTHING)
"""The metrics of a probe that is trained to the end."""


@dataclass(frozen=True)
class Evaluation:
    """What a run folder of a later stage measured of a checkpoint.

    Attributes:
        path: the run folder.
        stage: lincls, finetune or scan.
        checkpoint: the path of the checkpoint as it was given, or a description of what has no checkpoint.
        checkpoint_hash: the hash of its file; None for an untrained network and for unknown representations.
        accuracies: accuracies in [0, 1] by name.
        protocol: the settings in ``PROTOCOL``.
        note: what is unusual, empty if nothing is.
    """

    path: str
    stage: str
    checkpoint: str
    checkpoint_hash: str | None
    accuracies: dict[str, float]
    protocol: Record
    note: str = ""


def finished_probe(folder: Path) -> Record:
    """The metrics of the linear probe in a run folder of lincls.

    Raises:
        SSLToolError: if there is no probe, or it is not trained to the end.
    """
    metrics = Probe.load(folder / PROBE).metrics
    if "checkpoint_hash" not in metrics:
        raise SSLToolError(f"{folder}: the probe is not trained to the end; run ssltool lincls again")
    conform({"metrics": metrics}, mapping({"metrics": FINISHED}), folder / PROBE)
    return metrics


def read_evaluations(path: str, stage: str) -> list[Evaluation]:
    """The results in the run folder ``path`` of a ``stage`` in ``PROTOCOL``.

    Raises:
        SSLToolError: if there is no result, or it cannot be read.
    """
    found = _READERS[stage](path)
    if not found:
        raise SSLToolError(f"{path}: {stage} has no result yet; run it to the end")
    return found


def _of_lincls(path: str) -> list[Evaluation]:
    metrics = finished_probe(Path(path))
    digest = None if metrics["random"] else metrics["checkpoint_hash"]
    checkpoint = "an untrained network" if metrics["random"] else str(metrics.get("checkpoint") or "unknown")
    protocol = {name: metrics.get(name) for name in PROTOCOL["lincls"]}
    return [Evaluation(path, "lincls", checkpoint, digest, {"linear_acc1": float(metrics["acc1"])}, protocol)]


def _of_finetune(path: str) -> list[Evaluation]:
    folder = RunFolder(Path(path), "finetune")
    settings = folder.read_config()
    origin = _origin(settings)
    arms: dict[str, list[float]] = {}
    for record in folder.read_metrics():
        if isinstance(record.get("acc1"), (int, float)):
            arms.setdefault(str(record.get("arm")), []).append(record["acc1"])
    names = {"pretrained": "finetuned_acc1", "scratch": "scratch_acc1"}
    accuracies = {names[arm]: statistics.fmean(values) for arm, values in arms.items() if arm in names}
    if not accuracies:
        return []
    protocol = {name: settings.get(name) for name in PROTOCOL["finetune"]}
    fewest, seeds = min(map(len, arms.values())), settings.get("seeds", 1)
    note = f"the mean of {fewest} of {counted(seeds, 'seed')}: the others are not trained yet" if fewest < seeds else ""
    digest = None if origin.get("random") else origin.get("checkpoint_hash")
    return [Evaluation(path, "finetune", str(origin.get("checkpoint")), digest, accuracies, protocol, note)]


def _of_scan(path: str) -> list[Evaluation]:
    folder = RunFolder(Path(path), "scan")
    settings = folder.read_config()
    mined, clustered = folder.path / "neighbours.pt", folder.path / "clusters.pt"
    found = []
    for name in ("kmeans", "cluster", "selflabel"):
        file = folder.path / f"assignments_{name}.pt"
        if not file.exists():
            continue
        meta = Clusters.load(file).meta
        if meta.get("accuracy") is None:
            continue
        if name == "kmeans" or not clustered.exists():
            network = Neighbours.load(mined).meta if mined.exists() else {}
        else:
            network = _origin(Checkpoint.load(clustered).config)
        digest = None if network.get("random") else network.get("checkpoint_hash")
        protocol = {key: meta.get(key, settings.get(key)) for key in PROTOCOL["scan"]}
        accuracies = {f"scan_{name}_accuracy": float(meta["accuracy"])}
        source = str(settings.get("pretrained") or settings.get("reprs"))
        found.append(Evaluation(path, "scan", source, digest, accuracies, protocol))
    return found


_READERS: dict[str, Callable[[str], list[Evaluation]]] = {
    "lincls": _of_lincls,
    "finetune": _of_finetune,
    "scan": _of_scan,
}


def _origin(settings: Record) -> Record:
    origin = settings.get("network")
    return origin if isinstance(origin, dict) else {}


def accuracies_of(
    evaluations: Sequence[Evaluation], hashes: Sequence[str | None]
) -> tuple[list[dict[str, float]], list[str]]:
    """For each of the checkpoint ``hashes``, the accuracies of its ``evaluations`` by name, and notes.

    Where the results of a stage differ in their protocol, the names hold what differs: ``linear_acc1 (epochs 10)``.
    The second result of one name has the name with a number.
    """
    rows: list[dict[str, float]] = [{} for _ in hashes]
    notes = [f"{one.path}: {one.note}" for one in evaluations if one.note]
    for one in evaluations:
        places = [i for i, digest in enumerate(hashes) if digest is not None and digest == one.checkpoint_hash]
        if not places:
            notes.append(f"{one.path} ({one.stage} of {one.checkpoint}) belongs to none of the rows")
        suffix = _differences(one, evaluations)
        for name, value in one.accuracies.items():
            for place in places:
                rows[place][_unused(name + suffix, rows[place])] = value
    return rows, notes


def _differences(one: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    same = [other for other in evaluations if other.stage == one.stage and other.accuracies.keys() & one.accuracies]
    keys = [key for key in PROTOCOL[one.stage] if len({str(other.protocol.get(key)) for other in same}) > 1]
    return f" ({', '.join(f'{key} {_text(one.protocol.get(key))}' for key in keys)})" if keys else ""


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unused(name: str, taken: dict[str, float]) -> str:
    number, result = 2, name
    while result in taken:
        number, result = number + 1, f"{name} ({number})"
    return result
