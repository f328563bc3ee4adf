"""Exact nearest neighbours in bounded memory.

A tile of similarities, some rows of the bank by some queries, is made at a time and stays in the cache. The maxima of
its blocks of rows tell which blocks hold anything nearer than the k-th neighbour so far; only those are looked at. So
the work is one product of matrices, and little beside it. Where the products of two neighbours are closer than their
rounding, the differences of the rows decide: equal rows are equally far, copies of the query at distance 0, and equally
near rows in the order of the bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.metric_space import Map, Placed, Space, product, workers
from ssltool.reprs.row_set import RowSet

CPU = torch.device("cpu")

MEMORY = 512
"""MiB that a search takes where nothing else is said."""

CELL = 96
"""Bytes that a similarity may take while a tile is sorted out, where all are equal; else a tenth."""

SPARE = 64
"""More neighbours than asked for that bfloat16 looks for, at least; else as many again. In tight clusters it confuses
many."""

ROUNDING = 2.0**-21
"""What a product of two rows of length 1 may be off in float32, for each root of their width; it is less."""

EVEN = 8
"""Tiles are a multiple of this in height and width: then equal rows have equal products, wherever they stand."""


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
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of ``bank`` (M, d) to each of ``queries`` (N, d), as (similarity, row), each (N, k) on the
    CPU, most similar first, equally similar ones in the order of the bank; -inf and -1 where there are fewer than k.

    Similarity is minus half the squared Euclidean distance: of the rows as they are for ``l2``, of the rows at length 1
    for ``cos``, where it is cosine - 1. ``skip`` = (bank ids (M,), query ids (N,)) leaves out the bank rows whose id is
    the query's own. With ``precision`` "bf16" neighbours are looked for in bfloat16 and ranked in float32.

    ``memory`` is what the search may take in MiB beside the rows as given and the result; at most ``chunk`` queries are
    compared at a time. ``each`` is told how many queries times rows of the bank have been compared, now and then.

    Raises:
        SSLToolError: for widths that differ, an empty bank, or NaN or infinite values.
    """
    bank, queries = RowSet.of(bank), RowSet.of(queries)
    if bank.width != queries.width:
        raise SSLToolError(
            f"the bank's representations are {bank.width} wide and the queries' {queries.width}; "
            "save both with the same network and --layer"
        )
    if not len(bank):
        raise SSLToolError("the bank has no rows, so there is nothing near")
    fetch = min(k + _most_own(skip) + (max(k, SPARE) if precision == "bf16" else 0), len(bank))
    with workers(device) as (threads, spread):
        similarity = torch.full((len(queries), k), -torch.inf, dtype=torch.float32)
        rows = torch.full((len(queries), k), -1)
        space = Space.around(bank, metric, device, precision)
        sizes = Sizes.within(memory, bank.width, fetch, threads, len(bank), len(queries), chunk)

        def finish(tile: Tile) -> None:
            found, places = tile.ranked(bank, sizes.ranked)
            if skip is not None:
                found, places = _without_own(found, places, skip[0], skip[1][tile.low : tile.high])
            count = min(k, found.shape[1])
            similarity[tile.low : tile.high, :count] = found[:, :count]
            rows[tile.low : tile.high, :count] = places[:, :count]

        for low in range(0, len(queries), sizes.chunk):
            spans = _spans(low, min(low + sizes.chunk, len(queries)), sizes.queries)
            tiles = list(spread(lambda span: Tile(space, queries, span, fetch), spans))
            _search(space, bank, tiles, sizes, spread, each)
            list(spread(finish, tiles))
    return similarity, rows


def _spans(low: int, high: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, high)) for start in range(low, high, step)]


def _most_own(skip: tuple[Tensor, Tensor] | None) -> int:
    """The most rows of the bank that have one id."""
    return 0 if skip is None or not len(skip[0]) else int(skip[0].unique(return_counts=True)[1].max())


def _search(
    space: Space, bank: RowSet, tiles: list[Tile], sizes: Sizes, spread: Map, each: Callable[[int], object] | None
) -> None:
    """Shows every row of the bank to every tile, a block of the bank after the other."""

    def prepare(span: tuple[int, int]) -> tuple[int, Tensor, Tensor]:
        placed = space.place(bank.block(*span))
        missing = sizes.rows - len(placed.x)
        half = F.pad(placed.half, (0, missing), value=torch.inf)
        return span[0], space.operand(F.pad(placed.x, (0, 0, 0, missing))), half[:, None]

    def show(tile: Tile) -> None:
        for low, near, half in block:
            tile.offer(product(near, tile.operand).sub_(half), low)

    for low, high in _spans(0, len(bank), sizes.block):
        block = list(spread(prepare, _spans(low, high, sizes.rows)))
        list(spread(show, tiles))
        if each is not None:
            each((high - low) * sum(len(tile) for tile in tiles))


