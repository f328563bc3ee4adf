"""Diagnoses a run folder of ``pretrain`` from the monitor's records: since when, which layer, the probable cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssltool.checkpoints.build import outline_method
from ssltool.checkpoints.saved_run import SavedRun, stage_of
from ssltool.config import LAYERS
from ssltool.config.fields import STATES
from ssltool.diagnosis.alarms import DEAD_KEY, judge_look, uniform_losses
from ssltool.diagnosis.kinds import KINDS, shown
from ssltool.diagnosis.monitor import UNKNOWN_CAUSE
from ssltool.diagnosis.verdict import NEEDED, Verdict
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.models.outputs import Features
from ssltool.runs.folder import RunFolder
from ssltool.settings import Record
from ssltool.stages.diagnose.findings import find
from ssltool.stages.diagnose.findings.finding import NOTE, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.keep import Candidate, choose
from ssltool.stages.diagnose.known_losses import CONSTANT, UNCORRELATED, UNIFORM, KnownLoss
from ssltool.stages.diagnose.reference_ranges import reference_range
from ssltool.stages.diagnose.series import Curve, Series

TESTED = "each method with and without this part, 3 epochs on the bundled images (docs/methods.md)"

TEACHER_NUMBERS = KINDS["stale-teacher"].numbers

RANK_FELL = 0.8
"""An effective rank below this share of its largest value has fallen."""


@dataclass(frozen=True)
class DiagnosedRun:
    """The findings in a run folder, its losses, and the checkpoint to keep."""

    series: Series
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
    layers = _judged_layers(method, run, records)
    found = [finding for name, verdicts in layers.items() for finding in _in_layer(name, verdicts, method, records)]
    findings = [*found, *_of_teacher(records), *find(series), *_compression(records, found), *_unusual(run, records)]
    findings.sort(key=lambda finding: -STATES.index(finding.state))
    monitored = sum(record.get("verdict") is not None for record in records)
    return DiagnosedRun(series, findings, _keep(folder, records), monitored)


def _series(path: Path, method: Method, records: Sequence[Record]) -> Series:
    constants = method.constant_output_losses
    uniform = uniform_losses(constants)
    known = tuple(
        KnownLoss(value, f"{value:.4g}", UNIFORM if value in uniform else UNCORRELATED if value > 0 else CONSTANT)
        for value in constants
    )
    epochs = [record["epoch"] + 1 for record in records]

    def curve(name: str, known: tuple[KnownLoss, ...] = ()) -> Curve:
        missing = float("nan") if name == "loss" else None  # a loss that is not finite is saved as null
        return Curve.of(epochs, [_number(record.get(name), missing) for record in records], known)

    names = dict.fromkeys(name for record in records for name in record)
    terms = {name: curve(name) for name in names if name.endswith("_loss")}
    rate = curve("lr") if "lr" in names else None
    return Series(str(path), "run folder of ssltool", "epoch", curve("loss", known), "loss", rate, terms, is_ours=True)


def _number(value: Any, missing: float | None) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else missing


def _judged_layers(method: Method, run: SavedRun, records: Sequence[Record]) -> dict[str, dict[int, Verdict]]:
    """The verdict on each layer that was monitored, by the index of its record."""
    judged: dict[str, dict[int, Verdict]] = {}
    device = next(method.parameters()).device
    for name in LAYERS:
        rows = {i: record for i, record in enumerate(records) if _has_metrics(record, name)}
        if not rows:
            continue
        width = Features(method, name).shape(run.backbone.image_size, torch.device(device))[-1]
        n, bound = int(run.settings.get("monitor_size") or width + 1), method.max_rank(name)
        judged[name] = {
            i: judge_look(name, _values(record, name), n=n, d=width, bound=bound) for i, record in rows.items()
        }
    return judged


def _values(record: Record, layer: str) -> dict[str, float]:
    """The metrics and numbers of a layer. Records of earlier versions have no dead dimensions."""
    start = f"{layer}_"
    known = {key.removeprefix(start): value for key, value in record.items() if key.startswith(start)}
    return {DEAD_KEY: 0.0} | {key: float(value) for key, value in known.items() if value is not None}


def _has_metrics(record: Record, layer: str) -> bool:
    return all(record.get(f"{layer}_{metric}") is not None for metric in NEEDED)


def _in_layer(name: str, verdicts: dict[int, Verdict], method: Method, records: Sequence[Record]) -> list[Finding]:
    """The collapse of a layer, from the epoch on since which it lasts; or a note on one that it recovered from."""
    order = list(verdicts)
    wrong = [i for i in order if verdicts[i].severity]
    if not wrong:
        return []
    last, stretch = order[-1], last_stretch(np.array([verdicts[i].severity > 0 for i in order]))
    if stretch is None:
        epochs = f"{len(wrong)} of {len(order)} monitored epochs, the last of them {records[wrong[-1]]['epoch'] + 1}"
        line = f"the {name} was judged collapsed in {epochs}, and is healthy at the end"
        return [Finding("recovered", NOTE, line, float(records[wrong[0]]["epoch"] + 1))]
    first = order[stretch[0]]
    since, verdict = float(records[first]["epoch"] + 1), verdicts[last]
    known = [cause for cause, present in method.collapse_causes().items() if present]
    causes = list(dict.fromkeys([*known, *method.probable_causes(float(records[last]["loss"] or "nan"))]))
    dead = [records[i].get(f"{name}_{DEAD_KEY}") or 0 for i in (order[0], last)]
    if dead[1] > dead[0]:
        causes.append(f"dead dimensions of the {name}: {dead[1]:.0f}, in the first check {dead[0]:.0f}")
    line = f"the {name} shows {verdict.line}; since epoch {since:g}"
    if first == order[0]:
        line += ", the first that was monitored"
    evidence: dict[str, float | str] = {metric: records[last][f"{name}_{metric}"] for metric in NEEDED}
    evidence["layer"] = name
    advice = f"train with the part that the settings leave out: {'; '.join(known)}" if known else ""
    return [
        Finding(
            f"{verdict.state}-collapse",
            verdict.state,
            line,
            since,
            evidence,
            "; ".join(causes) or UNKNOWN_CAUSE.format("a lower --lr"),
            advice,
            TESTED if known else "",
            tuple(kind.kind for kind in verdict.kinds),
        )
    ]


def _of_teacher(records: Sequence[Record]) -> list[Finding]:
    """What the weights of teacher and student showed at the end, since the epoch from which on they show it."""
    looks = [record for record in records if record.get("teacher_move") is not None]
    shown_at = [{kind.kind: kind for kind in shown({n: record[n] for n in TEACHER_NUMBERS})} for record in looks]
    found = []
    for name, kind in shown_at[-1].items() if looks else ():
        stretch = last_stretch(np.array([name in kinds for kinds in shown_at]))
        since = float(looks[stretch[0] if stretch else -1]["epoch"] + 1)
        found.append(Finding(name, kind.state, f"{kind.why[0]}; since epoch {since:g}", since, dict(kind.numbers)))
    return found


def _compression(records: Sequence[Record], found: Sequence[Finding]) -> list[Finding]:
    """A note on an effective rank that fell while every verdict stayed healthy. A slope alone is no fault."""
    ranks = [(r["epoch"] + 1, r["backbone_effective_rank"]) for r in records if r.get("backbone_effective_rank")]
    if len(ranks) < 3 or any(finding.state != NOTE for finding in found):
        return []
    at, largest = max(ranks, key=lambda pair: float(pair[1]))
    epoch, last = ranks[-1]
    if last >= RANK_FELL * largest:
        return []
    line = (
        f"the effective rank of the backbone fell from {largest:.3g} at epoch {at} to {last:.3g} at epoch {epoch}; the "
        "verdict is healthy, and healthy networks compress late in training too"
    )
    return [Finding("rank-fell", NOTE, line, float(at), {"largest": float(largest), "last": float(last)})]


def _unusual(run: SavedRun, records: Sequence[Record]) -> list[Finding]:
    """A note on metrics of the last check that are outside of those of our own runs of this method and architecture."""
    last = next((record for record in reversed(records) if record.get("verdict") is not None), None)
    if last is None:
        return []
    said: list[str] = []
    evidence: dict[str, float | str] = {}
    for name in (f"{layer}_{metric}" for layer in LAYERS for metric in NEEDED):
        value, normal = last.get(name), reference_range(run.settings, name)
        if normal is not None and value is not None and not normal.contains(value):
            said.append(f"{name} is {value:.3g} (normal: {normal})")
            evidence[name] = float(value)
    line = f"unusual for this method, network and number of images: {'; '.join(said)}"
    return [Finding("unusual", NOTE, line, float(last["epoch"] + 1), evidence)] if said else []


def _keep(folder: RunFolder, records: Sequence[Record]) -> Record:
    """The checkpoint to keep, of those whose epoch was monitored."""
    kept = {int(file.stem[11:]): file for file in sorted(folder.path.glob("checkpoint_[0-9]*.pt"))}
    if records[-1]["epoch"] not in kept and folder.newest.exists():
        kept[records[-1]["epoch"]] = folder.newest
    by_epoch = {record["epoch"]: record for record in records}
    of_files = [(file, epoch, by_epoch.get(epoch, {})) for epoch, file in kept.items()]
    return choose(
        [
            Candidate(str(file), r.get("verdict"), r.get("backbone_knn"), r.get("backbone_effective_rank"), epoch + 1)
            for file, epoch, r in of_files
        ]
    )
