"""The part of one of several ranks, in the rows of a batch or of a set, or in what it computes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shard:
    """The part that this process handles."""

    rank: int = 0
    world: int = 1

    def span(self, count: int) -> range:
        """The numbers below ``count`` that this rank handles: contiguous, in the order of the ranks, of equal sizes up
        to one. No rank is without a number if there are as many as ranks."""
        return range(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def slice(self, count: int) -> slice:
        """The rows of this rank, of ``count`` rows, where ranks exchange equally many: as ``span`` if the number of
        ranks divides ``count``; else those of the last ranks are smaller, or empty, so that all padding is at the
        end."""
        share = -(-count // self.world)
        return slice(min(self.rank * share, count), min((self.rank + 1) * share, count))

    def padded(self, count: int) -> np.ndarray:
        """The numbers below ``count`` that this rank handles: as many on every rank. First come those of its
        ``slice``; the first of all pad them."""
        total = -(-count // self.world) * self.world
        return np.resize(np.arange(count), total)[self.slice(total)]

    def of_parts(self, count: int, parts: int) -> np.ndarray:
        """The ``padded`` numbers of each of ``parts`` equal parts of the numbers below ``count``."""
        size = count // parts
        return (np.arange(parts)[:, None] * size + self.padded(size)).ravel()

    def padding(self, count: int) -> int:
        """How many numbers of ``padded`` are not of the ``slice``."""
        own = self.slice(count)
        return -(-count // self.world) - (own.stop - own.start)


ONE_PROCESS = Shard()
"""The shard that has all rows."""
