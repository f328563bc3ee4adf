"""The registry of the logs of other programs, which are recognised by their content. Each has one module.

The target of a format is ``read(log, loss) -> Series | None``: None if the file is not of this format. ``loss`` is the
column that the user names, or None. The formats are tried in this order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.errors import SSLToolError
from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.stages.diagnose.log_formats.log_file import LogFile
    from ssltool.stages.diagnose.series import Series


@dataclass(frozen=True)
class LogFormat:
    """A format of logs: the function that reads it (``target``), and the ``programs`` and ``files`` that have it."""

    target: str | Callable[[LogFile, str | None], Series | None]
    programs: str
    files: str


LOG_FORMATS: Registry[LogFormat] = Registry(
    "log format",
    __name__,
    {
        "wandb": LogFormat(".wandb_file:read", "Weights & Biases", "run-*.wandb of an offline run"),
        "tensorboard": LogFormat(".tensorboard_events:read", "TensorBoard", "events.out.tfevents.*"),
        "dino-log": LogFormat(".dino_log:read", "DINO, iBOT", "log.txt"),
        "mae-log": LogFormat(".mae_log:read", "MAE", "log.txt"),
        "dinov2-metrics": LogFormat(".dinov2_metrics:read", "DINOv2", "training_metrics.json"),
        "barlow-stats": LogFormat(".barlow_stats:read", "Barlow Twins", "stats.txt"),
        "vicreg-stats": LogFormat(".vicreg_stats:read", "VICReg", "stats.txt"),
        "lightly-train": LogFormat(".lightly_train_log:read", "lightly-train", "metrics.jsonl"),
        "trainer-state": LogFormat(".trainer_state:read", "transformers", "trainer_state.json"),
        "progress-meter": LogFormat(".progress_meter:read", "MoCo, MoCo v3, SimSiam", "what the program printed"),
        "metric-logger": LogFormat(".metric_logger:read", "DINO, DINOv2, MAE", "what the program printed"),
        "lightning-csv": LogFormat(".lightning_csv:read", "Lightning, solo-learn", "metrics.csv"),
        "csv": LogFormat(".csv_table:read", "any program", "a table with a header"),
        "json-lines": LogFormat(".json_table:read", "any program", "JSON lines with a loss"),
    },
)
"""The formats, in the order in which they are tried."""


def read_log(log: LogFile, loss: str | None = None) -> Series:
    """The curves of ``log``; ``loss`` names its column of the loss.

    Raises:
        SSLToolError: if the file is empty, has none of the formats, no loss, or no column ``loss``.
    """
    if not log.data.strip():
        raise SSLToolError(f"{log.path} is empty; name a log")
    for name in LOG_FORMATS:
        series: Series | None = LOG_FORMATS.load(name)(log, loss)
        if series is not None:
            if not len(series.loss):
                raise SSLToolError(f"{log.path} ({series.program}) has no value of the loss yet; train longer")
            return series
    known = dict.fromkeys(program for entry in LOG_FORMATS.values() for program in entry.programs.split(", "))
    known.pop("any program")
    raise SSLToolError(
        f"{log.path} is no log that ssltool knows: of {', '.join(known)}, or a table or JSON lines with a loss; "
        "write the loss to a .csv table"
    )
