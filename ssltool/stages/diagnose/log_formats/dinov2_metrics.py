"""``training_metrics.json`` of DINOv2: a JSON object for every ten steps, with medians over 20 steps.

``dinov2/logging/helpers.py`` writes it, with the terms of ``dinov2/train/ssl_meta_arch.py``. The terms of the local and
the global crops are parts of one mean over pairs of crops. Each is a fraction of ln K if the outputs are uniform; only
their sum, which is added here as a term, is ln K for any number of crops.
"""

from __future__ import annotations

from ssltool.stages.diagnose.known_losses import known_losses
from ssltool.stages.diagnose.log_formats.json_log import series_of
from ssltool.stages.diagnose.log_formats.log_file import LogFile, has_all
from ssltool.stages.diagnose.series import Series

CROPS = ("dino_local_crops_loss", "dino_global_crops_loss")
SUM = "dino_local_crops_loss + dino_global_crops_loss"
TERMS = (SUM, "koleo_loss", "ibot_loss")


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    if not has_all(log.json_rows, "iteration", "total_loss", "lr"):
        return None
    known = known_losses("cross-entropy", "distance")
    rows = [row | {SUM: row[CROPS[0]] + row[CROPS[1]]} if {*CROPS} <= row.keys() else row for row in log.json_rows]
    program = "training_metrics.json of DINOv2"
    return series_of(
        log, program, "step", loss or "total_loss", "lr", known, at="iteration", terms=(*TERMS, *CROPS), rows=rows
    )
