"""Diagnoses the folder of a monitor in another program's training: its looks, and the losses that it was given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ssltool.config.fields import STATES
from ssltool.diagnosis.alarms import constant_output_causes
from ssltool.diagnosis.monitor import UNKNOWN_CAUSE
from ssltool.errors import SSLToolError
from ssltool.runs.monitor_folder import MonitorFolder
from ssltool.settings import Record, Settings
from ssltool.stages.diagnose.findings import find
from ssltool.stages.diagnose.keep import Candidate, choose
from ssltool.stages.diagnose.known_losses import UNKNOWN_LOSS, constants, known_losses
from ssltool.stages.diagnose.monitored_layers import Looks, MonitoredLayer, layer_findings
from ssltool.stages.diagnose.run_record import DiagnosedRun
from ssltool.stages.diagnose.series import Curve, Series

PROGRAM = "looks of ssltool.Monitor"


def diagnose_monitored(path: Path) -> DiagnosedRun:
    """The diagnosis of the folder ``path`` of a monitor. The look at step 0, at the untrained network, is no fault.

    Raises:
        SSLToolError: if it has no look after step 0, or cannot be read.
    """
    folder = MonitorFolder(path)
    records = [record for record in folder.records if record["step"] > 0]
    if not records:
        looks = "only the look at the untrained network, step 0" if folder.records else "no look yet"
        raise SSLToolError(f"{path} has {looks}; train longer")
    series = _series(path, folder.settings, folder.records)
    findings = [*layer_findings(_looks(folder.settings, records)), *([] if series is None else find(series))]
    findings.sort(key=lambda finding: -STATES.index(finding.state))
    monitored = sum(record.get("verdict") is not None for record in records)
    keep = _keep(folder.settings["layers"][0], records)
    return DiagnosedRun(PROGRAM, "step", [record["step"] for record in records], series, findings, keep, monitored)


def _series(path: Path, settings: Settings, records: Sequence[Record]) -> Series | None:
    """The losses of the looks; None if the monitor was given none. A loss that is not finite is saved as null."""
    given = [record for record in records if "loss" in record]
    if not given:
        return None
    losses = [math.nan if record["loss"] is None else float(record["loss"]) for record in given]
    known = constants(settings.get("constant_losses") or ())
    curve = Curve.of([record["step"] for record in given], losses, known or known_losses(*UNKNOWN_LOSS))
    return Series(str(path), PROGRAM, "step", curve, is_ours=bool(known))


def _looks(settings: Settings, records: Sequence[Record]) -> Looks:
    layers = {
        name: MonitoredLayer(settings["widths"][name], settings["bounds"].get(name)) for name in settings["layers"]
    }

    def causes(record: Record) -> tuple[list[str], str, str]:
        loss = record.get("loss")
        return ([] if loss is None else constant_output_causes(loss, settings.get("constant_losses") or ())), "", ""

    at = [float(record["step"]) for record in records]
    unknown = UNKNOWN_CAUSE.format("a lower learning rate")
    return Looks("step", records, at, settings["n_images"], layers, causes, unknown)


def _keep(first: str, records: Sequence[Record]) -> Record:
    """The look whose checkpoint, which the other program saved, is to be kept."""
    return choose(
        [
            Candidate(f"the checkpoint of step {r['step']:,}", r.get("verdict"), r.get(f"{first}_knn"), step=r["step"])
            for r in records
        ],
        "looks",
    )
