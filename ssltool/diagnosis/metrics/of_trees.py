"""Metrics of Euclidean minimum spanning trees. Each takes rows ``x`` (N, d) or their ``SpanningTrees``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.diagnosis.metrics.shared import Detailed, checked_rows, from_centre

SMALLEST_PART = 32
"""Least number of rows of a part of which a tree is computed."""

STRAIGHT = 1e-9
"""A slope that differs from 1 by less is 1."""


def edge_lengths(x: Tensor) -> Tensor:
    """The lengths (N - 1,) of the edges of the Euclidean minimum spanning tree of ``x`` (N, d), float64, in the order
    in which Prim's algorithm adds them.

    O(N^2 d) time, and O(N) memory in addition to two copies of the rows. The lengths come from the differences of the
    rows, so that the edge between duplicates is exactly 0.

    Raises:
        SSLToolError: unless ``x`` is a matrix of finite values with at least one row.
    """
    rows = checked_rows(x).cpu().double().numpy()
    edges = _prim(rows)
    return torch.from_numpy(np.linalg.norm(rows[edges[:, 0]] - rows[edges[:, 1]], axis=1))


def _prim(rows: np.ndarray) -> np.ndarray:
    """The edges (N - 1, 2) of the minimum spanning tree of ``rows`` (N, d): the row in the tree, and the one added."""
    n = len(rows)
    edges = np.zeros((n - 1, 2), dtype=np.int64)
    # The rows outside of the tree: their numbers, and for each the nearest row of the tree at a squared distance. Those
    # that are added stay until they are half of them, with an infinite distance.
    numbers, outside, norms = np.arange(n), rows, np.square(rows).sum(axis=1)
    nearest, squared, waiting = np.zeros(n, dtype=np.int64), np.full(n, np.inf), np.ones(n, dtype=bool)
    place = 0
    for edge in edges:
        added = numbers[place]
        waiting[place], squared[place] = False, np.inf
        distance = outside @ rows[added]
        distance *= -2
        distance += norms + np.square(rows[added]).sum()
        closer = (distance < squared) & waiting
        squared[closer], nearest[closer] = distance[closer], added
        place = int(squared.argmin())
        edge[:] = nearest[place], numbers[place]
        if 2 * np.count_nonzero(waiting) < len(waiting):
            place = int(np.count_nonzero(waiting[:place]))
            numbers, outside, norms = numbers[waiting], outside[waiting], norms[waiting]
            nearest, squared = nearest[waiting], squared[waiting]
            waiting = np.ones(len(numbers), dtype=bool)
    return edges


@dataclass(frozen=True)
class SpanningTrees:
    """Minimum spanning trees of all rows and of disjoint parts of them.

    Attributes:
        whole: edge lengths (N - 1,) of the tree of all N rows, duplicates included.
        distance: root mean square distance of all pairs of rows.
        sizes, lengths: of the different rows, the number of rows of a part, and the mean length of the trees of the 1,
            2, 4, ... parts of that size; empty for fewer than two sizes.
        distinct: number of different rows.
    """

    whole: Tensor
    distance: float
    sizes: tuple[int, ...]
    lengths: tuple[float, ...]
    distinct: int

    @classmethod
    def of(cls, x: Tensor | SpanningTrees, seed: int = 0) -> SpanningTrees:
        """The trees of ``x`` (N, d) and of its parts, halves, quarters and so on of its different rows, drawn at
        random; or ``x`` itself if it is such trees. O(N^2 d) time.

        Raises:
            SSLToolError: unless ``x`` is a matrix of finite values with at least two rows.
        """
        if isinstance(x, SpanningTrees):
            return x
        rows = checked_rows(x, 2).cpu()
        n = len(rows)
        distance = (2 * float((rows - rows.mean(dim=0)).square().sum()) / (n - 1)) ** 0.5
        different = torch.unique(rows, dim=0)
        order = torch.randperm(len(different), generator=seeds.generator(seed, seeds.Stream.METRICS))
        different = different[from_centre(different)][order]
        whole = edge_lengths(rows)
        sizes, lengths = [len(different)], [float(whole.sum())]
        while sizes[-1] // 2 >= SMALLEST_PART:
            size = sizes[-1] // 2
            parts = different[: size * (len(different) // size)].split(size)
            lengths.append(sum(float(edge_lengths(part).sum()) for part in parts) / len(parts))
            sizes.append(size)
        several = len(sizes) > 1
        return cls(whole, distance, tuple(sizes) * several, tuple(lengths) * several, len(different))


def mst_dimension(x: Tensor | SpanningTrees) -> float:
    """Intrinsic dimension D from the lengths L(n) ~ n^(1 - 1/D) of minimum spanning trees of n rows (Mordacq et al.,
    IdEst, ICML 2026, arXiv:2606.03338): the slope of log L against log n, by least squares, is 1 - 1/D.

    At least 0: the dimension of the set on which the rows lie; low means collapsed, but its authors find lower values
    in the models with the higher accuracies. Sizes are those of all rows, of halves, quarters and so on, down to 32
    rows, each the mean over disjoint parts, which use all rows and vary less than random subsets. n is the number of
    edges, so that D is 1 if all rows lie on a line, and infinite if all distances are equal. Duplicate rows count once.
    0 if all rows are equal, else NaN for fewer than 64 distinct rows. High dimensions are underestimated, the more so
    the fewer the rows. An outlier raises it if its edge is not short beside the sum of the others. O(N^2 d) time.
    """
    trees = SpanningTrees.of(x)
    if trees.distinct == 1:
        return 0.0
    if not trees.sizes:
        return math.nan
    slope = np.polyfit(np.log(np.array(trees.sizes) - 1), np.log(trees.lengths), 1)[0]
    return 1 / (1 - float(slope)) if slope < 1 - STRAIGHT else math.inf


def persistence(x: Tensor | SpanningTrees) -> Detailed:
    """Total persistence in dimension 0, the sum of the edge lengths of the minimum spanning tree, divided by its
    largest possible value: (N - 1) times the root mean square distance of all pairs (Shestov et al., arXiv:2512.15285).

    Range [0, 1]: 1 if all distances are equal, near 0 if the rows lie in tight clusters or on few dimensions; 0 if all
    rows are equal. The paper also counts higher dimensions of homology; the division is this project's, so that the
    value does not depend on scale. It falls with N, as N^(-1/D) in D dimensions. The details are the ``total`` and the
    ``entropy`` of the shares of the edges, divided by log(N - 1): NaN for fewer than two edges that are not 0.
    O(N^2 d) time.
    """
    trees = SpanningTrees.of(x)
    total, count = float(trees.whole.sum()), len(trees.whole)
    entropy = math.nan
    if int((trees.whole > 0).sum()) > 1:
        entropy = float(torch.special.entr(trees.whole / total).sum()) / math.log(count)
    value = total / (count * trees.distance) if trees.distance > 0 else 0.0
    return Detailed(value, total=total, entropy=entropy)
