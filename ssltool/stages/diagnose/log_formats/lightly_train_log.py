"""``metrics.jsonl`` of lightly-train: JSON lines with the columns of Lightning.

``src/lightly_train/_loggers/jsonl.py`` writes it. ``train_loss`` is the loss of any of its methods.
"""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, names_of
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not {"train_loss", "step"} <= {*names_of(log.json_rows)}:
        return None
    program = "metrics.jsonl of lightly-train"
    return read_columns(log.path, program, log.json_rows, loss=loss, notes=log.json_notes)
