"""``metrics.csv`` of Lightning's ``CSVLogger``, as solo-learn and other programs built on it write.

A row has the values of one call of the logger; the others are empty. There are always the columns ``epoch`` and
``step``.
"""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if log.table is None:
        return None
    header, rows = log.table
    if not {"epoch", "step"} <= {*header}:
        return None
    return read_columns(log.path, "metrics.csv of Lightning", rows, loss=loss)
