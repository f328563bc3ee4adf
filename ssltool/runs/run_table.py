"""A row for each run: the settings in which the runs differ, and all values of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.checkpoints.saved_run import LATER
from ssltool.checkpoints.setting_names import stage_of
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.runs import monitor_folder
from ssltool.runs.differing import ALWAYS, differing_settings, flat_settings, setting_cell
from ssltool.runs.folder import NEWEST, RunFolder
from ssltool.settings import Record, Settings


@dataclass(frozen=True)
class RunRow:
    """A run at one epoch, or a monitored training at one step.

    Attributes:
        path: the run folder.
        settings: the settings in ``config.json``.
        record: the values of the epoch or step; empty if no epoch is finished.
        checkpoint: the file of the checkpoint of this epoch, or None if it was not kept.
    """

    path: str
    settings: Settings
    record: Record
    checkpoint: Path | None = None

    def checkpoint_hash(self) -> str | None:
        """The hash of the checkpoint; None if there is none."""
        return hash_after_epoch(self.checkpoint, self.record)


def last_row(path: str) -> tuple[RunRow, list[str]]:
    """The run in ``path`` at the last epoch that its monitor measured, or at the last one if none was; and notes.

    Raises:
        SSLToolError: if the folder holds no run of pretrain and is not that of a monitor, or cannot be read.
    """
    folder = RunFolder(Path(path))
    settings = folder.read_config()
    stage = stage_of(settings)
    if stage == monitor_folder.STAGE:
        monitored = monitor_folder.MonitorFolder(folder.path)
        records, settings = monitored.records, monitored.settings
    elif stage == "pretrain":
        records, settings = folder.read_metrics(), LATER | settings
    else:
        raise SSLToolError(f"{path} is a run folder of {stage}; name a run folder of pretrain")
    if not records:
        return RunRow(path, settings, {}), [f"{path}: no epoch is finished"]
    last = next((record for record in reversed(records) if "verdict" in record), records[-1])
    later = len(records) - 1 - records.index(last)
    note = f"{path}: the row is of the last epoch that was monitored; {later} later ones are left out"
    return RunRow(path, settings, last, kept_checkpoint(folder, last, records)), [note] if later else []


def kept_checkpoint(folder: RunFolder, record: Record, records: Sequence[Record]) -> Path | None:
    """The file of the checkpoint after the epoch of ``record``, or None if it was not kept. Of the last epoch it may be
    the newest one, which ``is_after_epoch`` reads."""
    if "epoch" not in record:
        return None
    kept = folder.path / f"checkpoint_{record['epoch']:04d}.pt"
    if kept.exists():
        return kept
    return folder.newest if record is records[-1] and folder.newest.exists() else None


def hash_after_epoch(checkpoint: Path | None, record: Record) -> str | None:
    """The hash of a checkpoint; None if there is none or if it is not that after the epoch of ``record``."""
    return None if checkpoint is None or not is_after_epoch(checkpoint, record) else file_hash(checkpoint)


def is_after_epoch(checkpoint: Path, record: Record) -> bool:
    """Whether the file has the weights after the epoch of ``record``: ``checkpoint.pt`` may be of some step after it,
    as ``--save-steps`` and signals write it. A damaged file has none."""
    from ssltool.checkpoints.checkpoint import Checkpoint

    if checkpoint.name != NEWEST:
        return True
    try:
        found = Checkpoint.load(checkpoint)
    except SSLToolError:
        return False
    return found.epoch == record["epoch"] + 1 and not found.metrics["epoch_step"]


def columns(settings: Sequence[Settings], records: Sequence[Mapping[str, Any]]) -> tuple[list[Record], list[str]]:
    """The columns of a table of runs: the settings in ``ALWAYS``, those that differ, and all values of the records.

    A value of a record that has the name of a setting gets the name ``NAME (record)``, also where that setting is no
    column: a table is read as settings, too, and ``lr`` is not the rate of the last step. A run without a value has
    None.

    Returns:
        A dict for each run, with the same keys in the same order, and the names of the settings that differ.
    """
    flat = [flat_settings(one) for one in settings]
    differing = differing_settings(flat)
    chosen = [*(name for name in ALWAYS if any(name in one for one in flat)), *differing]
    chosen = list(dict.fromkeys(chosen))
    values = dict.fromkeys(name for record in records for name in record if name != "strategy")
    of_settings = {name for one in flat for name in one}
    titles = {name: f"{name} (record)" if name in of_settings else name for name in values}
    rows = [
        {name: setting_cell(one.get(name)) for name in chosen}
        | {title: record.get(name) for name, title in titles.items()}
        for one, record in zip(flat, records, strict=True)
    ]
    return rows, differing
