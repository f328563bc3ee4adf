"""The diagnose stage: reads each item and reports what went wrong, since when, the probable cause and what to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssltool.checkpoints.hub import HUB, TIMM
from ssltool.checkpoints.load import PUBLISHED
from ssltool.checkpoints.model_folder import find_model_folder
from ssltool.checkpoints.setting_names import stage_of
from ssltool.config import DiagnoseConfig
from ssltool.config.fields import STATES
from ssltool.diagnosis.limits import Limit
from ssltool.errors import SSLToolError, counted, first_names
from ssltool.files.reading import kind_of_content, open_file, require
from ssltool.files.writing import finite, write_json
from ssltool.runs.folder import RunFolder
from ssltool.runs.monitor_folder import STAGE
from ssltool.settings import Record, flag
from ssltool.stages.diagnose.findings import find
from ssltool.stages.diagnose.findings.constant_loss import FEWEST_EPOCHS
from ssltool.stages.diagnose.findings.finding import Finding
from ssltool.stages.diagnose.log_formats import read_log
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.log_formats.tensorboard_events import is_record
from ssltool.stages.diagnose.log_formats.wandb_file import IDENT
from ssltool.stages.diagnose.series import Series
from ssltool.training import distributed
from ssltool.training.ranks import Ranks

HEAD = 512
"""Bytes by which a log is told from a checkpoint."""

OURS = frozenset({"stage", "method", "arch", "ssltool"})
"""Settings of which a run folder has one at least."""

LIMITS = (
    "a log shows neither a dimensional or partial collapse nor whether the representations are useful; a checkpoint "
    "does"
)
NEXT_OF_LOG = (
    "ssltool diagnose CHECKPOINT... --data IMAGES",
    "ssltool save-reprs IMAGES --pretrained CHECKPOINT -o reprs.pt",
    "ssltool collapse reprs.pt",
)

LACKING = {
    "reference": "the untrained network, which a run folder or checkpoints are compared with; a log does not show it",
    "rows": "outputs of the network, which a run folder or checkpoints have; a log does not show them",
    "labels": "images with labels, which a run folder or checkpoints have; a log does not show them",
    "tokens": "the tokens of images: ssltool collapse measures those that save-reprs --tokens writes",
}
"""What an item lacks for a kind of collapse."""


def run(config: DiagnoseConfig) -> Record:
    """The stage: a report for each run folder and log, and one for all checkpoints together.

    Under torchrun each rank passes its part of the images through the checkpoints; rank 0 does the rest.

    Returns:
        {"reports": [{"path", "source", "read", "state", "kind", "line", "findings", "keep", "notes", "next", ...},
        ...], "worst", "failed", "notes"}; "worst" is the most severe state, "failed" whether ``fail_on`` is reached.

    Raises:
        SSLToolError: for an item that is none of these or cannot be read, or a setting without effect.
    """
    config.check()
    limit = Limit.parse(config.fail_on, "--fail-on")
    with distributed.measuring_ranks() as ranks:
        runs, logs, checkpoints, notes = ranks.from_main(lambda: _found(config, limit))
        reports = ranks.from_main(
            lambda: [*map(_report_of_run, runs), *(_report_of_log(read_log(log, config.loss)) for log in logs)]
        )
        reports += [_report_of_checkpoints(checkpoints, config, ranks)] if checkpoints else []
        return ranks.from_main(lambda: _document(config, limit, reports, notes))


def _document(config: DiagnoseConfig, limit: Limit, reports: Sequence[Record], notes: Sequence[str]) -> Record:
    worst = max((report["state"] for report in reports), key=STATES.index)
    failed = any(limit.is_reached(report["state"], report["kinds"]) for report in reports)
    document: Record = finite({"reports": reports, "worst": worst, "failed": failed, "notes": notes})
    if config.out is not None:
        write_json(config.out, document)
    return document


def _needs(runs: Sequence[Path], logs: Sequence[LogFile], checkpoints: Sequence[str]) -> set[str]:
    """What the items have of what kinds of collapse need, keys of ``kinds.NEEDS``."""
    found = {"loss"} if logs else set()
    found |= {"rows", "reference", "networks", "labels"} if checkpoints or runs else set()
    return found | ({"loss"} if runs else set())


def _found(config: DiagnoseConfig, limit: Limit) -> tuple[list[Path], list[LogFile], list[str], list[str]]:
    """``_split``, checked against the settings."""
    runs, logs, checkpoints, notes = _split(config.items)
    if not checkpoints and (unused := config.of_checkpoints()):
        raise SSLToolError(f"{flag(unused[0])} has no effect without a checkpoint; leave it out, or name one")
    if config.loss is not None and not logs:
        raise SSLToolError("--loss has no effect without a log; leave it out, or name one")
    limit.require(_needs(runs, logs, checkpoints), "--fail-on", LACKING)
    return runs, logs, checkpoints, notes


def _split(items: Sequence[str]) -> tuple[list[Path], list[LogFile], list[str], list[str]]:
    """Run folders, logs and checkpoints among the ``items``, and notes on the files of folders that are left out."""
    runs: list[Path] = []
    logs: list[LogFile] = []
    checkpoints, notes = [], []
    resolved = [Path(item).resolve() for item in items]
    for item, target in zip(items, resolved, strict=True):
        path = Path(item)
        if resolved.count(target) > 1:
            raise SSLToolError(f"{item} is given twice; name it once")
        if item.startswith((PUBLISHED, TIMM, HUB)):
            checkpoints.append(item)
            continue
        require(path, "run folder, log or checkpoint")
        if not path.is_dir():
            (logs.append(LogFile(path)) if _may_be_log(path) else checkpoints.append(item))
        elif find_model_folder(path) is not None:
            checkpoints.append(item)
        elif _is_run(path):
            runs.append(path)
        else:
            found, others = _logs_in(path)
            logs += found
            notes += [f"{path}: files that are no log, left out: {first_names(others)}"] if others else []
    return runs, logs, checkpoints, notes


def _is_run(folder: Path) -> bool:
    """Whether a folder has a ``config.json`` with settings of ours, and not of another program."""
    return (folder / "config.json").is_file() and not OURS.isdisjoint(RunFolder(folder).read_config())


def _may_be_log(path: Path) -> bool:
    """Whether a file is text, or begins as a binary log does; checkpoints are binary."""
    with open_file(path) as stream:
        head = stream.read(HEAD)
    return head.startswith(IDENT) or is_record(head) or kind_of_content(head) == "text"


def _logs_in(folder: Path) -> tuple[list[LogFile], list[str]]:
    """The logs in a folder, and the names of its other files.

    Raises:
        SSLToolError: if it has none.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found, others = [], []
    for path in files:
        try:
            if not _may_be_log(path):
                raise SSLToolError(f"{path} is no log")
            log = LogFile(path)
            read_log(log)
        except SSLToolError:
            others.append(path.name)
        else:
            found.append(log)
    if not found:
        has = f"{counted(len(files), 'file')}: {first_names(others)}" if others else "no files"
        inner = sorted(f"{path.name}/" for path in folder.iterdir() if path.is_dir())
        has += f", and {counted(len(inner), 'folder')}: {first_names(inner)}" if inner else ""
        raise SSLToolError(
            f"{folder} is no run folder and has no log that ssltool knows; it has {has}; name the log, or its folder"
        )
    return found, others


