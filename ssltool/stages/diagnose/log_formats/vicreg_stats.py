"""``stats.txt`` of VICReg: the command line, then a JSON object about once a minute.

``main_vicreg.py`` writes ``epoch``, ``step``, ``loss``, ``time`` and ``lr``. A constant output has the loss 24.75: the
weight 25 of the variance term times 1 - sqrt(1e-4), while the other terms are 0.
"""

from __future__ import annotations

from ssltool.stages.diagnose.known_losses import known_losses
from ssltool.stages.diagnose.log_formats.json_log import series_of
from ssltool.stages.diagnose.log_formats.log_file import LogFile, has_all
from ssltool.stages.diagnose.series import Series


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not has_all(log.json_rows, "epoch", "step", "loss", "time", "lr"):
        return None
    return series_of(log, "stats.txt of VICReg", "step", loss or "loss", "lr", known_losses("variance", "distance"))
