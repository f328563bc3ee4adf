"""``stats.txt`` of Barlow Twins: the command line, then a JSON object for every 100 steps.

``main.py`` writes ``epoch``, ``step``, ``lr_weights``, ``lr_biases``, ``loss`` and ``time``.
"""

from __future__ import annotations

from ssltool.stages.diagnose.known_losses import known_losses
from ssltool.stages.diagnose.log_formats.json_log import series_of
from ssltool.stages.diagnose.log_formats.log_file import LogFile, has_all
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not has_all(log.json_rows, "epoch", "step", "lr_weights", "lr_biases", "loss", "time"):
        return None
    known = known_losses("correlation")
    return series_of(log, "stats.txt of Barlow Twins", "step", loss or "loss", "lr_weights", known)
