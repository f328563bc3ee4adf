"""What the logs of JSON lines have in common: one object for each step or epoch, whose columns are known."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.diagnose.known_losses import KnownLoss
from ssltool.stages.diagnose.log_formats.log_file import (
    LogFile,
    Row,
    column,
    finite_steps,
    names_of,
    repeated_steps,
    require_column,
)
from ssltool.stages.diagnose.series import Curve, Series


def series_of(
    log: LogFile,
    program: str,
    unit: str,
    loss: str,
    rate: str,
    known: tuple[KnownLoss, ...],
    *,
    at: str | None = None,
    terms: Sequence[str] = (),
    rows: Sequence[Row] | None = None,
) -> Series:
    """The series of JSON lines.

    Args:
        loss, rate: the columns of the loss and the learning rate.
        known: the values of the loss, and of its ``terms``, that mean a constant output.
        at: the column that counts, by default the one called as the ``unit``.
        rows: the rows, by default all objects of ``log``.

    Raises:
        SSLToolError: if there is no column ``loss``.
    """
    rows = log.json_rows if rows is None else rows
    names = names_of(rows)
    require_column(log.path, names, loss)
    steps = finite_steps(column(rows, at or unit))
    curves = {name: Curve.of(steps, column(rows, name)) for name in names if name != (at or unit)}

    def with_known(name: str) -> Curve:
        return Curve(curves[name].at, curves[name].values, known)

    found = {name: with_known(name) for name in terms if name in names and name != loss}
    others = {name: curve for name, curve in curves.items() if name not in (loss, rate, *found)}
    notes = [*log.json_notes, *repeated_steps(log.path, steps)]
    return Series(log.path, program, unit, with_known(loss), loss, curves.get(rate), found, others, notes)
