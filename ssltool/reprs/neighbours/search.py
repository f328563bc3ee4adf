"""Exact nearest neighbours in bounded memory.

Similarities are computed in tiles, some rows of the bank by some queries, that fit into the cache. The maximum of each
block of rows in a tile shows whether the block holds a row nearer than the k-th neighbour so far; only such blocks are
searched. So most of the work is one matrix product. Where two neighbours differ by less than the rounding error of the
product, their distances are computed again from the differences of the rows: equal rows have equal distances, copies
of the query have distance 0, and equally near rows are in the order of the bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.metric_space import Map, MetricSpace, Transformed, product, workers
from ssltool.reprs.row_set import RowSet
from ssltool.training.ranks import ALONE, Ranks

CPU = torch.device("cpu")

MEMORY = 512
"""Default memory of a search in MiB."""

CELL = 96
"""Bytes per similarity that processing a tile takes in the worst case, when all are equal; usually a tenth."""

SPARE = 64
"""Least number of additional neighbours, else k, that a search in bfloat16 finds before ranking them in float32: in
tight clusters bfloat16 cannot tell many rows apart."""

ROUNDING = 2.0**-21
"""Bound of the error of the float32 product of two unit vectors, divided by the square root of their width."""

Nearest = tuple[Tensor, Tensor]
"""The values and rows, each (n, k), of the nearest rows of n queries."""

MULTIPLE = 8
"""Tiles have multiples of this many rows and columns, so that equal rows have equal products at any position."""


def neighbours(
    bank: Tensor | RowSet,
    queries: Tensor | RowSet,
    *,
    k: int,
    metric: str = "cos",
    skip: tuple[Tensor, Tensor] | None = None,
    device: torch.device = CPU,
    precision: str = "fp32",
    memory: float = MEMORY,
    chunk: int | None = None,
    each: Callable[[int], object] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of ``bank`` (M, d) to each of ``queries`` (N, d).

    Args:
        metric: similarity is minus half the squared Euclidean distance: of the rows themselves for "l2", of the
            normalised rows for "cos", where it equals cosine - 1.
        skip: (bank ids (M,), query ids (N,)); rows of the bank with the id of the query are not its neighbours.
        precision: "fp32", or "bf16" to search in bfloat16 and rank the found rows in float32.
        memory: MiB that the search may use in addition to its inputs and result.
        chunk: the largest number of queries that are compared at a time.
        each: called from time to time with the number of comparisons since the last call.
        ranks: each of several compares its part of the bank with all queries.

    Returns:
        Similarities and rows of the bank, each (N, k) on the CPU, most similar first, equally similar rows in the order
        of the bank; -inf and -1 where there are fewer than k. Similarities that float32 may not hold are float64.
        Of several ranks, rank 0 has the result; the others have no rows.

    Raises:
        SSLToolError: for different widths, an empty bank, or NaN or infinite values.
    """
    bank, queries = _checked(RowSet.of(bank), RowSet.of(queries))
    fetch = min(k + _most_repeated(skip) + (max(k, SPARE) if precision == "bf16" else 0), len(bank))
    with workers(device) as (threads, spread):
        count = 0 if ranks.rank else len(queries)
        similarity = torch.full((count, k), -torch.inf, dtype=torch.float32)
        rows = torch.full((count, k), -1)
        space = MetricSpace.centred_on(bank, metric, device, precision, queries)
        sizes = TileSizes.within(memory, bank.width, fetch, threads, len(bank), len(queries), chunk)

        def finish(tile: Tile) -> None:
            found, near = tile.ranked(bank, sizes.ranked)
            if skip is not None:
                found, near = _exclude(found, near, skip[0], skip[1][tile.low : tile.high])
            count = min(k, found.shape[1])
            similarity[tile.low : tile.high, :count] = found[:, :count]
            rows[tile.low : tile.high, :count] = near[:, :count]

        for low in range(0, len(queries), sizes.chunk):
            spans = _spans(low, min(low + sizes.chunk, len(queries)), sizes.queries)
            with ranks.same_errors():
                tiles = list(spread(lambda span: Tile(space, queries, span, fetch), spans))
                _search(space, bank, tiles, sizes, spread, each, ranks)
            _merge_ranks(tiles, ranks)
            with ranks.same_errors():
                list(spread(finish, [] if ranks.rank else tiles))
    return space.in_original_scale(similarity), rows


def _checked(bank: RowSet, queries: RowSet) -> tuple[RowSet, RowSet]:
    if bank.width != queries.width:
        raise SSLToolError(
            f"the bank has width {bank.width} and the queries have width {queries.width}; "
            "save both with the same network and --layer"
        )
    if not len(bank):
        raise SSLToolError("the bank has no rows; save representations of labelled images")
    return bank, queries


