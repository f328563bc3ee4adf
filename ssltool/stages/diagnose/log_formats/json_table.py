"""JSON lines of any program with a loss in each; ``--loss`` names its key."""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.log_columns import loss_columns, read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, names_of
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such lines; None if the file has none, or no key that may be the loss."""
    names = names_of(log.json_rows)
    if not (loss_columns(names) if loss is None else names):
        return None
    return read_columns(log.path, "JSON lines", log.json_rows, loss=loss, notes=log.json_notes)
