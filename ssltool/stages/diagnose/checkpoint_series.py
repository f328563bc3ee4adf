"""Measures a series of checkpoints of any layout on the same images, beside an untrained network."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.checkpoints.load_several import network_settings, order_of_epochs, sampled_images
from ssltool.config import DiagnoseConfig, SaveReprsConfig
from ssltool.config.fields import STATES
from ssltool.data.images import ImageSet
from ssltool.diagnosis.kinds import metrics_of, ratios
from ssltool.diagnosis.layer_metrics import MEASURED, knn_accuracy
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.monitor import UNKNOWN_CAUSE
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.verdict import NEEDED, judge_measured
from ssltool.errors import SSLToolError
from ssltool.reprs.extract import Extraction
from ssltool.settings import Record
from ssltool.stages.diagnose.findings.finding import NOTE, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.keep import Candidate, choose
from ssltool.stages.diagnose.monitored_layers import LOWER_RATE, NOT_FINITE_CAUSE
from ssltool.stages.diagnose.teacher_copy import TeacherAndStudent, compare_teacher, teacher_findings
from ssltool.stages.diagnose.tested_advice import RATE
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.ranks import ALONE, Ranks

UNTRAINED = "untrained"

NOT_FINITE = "weights or outputs are NaN or infinite"


@dataclass
class DiagnosedCheckpoints:
    """The ``rows`` of the checkpoints, the untrained network first, the ``findings``, and the checkpoint to ``keep``.
    ``images`` says on which images they were measured."""

    rows: list[Record]
    findings: list[Finding]
    keep: Record
    images: str
    notes: list[str] = field(default_factory=list)


def diagnose_checkpoints(paths: Sequence[str], config: DiagnoseConfig, ranks: Ranks = ALONE) -> DiagnosedCheckpoints:
    """The diagnosis of the checkpoints ``paths``, in the order of their epochs if all are known, else as given.

    Raises:
        SSLToolError: for a checkpoint or images that cannot be used.
    """
    with ranks.same_errors():
        device = pick_device(config, local_rank=distributed.local_rank())
        settings = [network_settings(config, path, SaveReprsConfig) for path in paths]
        networks = [load_pretrained(one, device, ranks=True) for one in settings]
        images = sampled_images(settings[0], config, networks[0], ranks)
        order, known = order_of_epochs([network.origin["epoch"] for network in networks])
        random = dataclasses.replace(settings[0], random=True)
        untrained = load_pretrained(random, device, seed=config.seed, ranks=True)
    rows = [_row(UNTRAINED, untrained, images, config, device, ranks)]
    rows += [_row(paths[i], networks[i], images, config, device, ranks, rows[0]) for i in order]
    return ranks.from_main(lambda: _diagnosed([paths[i] for i in order], rows, images, known))


def _diagnosed(paths: Sequence[str], rows: list[Record], images: ImageSet, known: bool) -> DiagnosedCheckpoints:
    """The findings in the ``rows`` of the untrained network and of the checkpoints ``paths``."""
    teachers = _teachers(paths)
    findings = [
        *collapse_findings(rows[1:], known),
        *teacher_findings(teachers, {row["path"]: row["epoch"] for row in rows[1:]}),
        *_against_untrained(rows),
    ]
    findings.sort(key=lambda finding: -STATES.index(finding.state))
    keep = choose([Candidate(r["path"], r["verdict"], r["knn"], r["epoch"]) for r in rows[1:]])
    notes = [f"{row['path']}: {note}" for row in rows for note in row.pop("notes") if row["path"] != UNTRAINED]
    where = f"{len(images):,} images of {images.name} {images.split}"
    return DiagnosedCheckpoints(rows, findings, keep, where, notes)


def _row(
    path: str,
    network: Pretrained,
    images: ImageSet,
    config: DiagnoseConfig,
    device: torch.device,
    ranks: Ranks,
    untrained: Record | None = None,
) -> Record:
    """The measurements of one network beside the ``untrained`` one; the verdict on one whose weights or outputs are not
    finite is complete."""
    row: Record = {"path": path, "epoch": network.origin["epoch"], "arch": network.origin["arch"]}
    row |= {"verdict": STATES[2], "line": NOT_FINITE, "kinds": [], "metrics": {}, "knn": None, "norm": None}
    row["notes"] = []
    try:
        network.with_finite_weights()
    except SSLToolError as error:
        return row | {"line": str(error)}
    with ranks.same_errors():
        extraction = Extraction(network, images, network_settings(config, path, SaveReprsConfig), device)
        part = ranks.span(-(-len(images) // extraction.size))
        numbers = range(part.start * extraction.size, min(part.stop * extraction.size, len(images)))
        batches = list(extraction.batches(numbers)) if numbers else []
    found = ranks.merged(batches, operator.add)
    directions = extraction.features.directions
    return row | ranks.from_main(lambda: _measured(torch.cat(found), images, directions, config, untrained))


def _measured(
    rows: Tensor, images: ImageSet, directions: int | None, config: DiagnoseConfig, untrained: Record | None
) -> Record:
    """The measurements of finite ``rows``; nothing of others."""
    if not bool(torch.isfinite(rows).all()):
        return {}
    asked = metrics_of(Limit.parse(config.fail_on, "--fail-on").kinds)
    given = Rows([rows], labels=[torch.from_numpy(images.labels)])
    measured = measure(given, tuple(dict.fromkeys((*MEASURED, *asked))), bound=directions)
    norm = measured.metrics["mean_norm"]
    numbers = {} if untrained is None else ratios(measured.metrics, untrained["metrics"])
    verdict = judge_measured(measured, {"random": untrained is None}, numbers=numbers)
    knn = knn_accuracy(rows, torch.from_numpy(images.labels)).get("knn")
    return {
        "verdict": verdict.state,
        "line": verdict.line,
        "kinds": [kind.as_dict() for kind in verdict.kinds],
        "metrics": measured.metrics,
        "knn": None if knn is None or math.isnan(knn) else knn,
        "norm": norm,
        "notes": measured.notes,
    }


def _teachers(paths: Sequence[str]) -> dict[str, TeacherAndStudent]:
    found = {}
    for path in paths:
        try:
            compared = compare_teacher(path)
        except SSLToolError:  # a name of published weights, or a folder, holds one network
            continue
        if compared is not None:
            found[path] = compared
    return found


def collapse_findings(rows: Sequence[Record], known: bool) -> list[Finding]:
    """The collapse of the last checkpoint, since the first one from which on all have collapsed.

    ``rows`` have "path", "epoch", "verdict", "line", "kinds" and "metrics"; ``known`` says whether the epochs order
    them.
    """
    stretch = last_stretch(np.array([row["verdict"] != STATES[0] for row in rows]))
    if stretch is None:
        wrong = [row["path"] for row in rows if row["verdict"] != STATES[0]]
        line = f"{', '.join(wrong)} collapsed, and later checkpoints are healthy"
        return [Finding("recovered", NOTE, line)] if wrong else []
    first = stretch[0]
    last, since = rows[-1], rows[first]
    state = last["verdict"]
    kind = "nonfinite" if not last["metrics"] else f"{state}-collapse"
    line = f"{last['path']} shows {last['line']}; since {since['path']}"
    if first == 0:
        line += ", the first that was given" if len(rows) > 1 else ", the only one that was given"
    evidence = {name: last["metrics"][name] for name in NEEDED if name in last["metrics"]}
    epoch = float(since["epoch"]) if known and since["epoch"] is not None else None
    kinds = tuple(one["kind"] for one in last["kinds"])
    if kind == "nonfinite":
        return [Finding(kind, state, line, epoch, evidence, NOT_FINITE_CAUSE, kinds=kinds)]
    cause = UNKNOWN_CAUSE.format("a lower learning rate")
    return [Finding(kind, state, line, epoch, evidence, cause, LOWER_RATE, RATE, kinds)]


def _against_untrained(rows: Sequence[Record]) -> list[Finding]:
    """A note if the last checkpoint is no better than the untrained network."""
    untrained, last = rows[0], rows[-1]
    found = []
    if None not in (untrained["knn"], last["knn"]) and last["knn"] <= untrained["knn"]:
        line = f"the kNN accuracy of {last['path']}, {last['knn']:.1%}, is not above that of the untrained network"
        evidence: dict[str, float | str] = {"knn": last["knn"], "untrained": untrained["knn"]}
        found.append(Finding("not-learned", NOTE, f"{line}, {untrained['knn']:.1%}", None, evidence))
    return found
