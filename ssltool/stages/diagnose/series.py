"""What a log holds: the loss, the learning rate, the terms of the loss and other values over the steps or epochs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssltool.stages.diagnose.known_losses import KnownLoss


@dataclass(frozen=True)
class Curve:
    """The ``values`` (n,) of a quantity ``at`` (n,) steps or epochs, float64. Values that were logged as NaN or
    infinity are kept; steps without a value are left out. ``known`` are the values that mean a constant output."""

    at: np.ndarray
    values: np.ndarray
    known: tuple[KnownLoss, ...] = ()

    @classmethod
    def of(cls, at: Iterable[float | None], values: Iterable[float | None], known: tuple[KnownLoss, ...] = ()) -> Curve:
        """The curve of values in the order of a log; pairs with None are left out.

        A log to which a resumed run was appended repeats steps: the later value counts.
        """
        pairs = {x: y for x, y in zip(at, values, strict=True) if x is not None and y is not None}
        order = sorted(pairs)
        return cls(np.array(order, dtype=np.float64), np.array([pairs[x] for x in order], dtype=np.float64), known)

    def __len__(self) -> int:
        return len(self.values)

    def finite(self) -> Curve:
        """The curve without NaN and infinite values."""
        use = np.isfinite(self.values)
        return Curve(self.at[use], self.values[use], self.known)

    def at_steps(self, steps: np.ndarray) -> np.ndarray:
        """The values at ``steps`` (m,): at each the last one before it, or the first one. The curve is not empty."""
        return self.values[np.clip(np.searchsorted(self.at, steps, side="right") - 1, 0, None)]


@dataclass(frozen=True)
class Series:
    """The curves of one log.

    Attributes:
        path: the log.
        program: the format that was read.
        unit: what the log counts: ``step``, ``epoch`` or ``row``.
        loss_name: the log's name of the loss.
        rate: the learning rate; None if it is not logged.
        terms: the terms of the loss, by their names in the log.
        others: all other numbers, by their names.
        notes: what was left out, and what was assumed.
        is_ours: whether the known values of the loss are those of the run's own settings, so that no other loss can
            be mistaken for them.
    """

    path: str
    program: str
    unit: str
    loss: Curve
    loss_name: str = "loss"
    rate: Curve | None = None
    terms: Mapping[str, Curve] = field(default_factory=dict)
    others: Mapping[str, Curve] = field(default_factory=dict)
    notes: Sequence[str] = ()
    is_ours: bool = False

    @property
    def losses(self) -> dict[str, Curve]:
        """The loss and its terms, by name."""
        return {self.loss_name: self.loss, **self.terms}
