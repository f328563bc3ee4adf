"""Sums over the rows of one layer while blocks of them pass, and what they show: spectrum, metrics, verdict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.diagnosis.caveats import dead_dimensions
from ssltool.diagnosis.kinds import SCALE, ratios
from ssltool.diagnosis.metrics.of_rows import Directions, feature_std, mean_norm
from ssltool.diagnosis.metrics.of_spectrum import auc, coding_rate, dead_directions, effective_rank, total_variance
from ssltool.diagnosis.spectrum import Factor, possible_directions
from ssltool.diagnosis.verdict import DEFAULT, Thresholds, Verdict, judge
from ssltool.training.precision import widest_float

LAYER_METRICS = ("auc", "effective_rank", "dead_directions", "feature_std", *SCALE)
"""The metrics of a layer, all of one pass."""


@dataclass(frozen=True)
class MeasuredLayer:
    """The results for ``n`` rows of width ``d``, the outputs of ``layer``.

    Attributes:
        bound: the largest possible rank of the layer, None if it is not known.
        s: singular values (min(n, d),) of the centred rows, float64, descending.
        metrics: ``LAYER_METRICS``.
        dead: number of dead dimensions.
    """

    layer: str
    n: int
    d: int
    bound: int | None
    s: Tensor
    metrics: dict[str, float]
    dead: int

    @property
    def directions(self) -> int:
        """The number of directions that the rows can have."""
        return possible_directions(self.n, self.d, self.bound)

    @property
    def own_moments(self) -> float:
        """norm(X^T X)_F of the centred rows."""
        return float(torch.linalg.vector_norm(self.s.square()))

    def verdict(self, thresholds: Thresholds = DEFAULT, untrained: MeasuredLayer | None = None) -> Verdict:
        """The verdict on the rows, beside those of the ``untrained`` layer if it is given."""
        layer = "backbone" if self.layer.startswith("backbone") else self.layer
        numbers = self.metrics | ({} if untrained is None else ratios(self.metrics, untrained.metrics))
        return judge(numbers, n=self.n, d=self.d, bound=self.bound, layer=layer, dead=self.dead, thresholds=thresholds)


class LayerSums:
    """Collects the rows of a layer in blocks that are efficient for QR; the memory is O(d^2) for any number of rows."""

    def __init__(self, layer: str, bound: int | None = None) -> None:
        self.layer, self.bound = layer, bound
        self._factor, self._directions = Factor(), Directions()
        self._waiting: list[Tensor] = []

    def update(self, rows: Tensor) -> None:
        """Adds finite rows (n, d)."""
        self._directions.update(rows)
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= max(1024, 2 * rows.shape[1]):
            self.flush()

    def merge(self, other: LayerSums) -> None:
        """Adds the rows of other sums of the same layer; both are flushed."""
        self._factor.merge(other._factor)
        self._directions.merge(other._directions)

    def measured(self) -> MeasuredLayer:
        """The results for all rows, of which there must be at least one."""
        self.flush()
        s = self._factor.singular_values().cpu()
        n, d = self._factor.rows, len(self._directions.total)
        possible = s[: possible_directions(n, d, self.bound)]
        values = {metric.__name__: metric(possible) for metric in (auc, effective_rank, dead_directions)}
        values |= {metric.__name__: metric(self._directions) for metric in (feature_std, mean_norm)}
        uncentred = self._factor.singular_values(center=False).cpu()
        values |= {"total_variance": total_variance(possible, n=n), "coding_rate": coding_rate(uncentred, n=n, d=d)}
        dead = dead_dimensions(self._factor.deviations())
        metrics = {name: float(values[name]) for name in LAYER_METRICS}
        return MeasuredLayer(self.layer, n, d, self.bound, s, metrics, len(dead))

    def flush(self) -> None:
        """Adds the rows that wait for a block of efficient size."""
        if self._waiting:
            self._factor.update(torch.cat(self._waiting))
            self._waiting.clear()


def on_exact_device(rows: Tensor) -> Tensor:
    """``rows`` on a device that supports float64: their own, or the CPU."""
    return rows if widest_float(rows.device) == torch.float64 else rows.cpu()
