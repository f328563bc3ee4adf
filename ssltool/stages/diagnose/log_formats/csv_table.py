"""A table with a header, of any program; ``--loss`` names the column of the loss."""

from __future__ import annotations

import dataclasses

from ssltool.errors import counted, first_few
from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of a table; None if the file is none."""
    if log.table is None:
        return None
    rows = log.table[1]
    series = read_columns(log.path, "a table of numbers", rows, loss=loss)
    without = [i for i, row in enumerate(rows, start=1) if series.loss_name not in row]
    if not without:
        return series
    note = f"{counted(len(without), 'row')} without a number in {series.loss_name}, left out: {first_few(without, 5)}"
    return dataclasses.replace(series, notes=[*series.notes, note])
