r"""What the ``ProgressMeter`` of MoCo, MoCo v3 and SimSiam prints, and any program that began as PyTorch's example.

``Epoch: [3][ 10/100]\tTime  0.100 ( 0.120)\t...\tLoss 6.9000e+00 (6.9100e+00)``: the value of the step, and the mean
since the beginning of the epoch. MoCo v3 (``main_moco.py``) prints the learning rate ``LR``, MoCo the accuracy
``Acc@1``, SimSiam (``main_simsiam.py``) neither.
"""

from __future__ import annotations

import re

from ssltool.errors import SSLToolError
from ssltool.stages.diagnose.known_losses import known_losses
from ssltool.stages.diagnose.log_formats.log_file import LogFile, Row, column, numbers, repeated_steps
from ssltool.stages.diagnose.series import Curve, Series

LINE = re.compile(r"Epoch: \[(\d+)\]\[ *(\d+)/(\d+)\]\t(.*)")
METER = re.compile(r"^(\S+) +(\S+) \( *(\S+)\)$")

PROGRAMS = {
    "LR": ("MoCo v3", ("4 T ln N", "cross-entropy")),
    "Acc@1": ("MoCo", ("cross-entropy",)),
    "": ("SimSiam", ("cosine", "distance")),
}
"""The meter that only one of the programs prints, the program, and the families of its loss."""


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a log; None if the file is none.

    Raises:
        SSLToolError: if ``loss`` names another column.
    """
    rows, at = [], []
    for match in LINE.finditer(log.text or ""):
        epoch, step, steps = (int(match[i]) for i in (1, 2, 3))
        found = _meters(match[4])
        if "Loss" in found:
            rows.append(found)
            at.append(epoch * max(1, steps) + step)
    if not rows:
        return None
    if loss not in (None, "Loss"):
        raise SSLToolError(f"--loss {loss} has no effect: {log.path} prints its loss as Loss; leave it out")
    program, families = next(entry for meter, entry in PROGRAMS.items() if not meter or meter in rows[0])
    curves = {name: Curve.of(at, column(rows, name)) for name in rows[0]}
    loss_curve = Curve(curves["Loss"].at, curves["Loss"].values, known_losses(*families))
    others = {name: curve for name, curve in curves.items() if name not in ("Loss", "LR")}
    notes = repeated_steps(log.path, at)
    return Series(
        log.path, f"output of {program}", "step", loss_curve, "Loss", curves.get("LR"), others=others, notes=notes
    )


def _meters(text: str) -> Row:
    meters = (METER.match(part.strip()) for part in text.split("\t"))
    return numbers({match[1]: match[2] for match in meters if match is not None})
