"""``log.txt`` of DINO and iBOT: a JSON object for each epoch, with the means over the epoch.

``main_dino.py`` writes ``train_loss``, ``train_lr``, ``train_wd`` and ``epoch``; iBOT adds its terms.
"""

from __future__ import annotations

from ssltool.stages.diagnose.known_losses import known_losses
from ssltool.stages.diagnose.log_formats.json_log import series_of
from ssltool.stages.diagnose.log_formats.log_file import LogFile, has_all
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not has_all(log.json_rows, "train_loss", "train_lr", "train_wd", "epoch"):
        return None
    known = known_losses("cross-entropy", "distance")
    return series_of(log, "log.txt of DINO", "epoch", loss or "train_loss", "train_lr", known)
