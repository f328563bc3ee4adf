"""Curves of a bounded number of points: neighbouring points are merged, and their extremes are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

MOST_POINTS = 250
"""Curves have at most twice as many points, and at least as many if that many were added."""

MOST_KEYS = 300
"""The largest number of curves; later ones are left out."""

NUMBERS = frozenset((int, float))

LARGEST = 1e300
"""Numbers beyond it, infinite ones and NaN are no values."""

Extremes = list[float | None]


class DecimatedCurves:
    """Curves over the same positions. Each point covers ``width`` consecutive positions, and has the lowest and the
    highest finite value of each curve there, None if it has none.

    Attributes:
        x: the first position of each point, increasing.
        low, high: by the name of the curve, a value for each point.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.most = most
        self.width = 1
        self.x: list[float] = []
        self.low: dict[str, Extremes] = {}
        self.high: dict[str, Extremes] = {}
        self._counts: list[int] = []

    def extend(self, xs: Sequence[float], records: Sequence[Mapping[str, Any]]) -> None:
        """Adds the numbers of ``records`` at the positions ``xs``. What was added at a position or later ones before
        is dropped, as by a training that resumed from an earlier step; within a point that is not seen."""
        start = 0
        while start < len(xs):
            while self.x and self.x[-1] >= xs[start]:
                self._drop_last()
            if not self._counts or self._counts[-1] >= self.width:
                if len(self.x) >= 2 * self.most:
                    self._halve()
                self._append(xs[start])
            end = start + 1
            last = min(len(xs), start + self.width - self._counts[-1])
            while end < last and xs[end] > xs[end - 1]:
                end += 1
            self._counts[-1] += end - start
            self._merge(records[start:end])
            start = end

    def _merge(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records to the last point."""
        for name in dict.fromkeys(chain.from_iterable(records)):
            given: list[Any] = [record.get(name) for record in records]
            values = [v for v in given if type(v) in NUMBERS and -LARGEST < v < LARGEST]
            if not values and not (NUMBERS & set(map(type, given))):
                continue
            if name not in self.low:
                if len(self.low) >= MOST_KEYS:
                    continue
                self.low[name] = [None] * len(self.x)
                self.high[name] = [None] * len(self.x)
            if values:
                self.low[name][-1] = _extreme(min, [self.low[name][-1], min(values)])
                self.high[name][-1] = _extreme(max, [self.high[name][-1], max(values)])

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """The curves ``names`` as plain values of five digits; ``high`` has only those that differ from ``low``."""
        low = {name: _rounded(self.low[name]) for name in names if name in self.low}
        high = {name: _rounded(self.high[name]) for name in low if self.width > 1}
        return {"x": list(self.x), "low": low, "high": {n: values for n, values in high.items() if values != low[n]}}

    def _append(self, x: float) -> None:
        self.x.append(x)
        self._counts.append(0)
        for values in (*self.low.values(), *self.high.values()):
            values.append(None)

    def _drop_last(self) -> None:
        self.x.pop()
        self._counts.pop()
        for values in (*self.low.values(), *self.high.values()):
            values.pop()

    def _halve(self) -> None:
        self.width *= 2
        self.x = self.x[::2]
        self._counts = [sum(self._counts[i : i + 2]) for i in range(0, len(self._counts), 2)]
        for name in self.low:
            self.low[name] = [_extreme(min, pair) for pair in _pairs(self.low[name])]
            self.high[name] = [_extreme(max, pair) for pair in _pairs(self.high[name])]


class Stretches:
    """Which value holds from which position on; a repeated value adds nothing."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, str | None]] = []

    def add(self, x: float, value: str | None) -> None:
        """Adds the value at a position, and drops what was added at this position or later ones before."""
        while self.starts and self.starts[-1][0] >= x:
            self.starts.pop()
        if not self.starts or self.starts[-1][1] != value:
            self.starts.append((x, value))


def _pairs(values: Extremes) -> list[Extremes]:
    return [values[i : i + 2] for i in range(0, len(values), 2)]


def _extreme(choose: Any, values: Extremes) -> float | None:
    return choose((value for value in values if value is not None), default=None)


def _rounded(values: Extremes) -> Extremes:
    return [None if value is None else float(f"{value:.5g}") for value in values]