class Tile:
    """Some queries, those from ``low`` to ``high`` - 1, and the best that each has met: ``values`` (n, k), similarities
    without the query's own half, and ``rows`` (n, k), the most similar first."""

    def __init__(self, space: Space, queries: RowSet, span: tuple[int, int], k: int) -> None:
        self.space, self.queries = space, queries
        self.low, self.high = span
        placed = space.place(queries.block(*span))
        self.operand = space.operand(F.pad(placed.x, (0, 0, 0, -len(self) % EVEN)))
        self.values = torch.full((len(self), k), -torch.inf, dtype=torch.float32, device=space.device)
        self.rows = torch.full((len(self), k), -1, device=space.device)

    def __len__(self) -> int:
        return self.high - self.low

    def offer(self, similarity: Tensor, first: int) -> None:
        """Takes what is among the best from (m, n or more) similarities of the rows from ``first`` on."""
        n, k = self.values.shape
        blocks = similarity.unflatten(0, (-1, _block_of(len(similarity), k)))
        maxima = blocks.amax(dim=1)[:, :n].T
        limit = self.values[:, -1]
        if maxima.shape[1] >= k and not bool((limit > -torch.inf).all()):
            # Each of the k blocks with the largest maxima has something as good as the last of these maxima.
            least = maxima.topk(k, dim=1, sorted=False).values.amin(dim=1)
            limit = torch.maximum(limit, torch.nextafter(least, least.new_tensor(-torch.inf)))
        query, block = (maxima > limit[:, None]).nonzero(as_tuple=True)
        inside = blocks[block, :, query]
        pair, place = (inside > limit[query, None]).nonzero(as_tuple=True)
        if len(pair):
            self._merge(query[pair], inside[pair, place], block[pair] * blocks.shape[1] + place + first)

    def _merge(self, query: Tensor, values: Tensor, rows: Tensor) -> None:
        """Takes in similarities ``values`` (e,) of ``rows`` (e,), in the order of ``query`` (e,), then of the rows."""
        n, k = self.values.shape
        count = torch.bincount(query, minlength=n)
        column = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query] + k
        added = int(count.max())
        values = F.pad(self.values, (0, added), value=-torch.inf).index_put_((query, column), values)
        rows = F.pad(self.rows, (0, added), value=-1).index_put_((query, column), rows)
        values, order = values.sort(dim=1, descending=True, stable=True)
        self.values, self.rows = values[:, :k].clone(), rows.gather(1, order[:, :k])

    def ranked(self, bank: RowSet, count: int) -> tuple[Tensor, Tensor]:
        """(similarity, row), each (n, k) on the CPU, in their final order.

        What rounding may have put out of order, and copies of the query, are compared again by the differences of the
        rows, ``count`` at a time: products of float32 numbers leave an error, differences of equal rows are 0.
        """
        query = self.space.place(self.queries.block(self.low, self.high))
        rows, order = self.rows.sort(dim=1, stable=True)
        similarity = self.values.gather(1, order) - query.half[:, None]
        at, column = self._close(query).gather(1, order).nonzero(as_tuple=True)
        for part in torch.arange(len(at), device=at.device).split(count):
            place = (at[part], column[part])
            near = self.space.place(bank.take(rows[place].cpu()))
            away = near.x.sub_(query.x[at[part]]).square_().sum(dim=1)
            similarity[place] = away.div_(-2).sub_(near.lack).sub_(query.lack[at[part]])
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        return similarity.clamp(max=0.0).cpu(), rows.gather(1, order).cpu()

    def _close(self, query: Placed) -> Tensor:
        """Which neighbours (n, k) are as similar as another, or as the query itself, to within the error of products;
        all where it is that of bfloat16."""
        if self.space.half_precision:
            return torch.ones_like(self.rows, dtype=torch.bool)
        # Of a product and of half a squared length: neither row is longer, squared, than twice the query's squared
        # length and its squared distance together.
        longest = 2 * (2 * query.half - self.values[:, -1])
        error = (ROUNDING * self.operand.shape[1] ** 0.5 * longest)[:, None]
        gap = F.pad(self.values.diff(dim=1).neg() <= error, (1, 0))
        return gap | F.pad(gap[:, 1:], (0, 1)) | (query.half[:, None] - self.values <= error)


def _block_of(rows: int, k: int) -> int:
    """Rows in a block, so that there are twice as many blocks as neighbours where that can be."""
    return next((size for size in (32, 16, 8, 4, 2) if rows % size == 0 and rows // size >= 2 * k), 1)


def _without_own(similarity: Tensor, rows: Tensor, bank_ids: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Moves a query's own rows to the end, where they are none."""
    own = bank_ids[rows] == ids[:, None]
    order = own.long().sort(dim=1, stable=True).indices
    own = own.gather(1, order)
    return (
        similarity.gather(1, order).masked_fill_(own, -torch.inf),
        rows.gather(1, order).masked_fill_(own, -1),
    )


@dataclass(frozen=True)
class Sizes:
    """How much is compared at a time: a tile is ``rows`` of the bank by ``queries``, ``block`` rows of the bank are
    prepared at once, and ``chunk`` queries; ``ranked`` rows are compared by their differences."""

    rows: int
    queries: int
    block: int
    chunk: int
    ranked: int

    @classmethod
    def within(
        cls, memory: float, width: int, fetch: int, threads: int, bank: int, queries: int, chunk: int | None
    ) -> Sizes:
        """What fits: half of ``memory``, in MiB, for tiles, of which each thread has one, a quarter for rows of the
        bank, a quarter for queries."""
        half = memory * 2**20 / 2
        row = 8 * (width + 2)  # as it is placed, and as an operand
        cells = half / threads / CELL
        rows = 2 ** int(math.log2(max(EVEN, min(4096, 4 * cells**0.5, half / 2 / row))))
        rows = min(rows, -(-bank // EVEN) * EVEN)
        share = -(-queries // threads)  # each thread has something to do
        wide = max(EVEN, int(min(512, cells / rows, share + EVEN - 1)) // EVEN * EVEN)
        most = max(1, min(int(half / 2 / (row + 32 * fetch)), chunk or queries))
        together = max(1, min(8, int(half / 2 / row / rows)))
        return cls(rows, wide, rows * together, most, max(1, int(half / threads / (32 * width))))