def _report(path: str, source: str, read: str, findings: Sequence[Finding], healthy: str) -> Record:
    """What all reports have. ``healthy`` is the first sentence where there is no fault."""
    worst = findings[0] if findings and findings[0].state != STATES[0] else None
    state = STATES[0] if worst is None else worst.state
    return {
        "path": path,
        "source": source,
        "read": read,
        "state": state,
        "kind": None if worst is None else worst.kind,
        "kinds": list(dict.fromkeys(name for finding in findings for name in finding.named)),
        "since": None if worst is None else worst.since,
        "line": healthy if worst is None else worst.sentence,
        "findings": [finding.as_dict() for finding in findings],
    }


def _report_of_log(series: Series) -> Record:
    loss = series.loss
    healthy = (
        f"No fault shows in the log: {series.loss_name} goes from {loss.values[0]:.4g} to {loss.values[-1]:.4g} over "
        f"{counted(len(loss), 'value')}."
    )
    if len(loss.finite()) < FEWEST_EPOCHS:
        healthy = (
            f"The log is too short to judge: {series.loss_name} has {counted(len(loss), 'value')}; "
            f"{FEWEST_EPOCHS} are needed."
        )
    report = _report(series.path, "log", series.program, find(series), healthy)
    return (
        report
        | _extent(series, series.unit, list(map(float, series.loss.at)))
        | {"keep": None, "notes": [*series.notes, LIMITS], "next": list(NEXT_OF_LOG)}
    )


def _extent(series: Series | None, unit: str, at: Sequence[float]) -> Record:
    """The number of values, and the first and the last epoch or step; "loss" is None if there is none."""
    return {
        "unit": unit,
        "values": len(at),
        "first": float(at[0]),
        "last": float(at[-1]),
        "loss": None if series is None else series.loss_name,
    }


def _report_of_run(path: Path) -> Record:
    from ssltool.stages.diagnose.monitor_record import diagnose_monitored
    from ssltool.stages.diagnose.run_record import diagnose_run

    is_monitored = stage_of(RunFolder(path).read_config()) == STAGE
    found = diagnose_monitored(path) if is_monitored else diagnose_run(path)
    count = counted(len(found.at), "look" if is_monitored else found.unit)
    healthy = f"No collapse was found in {count}."
    if not is_monitored:
        healthy = f"No collapse was found in {counted(found.monitored, 'monitored epoch')} of {count}."
    if not found.monitored:
        healthy = f"No fault shows in the losses of {count}; the monitor did not look (--monitor-every 0)."
    report = _report(str(path), "monitor" if is_monitored else "run folder", found.read, found.findings, healthy)
    notes = ["the monitor was given no loss; monitor.step(step, loss=loss) records it"] if found.series is None else []
    following = [] if found.monitored else [f"ssltool diagnose {path}/checkpoint.pt"]
    return (
        report | _extent(found.series, found.unit, found.at) | {"keep": found.keep, "notes": notes, "next": following}
    )


def _report_of_checkpoints(paths: Sequence[str], config: DiagnoseConfig, ranks: Ranks) -> Record:
    from ssltool.stages.diagnose.checkpoint_series import diagnose_checkpoints

    found = diagnose_checkpoints(paths, config, ranks)
    healthy = f"The last of {counted(len(paths), 'checkpoint')} has not collapsed, on {found.images}."
    if len(paths) == 1:
        healthy = f"The checkpoint has not collapsed, on {found.images}."
    report = _report(", ".join(paths), "checkpoints", "checkpoints", found.findings, healthy)
    return report | {
        "checkpoints": found.rows,
        "images": found.images,
        "keep": found.keep if len(paths) > 1 else None,
        "notes": found.notes,
        "next": [],
    }
