"""Diagnoses a run folder of ``pretrain`` from the monitor's records: since when, which layer, the probable cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ssltool.checkpoints.build import outline_method
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.checkpoints.setting_names import stage_of
from ssltool.config import LAYERS
from ssltool.config.fields import STATES
from ssltool.diagnosis.monitor import UNKNOWN_CAUSE
from ssltool.diagnosis.verdict import NEEDED
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.models.outputs import Features
from ssltool.runs.folder import RunFolder
from ssltool.runs.run_table import is_after_epoch
from ssltool.settings import Record
from ssltool.stages.diagnose.findings import find
from ssltool.stages.diagnose.findings.finding import NOTE, Finding
from ssltool.stages.diagnose.keep import Candidate, choose
from ssltool.stages.diagnose.known_losses import KnownLoss, constants
from ssltool.stages.diagnose.monitored_layers import Looks, MonitoredLayer, layer_findings
from ssltool.stages.diagnose.reference_ranges import reference_range
from ssltool.stages.diagnose.series import Curve, Series
from ssltool.stages.diagnose.tested_advice import on_parts

OF_SCALE = ("mean_norm", "coding_rate")
"""Metrics that see the scale of the outputs, which those of a verdict do not, where they were recorded."""


@dataclass(frozen=True)
class DiagnosedRun:
    """The findings in a run folder or the folder of a monitor, and the checkpoint to keep.

    Attributes:
        read: what the folder holds.
        unit, at: the epochs or steps of the records.
        series: the losses; None if there are none.
        monitored: the number of records with a verdict.
    """

    read: str
    unit: str
    at: Sequence[float]
    series: Series | None
    findings: list[Finding]
    keep: Record
    monitored: int


def diagnose_run(path: Path) -> DiagnosedRun:
    """The diagnosis of the run folder ``path``.

    Raises:
        SSLToolError: if it is no run folder of pretrain, has no records yet, or its method is unknown.
    """
    folder = RunFolder(path)
    settings, records = folder.read_config(), folder.read_metrics()
    stage = stage_of(settings)
    if stage != "pretrain":
        raise SSLToolError(f"{path} is a run folder of {stage}; diagnose reads those of pretrain")
    if not records:
        raise SSLToolError(f"{path} has no completed epoch yet; train longer")
    run = SavedRun.read(settings, folder.config)
    method = outline_method(run).eval()
    series = _series(path, method, records)
    findings = [*layer_findings(_looks(method, run, records)), *find(series), *_unusual(run, records)]
    findings.sort(key=lambda finding: -STATES.index(finding.state))
    monitored = sum(record.get("verdict") is not None for record in records)
    epochs = [record["epoch"] + 1 for record in records]
    return DiagnosedRun(series.program, "epoch", epochs, series, findings, _keep(folder, records), monitored)


def _series(path: Path, method: Method, records: Sequence[Record]) -> Series:
    epochs = [record["epoch"] + 1 for record in records]

    def curve(name: str, known: tuple[KnownLoss, ...] = ()) -> Curve:
        missing = float("nan") if name == "loss" else None  # a loss that is not finite is saved as null
        return Curve.of(epochs, [_number(record.get(name), missing) for record in records], known)

    names = dict.fromkeys(name for record in records for name in record)
    terms = {name: curve(name) for name in names if name.endswith("_loss")}
    rate = curve("lr") if "lr" in names else None
    return Series(
        str(path),
        "run folder of ssltool",
        "epoch",
        curve("loss", constants(method.constant_output_losses)),
        "loss",
        rate,
        terms,
        is_ours=True,
    )


def _number(value: Any, missing: float | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else missing


def _looks(method: Method, run: SavedRun, records: Sequence[Record]) -> Looks:
    """The records of the monitor, with the causes that the method knows."""
    records = [record for record in records if "verdict" in record]
    device = next(method.parameters()).device
    monitored = [name for name in LAYERS if any(record.get(f"{name}_auc") is not None for record in records)]
    layers = {
        name: MonitoredLayer(
            Features(method, name).shape(run.backbone.image_size, torch.device(device))[-1], method.max_rank(name)
        )
        for name in monitored
    }
    n = int(run.settings.get("monitor_size") or max((layer.width for layer in layers.values()), default=1) + 1)

    def causes(record: Record) -> tuple[list[str], str, str]:
        known = [cause for cause, present in method.collapse_causes().items() if present]
        loss = _number(record.get("loss"), None)
        found = list(dict.fromkeys([*known, *method.probable_causes(float("nan") if loss is None else loss)]))
        if not known:
            return found, "", ""
        advice = f"train with the part that the settings leave out: {'; '.join(known)}"
        return found, advice, on_parts(known)

    at = [float(record["epoch"] + 1) for record in records]
    return Looks("epoch", records, at, n, layers, causes, UNKNOWN_CAUSE.format("a lower --lr"))


def _unusual(run: SavedRun, records: Sequence[Record]) -> list[Finding]:
    """A note on metrics of the last check that are outside of those of our own runs of this method and architecture."""
    last = next((record for record in reversed(records) if record.get("verdict") is not None), None)
    if last is None:
        return []
    said: list[str] = []
    evidence: dict[str, float | str] = {}
    for name in (f"{layer}_{metric}" for layer in LAYERS for metric in (*NEEDED, *OF_SCALE)):
        value, normal = last.get(name), reference_range(run.settings, name)
        if normal is not None and value is not None and not normal.contains(value):
            said.append(f"{name} is {value:.3g} (normal: {normal})")
            evidence[name] = float(value)
    line = f"unusual for this method, network and number of images: {'; '.join(said)}"
    return [Finding("unusual", NOTE, line, float(last["epoch"] + 1), evidence)] if said else []


def _keep(folder: RunFolder, records: Sequence[Record]) -> Record:
    """The checkpoint to keep, of those whose epoch was monitored."""
    kept = folder.kept()
    if records[-1]["epoch"] not in kept and folder.newest.exists() and is_after_epoch(folder.newest, records[-1]):
        kept[records[-1]["epoch"]] = folder.newest
    by_epoch = {record["epoch"]: record for record in records}
    of_files = [(file, epoch, by_epoch.get(epoch, {})) for epoch, file in kept.items()]
    return choose(
        [Candidate(str(file), r.get("verdict"), r.get("backbone_knn"), epoch + 1) for file, epoch, r in of_files]
    )
