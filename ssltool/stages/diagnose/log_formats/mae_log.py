"""``log.txt`` of MAE: a JSON object for each epoch. ``main_pretrain.py`` writes ``train_lr``, ``train_loss`` and
``epoch``. The loss is a squared error, so no value of it means a constant output."""

from __future__ import annotations

from ssltool.stages.diagnose.log_formats.json_log import series_of
from ssltool.stages.diagnose.log_formats.log_file import LogFile, has_all
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not has_all(log.json_rows, "train_loss", "train_lr", "epoch"):
        return None
    return series_of(log, "log.txt of MAE", "epoch", loss or "train_loss", "train_lr", ())
