r"""What the ``MetricLogger`` of DINO, MAE and DINOv2 prints: medians over 20 steps, and means of the epoch.

``Epoch: [3/100]  [ 10/500]  eta: 0:01:00  loss: 10.9 (11.0)  lr: 0.0001 (0.0001)  ...``; MAE prints the epoch alone,
and DINOv2 ``Training`` in its place, since it counts no epochs. If the loss is not finite the programs print ``Loss is
nan, stopping training`` and end.
"""

from __future__ import annotations

import re

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, Row, number, numbers
from ssltool.stages.diagnose.series import Series

LINE = re.compile(r"(?:Epoch: \[(\d+)(?:/\d+)?\]|Training) +\[ *(\d+)/(\d+)\] +eta: \S+(?: days?, \S+)? +(.*)")
METER = re.compile(r"([\w@/.-]+): ([-+\w.]+)(?: \(([-+\w.]+)\))?")
STOPPED = re.compile(r"Loss is (\S+), stopping training")


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none."""
    rows: list[Row] = []
    at: list[float | None] = []
    for match in LINE.finditer(log.text or ""):
        epoch, step, steps = int(match[1] or 0), int(match[2]), int(match[3])
        rows.append(numbers({meter[1]: meter[2] for meter in METER.finditer(match[4])}))
        at.append(epoch * max(1, steps) + step)
    if not rows or not any("loss" in name for name in rows[0]):
        return None
    stopped = STOPPED.search(log.text or "")
    series = read_columns(log.path, "output of a MetricLogger", rows, loss=loss, at=at, unit="step")
    if stopped is None or (value := number(stopped[1])) is None:
        return series
    last = rows[-1] | {series.loss_name: value}
    program = "output of a MetricLogger, which stopped at a loss that is not finite"
    return read_columns(log.path, program, [*rows, last], loss=loss, at=[*at, (at[-1] or 0) + 1], unit="step")