def _spans(low: int, high: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, high)) for start in range(low, high, step)]


def _most_repeated(skip: tuple[Tensor, Tensor] | None) -> int:
    """The largest number of rows of the bank with the same id."""
    return 0 if skip is None or not len(skip[0]) else int(skip[0].unique(return_counts=True)[1].max())


def _search(
    space: MetricSpace,
    bank: RowSet,
    tiles: list[Tile],
    sizes: TileSizes,
    spread: Map,
    each: Callable[[int], object] | None,
    ranks: Ranks,
) -> None:
    """Compares every row of this rank's part of the bank with every tile, one block of the bank at a time.

    Parts begin where blocks of ``sizes.rows`` rows do in one process, so that the products are the same to the bit.
    """

    def prepare(span: tuple[int, int]) -> tuple[int, Tensor, Tensor]:
        transformed = space.transform(bank.block(*span))
        missing = sizes.rows - len(transformed.x)
        half_norms = F.pad(transformed.half_norms, (0, missing), value=torch.inf)
        return span[0], space.operand(F.pad(transformed.x, (0, 0, 0, missing))), half_norms[:, None]

    def compare(tile: Tile) -> None:
        for low, rows, half_norms in block:
            tile.update(product(rows, tile.operand).sub_(half_norms), low)

    part = ranks.span(-(-len(bank) // sizes.rows))
    for low, high in _spans(part.start * sizes.rows, min(part.stop * sizes.rows, len(bank)), sizes.block):
        block = list(spread(prepare, _spans(low, high, sizes.rows)))
        list(spread(compare, tiles))
        if each is not None:
            each((high - low) * sum(len(tile) for tile in tiles))


def _merge_ranks(tiles: list[Tile], ranks: Ranks) -> None:
    """Gives the tiles of rank 0 the nearest rows of all ranks, whose parts of the bank are in their order."""

    def merge(one: list[Nearest], other: list[Nearest]) -> list[Nearest]:
        return [
            _nearest(torch.cat([values, more], dim=1), torch.cat([rows, further], dim=1), values.shape[1])
            for (values, rows), (more, further) in zip(one, other, strict=True)
        ]

    merged: list[Nearest] = ranks.merged([(tile.values, tile.rows) for tile in tiles], merge)
    for tile, nearest in zip(tiles, merged, strict=True):
        tile.values, tile.rows = nearest


def _nearest(values: Tensor, rows: Tensor, k: int) -> Nearest:
    """The ``k`` columns of ``values`` (n, m) that are largest, in descending order, and the ``rows`` (n, m) there; of
    equal values the first ones."""
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k].clone(), rows.gather(1, order[:, :k])


class Tile:
    """The queries ``low`` to ``high`` - 1 and their k nearest rows so far: ``rows`` (n, k), most similar first, and
    ``values`` (n, k), the similarities plus the query's half norm."""

    def __init__(self, space: MetricSpace, queries: RowSet, span: tuple[int, int], k: int) -> None:
        self.space, self.queries = space, queries
        self.low, self.high = span
        transformed = space.transform(queries.block(*span))
        self.operand = space.operand(F.pad(transformed.x, (0, 0, 0, -len(self) % MULTIPLE)))
        self.values = torch.full((len(self), k), -torch.inf, dtype=torch.float32, device=space.device)
        self.rows = torch.full((len(self), k), -1, device=space.device)

    def __len__(self) -> int:
        return self.high - self.low

    def update(self, similarity: Tensor, first: int) -> None:
        """Updates the nearest rows by the similarities (m, n or more) of the rows from ``first`` on."""
        n, k = self.values.shape
        blocks = similarity.unflatten(0, (-1, _block_of(len(similarity), k)))
        maxima = blocks.amax(dim=1)[:, :n].T
        limit = self.values[:, -1]
        if maxima.shape[1] >= k and not bool((limit > -torch.inf).all()):
            # Each of the k blocks with the largest maxima has a row at least as similar as the least of these maxima.
            least = maxima.topk(k, dim=1, sorted=False).values.amin(dim=1)
            limit = torch.maximum(limit, torch.nextafter(least, least.new_tensor(-torch.inf)))
        query, block = (maxima > limit[:, None]).nonzero(as_tuple=True)
        inside = blocks[block, :, query]
        pair, offset = (inside > limit[query, None]).nonzero(as_tuple=True)
        if len(pair):
            self._merge(query[pair], inside[pair, offset], block[pair] * blocks.shape[1] + offset + first)

    def _merge(self, query: Tensor, values: Tensor, rows: Tensor) -> None:
        """Adds ``rows`` (e,) with the similarities ``values`` (e,), sorted by ``query`` (e,), then by row."""
        n, k = self.values.shape
        count = torch.bincount(query, minlength=n)
        column = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query] + k
        added = int(count.max())
        values = F.pad(self.values, (0, added), value=-torch.inf).index_put_((query, column), values)
        rows = F.pad(self.rows, (0, added), value=-1).index_put_((query, column), rows)
        self.values, self.rows = _nearest(values, rows, k)

    def ranked(self, bank: RowSet, count: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows, each (n, k) on the CPU, in their final order.

        Neighbours whose order may be due to rounding, and copies of the query, are compared again by the differences of
        the rows, ``count`` at a time: unlike float32 products, differences of equal rows are exactly 0.
        """
        query = self.space.transform(self.queries.block(self.low, self.high))
        rows, order = self.rows.sort(dim=1, stable=True)
        similarity = self.values.gather(1, order) - query.half_norms[:, None]
        at, column = self._within_rounding(query).gather(1, order).nonzero(as_tuple=True)
        for part in torch.arange(len(at), device=at.device).split(count):
            cell = (at[part], column[part])
            near = self.space.transform(bank.take(rows[cell].cpu()))
            distance = near.x.sub_(query.x[at[part]]).square_().sum(dim=1)
            similarity[cell] = distance.div_(-2).sub_(near.penalty).sub_(query.penalty[at[part]])
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        return similarity.clamp(max=0.0).cpu(), rows.gather(1, order).cpu()

    def _within_rounding(self, query: Transformed) -> Tensor:
        """Which neighbours (n, k) are as similar as another one, or as a copy of the query, up to the rounding error of
        products; all of them in bfloat16."""
        if self.space.half_precision:
            return torch.ones_like(self.rows, dtype=torch.bool)
        # The error of a product and of a half norm: no squared norm exceeds twice the sum of the query's squared norm
        # and the squared distance.
        largest = 2 * (2 * query.half_norms - self.values[:, -1])
        error = (ROUNDING * self.operand.shape[1] ** 0.5 * largest)[:, None]
        gap = F.pad(self.values.diff(dim=1).neg() <= error, (1, 0))
        return gap | F.pad(gap[:, 1:], (0, 1)) | (query.half_norms[:, None] - self.values <= error)


def _block_of(rows: int, k: int) -> int:
    """Rows per block, so that there are at least twice as many blocks as neighbours, if possible."""
    return next((size for size in (32, 16, 8, 4, 2) if rows % size == 0 and rows // size >= 2 * k), 1)


def _exclude(similarity: Tensor, rows: Tensor, bank_ids: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Replaces the rows that have the query's id by -1, at the end."""
    own = bank_ids[rows] == ids[:, None]
    order = own.long().sort(dim=1, stable=True).indices
    own = own.gather(1, order)
    return (
        similarity.gather(1, order).masked_fill_(own, -torch.inf),
        rows.gather(1, order).masked_fill_(own, -1),
    )


@dataclass(frozen=True)
class TileSizes:
    """How much is compared at a time.

    A tile is ``rows`` rows of the bank by ``queries`` queries. ``block`` rows of the bank and ``chunk`` queries are
    transformed at once, and ``ranked`` rows are compared by their differences.
    """

    rows: int
    queries: int
    block: int
    chunk: int
    ranked: int

    @classmethod
    def within(
        cls, memory: float, width: int, fetch: int, threads: int, bank: int, queries: int, chunk: int | None
    ) -> TileSizes:
        """The sizes that fit into ``memory`` MiB: half for the tiles, one per thread, a quarter for rows of the bank, a
        quarter for queries."""
        half = memory * 2**20 / 2
        row = 8 * (width + 2)  # transformed, and as an operand
        cells = half / threads / CELL
        rows = 2 ** int(math.log2(max(MULTIPLE, min(4096, 4 * cells**0.5, half / 2 / row))))
        rows = min(rows, -(-bank // MULTIPLE) * MULTIPLE)
        share = -(-queries // threads)  # so that each thread has work
        wide = max(MULTIPLE, int(min(512, cells / rows, share + MULTIPLE - 1)) // MULTIPLE * MULTIPLE)
        most = max(1, min(int(half / 2 / (row + 32 * fetch)), chunk or queries))
        together = max(1, min(8, int(half / 2 / row / rows)))
        return cls(rows, wide, rows * together, most, max(1, int(half / threads / (32 * width))))
