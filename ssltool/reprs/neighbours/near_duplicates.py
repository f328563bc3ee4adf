"""Groups of rows that are near each other: the connected components of all pairs within a distance.

Similarities are computed in tiles, of which only the pairs within the distance are kept until they are merged into the
components, so memory does not grow with their number. Pairs whose similarity is within the rounding error of the
threshold are compared again by the differences of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ssltool.reprs.neighbours.metric_space import MetricSpace, Transformed
from ssltool.reprs.neighbours.search import CPU, ROUNDING
from ssltool.reprs.row_set import RowSet

TALL = 2048
"""Most rows of a tile."""

CELL = 192
"""Bytes per cell of a tile: its similarity, and the pair of rows if all cells are within the distance."""

PENDING = 1 << 17
"""Pairs that are collected before they are merged into the components."""


class Components:
    """The connected components of ``count`` rows; ``labels`` (count,) has a number for each."""

    def __init__(self, count: int) -> None:
        self.labels = torch.arange(count)
        self._pending: list[Tensor] = []
        self._waiting = 0

    def add(self, pairs: Tensor) -> None:
        """Connects the rows of each of ``pairs`` (n, 2)."""
        pairs = self.labels[pairs]
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        self._pending.append(pairs)
        self._waiting += len(pairs)
        if self._waiting >= PENDING:
            self.merge()

    def is_one(self, *spans: slice) -> bool:
        """Whether the rows of all ``spans`` are known to be one component: more pairs of them change nothing."""
        first = self.labels[spans[0].start]
        return all(bool((self.labels[span] == first).all()) for span in spans)

    def merge(self) -> None:
        """Updates ``labels`` by all pairs that were added."""
        if self._waiting:
            # Of labels, not of rows: components that were connected before have one label.
            first, second = torch.cat(self._pending).T.numpy()
            ones, size = np.ones(len(first), np.int8), len(self.labels)
            merged = connected_components(coo_array((ones, (first, second)), shape=(size, size)), directed=False)[1]
            self.labels = torch.from_numpy(merged.astype(np.int64))[self.labels]
        self._pending, self._waiting = [], 0

    def groups(self) -> list[Tensor]:
        """The rows of each component of several, as ``groups_of``."""
        self.merge()
        return groups_of(self.labels)


def groups_of(labels: Tensor) -> list[Tensor]:
    """The positions of each value that occurs several times in ``labels`` (N,), ascending, by the first one."""
    _, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    rows = (counts[labels] > 1).nonzero().flatten()
    if not len(rows):
        return []
    order = rows[labels[rows].sort(stable=True).indices]
    _, sizes = labels[order].unique_consecutive(return_counts=True)
    return sorted(order.split(sizes.tolist()), key=lambda group: int(group[0]))


def near_pairs(
    rows: RowSet,
    others: RowSet | None,
    distance: float,
    found: Components,
    *,
    device: torch.device = CPU,
    memory: float,
    each: Callable[[int], object] | None = None,
) -> None:
    """Connects all rows whose cosine distance, 1 - cosine, is at most ``distance``, in ``found``.

    Args:
        rows: (N, d).
        others: (M, d), which have the numbers N to N + M - 1; only pairs of a row and one of these are connected.
            None: all pairs of ``rows``.
        memory: MiB for the tiles.
        each: called from time to time with the number of comparisons since the last call.

    Raises:
        SSLToolError: for different widths, or NaN or infinite values.
    """
    space = MetricSpace.centred_on(rows, "cos", device, "fp32")
    whole = rows if others is None else RowSet([*rows.parts, *others.parts])
    second, shift = (rows, 0) if others is None else (others, len(rows))
    tall = max(8, min(TALL, int(memory * 2**20 / 4 / 8 / rows.width)))
    wide = max(8, min(TALL, int(memory * 2**20 / 2 / CELL / tall)))
    for low in range(0, len(rows), tall):
        high = min(low + tall, len(rows))
        block = space.transform(rows.block(low, high))
        for start in range(low if others is None else 0, len(second), wide):
            end = min(start + wide, len(second))
            if not found.is_one(slice(low, high), slice(start + shift, end + shift)):
                sure, unsure = _within(block, space.transform(second.block(start, end)), distance)
                at = torch.tensor([low, start + shift])
                found.add(sure + at)
                for pairs in _checked(space, whole, unsure + at, distance, found):
                    found.add(pairs)
            if each is not None:
                each((high - low) * (end - start))
    found.merge()


def _within(block: Transformed, other: Transformed, distance: float) -> tuple[Tensor, Tensor]:
    """The pairs (n, 2) that are within the distance, and those that may be, because of rounding."""
    half, other_half = block.half_norms, other.half_norms
    similarity = torch.addmm(other_half[None], block.x, other.x.T, beta=-1)
    error = ROUNDING * block.x.shape[1] ** 0.5 * 2 * float(half.max() + other_half.max())
    pairs = (similarity >= (half - distance - error)[:, None]).nonzero()
    sure = similarity[pairs[:, 0], pairs[:, 1]] >= half[pairs[:, 0]] - distance + error
    pairs, sure = pairs.cpu(), sure.cpu()
    return pairs[sure], pairs[~sure]


def _checked(space: MetricSpace, rows: RowSet, pairs: Tensor, distance: float, found: Components) -> Iterator[Tensor]:
    """Those of ``pairs`` (n, 2) of different components that are within the distance by their differences."""
    for some in pairs.split(max(1, (1 << 22) // rows.width)):
        some = some[found.labels[some[:, 0]] != found.labels[some[:, 1]]]
        if len(some):
            yield some[pair_distances(space, rows, some) <= distance]
            found.merge()


def pair_distances(space: MetricSpace, rows: RowSet, pairs: Tensor) -> Tensor:
    """The cosine distances (n,) of ``pairs`` (n, 2) of rows, by their differences: 0 for equal rows."""
    one, two = (space.transform(rows.take(side)) for side in pairs.T)
    return ((one.x - two.x).square().sum(dim=1) / 2 + one.penalty + two.penalty).cpu()


def typical_distance(rows: RowSet, count: int, generator: torch.Generator, device: torch.device = CPU) -> float:
    """The median cosine distance of ``count`` random pairs of different rows; 0 for a single row."""
    if len(rows) < 2:
        return 0.0
    first = torch.randint(len(rows), (count,), generator=generator)
    second = (first + torch.randint(1, len(rows), (count,), generator=generator)) % len(rows)
    space = MetricSpace.centred_on(rows, "cos", device, "fp32")
    return float(pair_distances(space, rows, torch.stack([first, second], dim=1)).median())


def row_hashes(rows: RowSet) -> Tensor:
    """A number for each row (N,) int64, the same for rows whose float32 values are equal."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (rows.width,), generator=generator) * 2 + 1
    hashes = []
    for low in range(0, len(rows), TALL):
        words = (rows.block(low, min(low + TALL, len(rows))).float() + 0.0).contiguous().view(torch.int32)
        mixed = words.long() * -7046029254386353131  # 2^64 / golden ratio: spreads the bits of each word
        hashes.append(((mixed ^ (mixed >> 29)) * factors).sum(dim=1))
    return torch.cat(hashes)
