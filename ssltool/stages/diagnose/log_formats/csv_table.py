"""A table with a header, of any program; ``--loss`` names the column of the loss."""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of a table; None if the file is none."""
    if log.table is None:
        return None
    return read_columns(log.path, "a table of numbers", log.table[1], loss=loss)
