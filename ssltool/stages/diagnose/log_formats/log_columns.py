"""Finds the loss, its terms, the learning rate and the steps among the columns of any log."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from ssltool.errors import SSLToolError, first_names
from ssltool.stages.diagnose.known_losses import KnownLoss, known_by_name
from ssltool.stages.diagnose.log_formats.log_file import (
    Row,
    column,
    finite_steps,
    names_of,
    repeated_steps,
    require_column,
)
from ssltool.stages.diagnose.series import Curve, Series

LOSSES = (
    r"(train(ing)?[_/. ]?)?(total[_/ ]?)?loss(_step)?",
    r"train.*(loss|neg_cos_sim)(_step)?",
    r".*(loss|neg_cos_sim)(_step)?",
    r".*(loss|neg_cos_sim)_epoch",
)
"""Patterns of the name of the loss; the first that fits counts."""

NO_LOSS = r"(^|[_/. ])(val|valid|validation|test|eval|online|class|probe)([_/. ]|$)"
"""What the names of other losses have: those of validation, and of classifiers that are trained beside the network."""

RATE = r"(^|[_/. -])(lr|learning_rate)([-_/. ]|$)"

EPOCH = "epoch"

STEPS = {
    "_step": "step",
    "global_step": "step",
    "trainer/global_step": "step",
    "step": "step",
    "iteration": "step",
    "iter": "step",
    EPOCH: "epoch",
}
"""Columns that count, in order of preference, and their unit."""


def read_columns(
    path: str,
    program: str,
    rows: Sequence[Row],
    *,
    loss: str | None = None,
    at: Sequence[float | None] | None = None,
    unit: str | None = None,
    notes: Iterable[str] = (),
) -> Series:
    """The series of the ``rows`` of a log.

    Args:
        loss: the column of the loss, by default the first of ``LOSSES``.
        at: the step or epoch of each row, by default the first column of ``STEPS``; ``unit`` is its unit.

    Raises:
        SSLToolError: if there is no column ``loss``, or no column that may be the loss.
    """
    names = names_of(rows)
    require_column(path, names, loss)
    said = list(notes)
    candidates = loss_columns(names) if loss is None else [loss]
    if not candidates:
        raise SSLToolError(f"{path}: no column is called a loss; name one with --loss: {first_names(names, most=20)}")
    chosen = candidates[0]
    if at is None:
        at, unit = _steps(rows, chosen)
    at = finite_steps(at)
    said += repeated_steps(path, at)
    if len(candidates) > 1:
        said.append(f"the loss is the column {chosen}; --loss takes another, such as {candidates[1]}")
    rate = next((name for name in names if re.search(RATE, name.lower())), None)
    curves = {name: Curve.of(at, column(rows, name), _known(name)) for name in names if name not in STEPS}
    terms = {name: curves[name] for name in _terms(names, chosen)}
    others = {name: curve for name, curve in curves.items() if name not in (chosen, rate, *terms)}
    return Series(path, program, str(unit), curves[chosen], chosen, curves.get(rate or ""), terms, others, said)


def _steps(rows: Sequence[Row], loss: str) -> tuple[list[float | None], str]:
    """The step or epoch of each row by the first of ``STEPS``, or its number, and the unit.

    Steps that begin again in each epoch are continued from epoch to epoch. Rows are counted if those with a ``loss``
    repeat their epoch, as the rows of batches do.
    """
    numbered: tuple[list[float | None], str] = [float(number) for number in range(1, len(rows) + 1)], "row"
    counter = next((name for name in STEPS if any(name in row for row in rows)), None)
    if counter is None:
        return numbered
    at, epochs = finite_steps(column(rows, counter)), finite_steps(column(rows, EPOCH))
    of_loss = [i for i, row in enumerate(rows) if loss in row and at[i] is not None and epochs[i] is not None]
    found = [(at[i] or 0.0, epochs[i] or 0.0) for i in of_loss]
    pairs = list(itertools.pairwise(found))
    if counter == EPOCH:
        repeated = sum(one == other for one, other in pairs)
        return numbered if 2 * repeated > len(pairs) else (at, STEPS[counter])
    if any(step < before and epoch > earlier for (before, earlier), (step, epoch) in pairs):
        length = max(step for step, _ in found) - min(step for step, _ in found) + 1
        at = [None if x is None or e is None else e * length + x for x, e in zip(at, epochs, strict=True)]
    return at, STEPS[counter]


def loss_columns(names: Sequence[str]) -> list[str]:
    """The columns that may be the training loss, the most likely ones; see ``LOSSES``."""
    usable = [name for name in names if not re.search(NO_LOSS, name.lower())]
    for pattern in LOSSES:
        if found := [name for name in usable if re.fullmatch(pattern, name.lower())]:
            return found
    return []


def _terms(names: Sequence[str], chosen: str) -> list[str]:
    """The other losses of the training, without the means over epochs of columns that are logged in steps."""
    usable = [name for name in names if name != chosen and not re.search(NO_LOSS, name.lower())]
    found = [name for name in usable if re.fullmatch(r".*(loss|neg_cos_sim).*", name.lower())]
    return [name for name in found if not name.lower().endswith("_epoch")]


def _known(name: str) -> tuple[KnownLoss, ...]:
    return known_by_name(name) if re.search("loss|neg_cos_sim", name.lower()) else ()
