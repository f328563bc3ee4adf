"""Row sets, nearest neighbours and votes against plain loops and whole matrices.

Tests of the exact order use exact numbers: small integers for ``l2``, rows whose length is a power of two for ``cos``,
and 2^n rows in the bank, so that its mean is exact. No rounding decides between two neighbours.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from knn_helpers import similarities
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import predicted_classes
from ssltool.reprs.row_set import RowSet

seeds = st.integers(0, 2**32 - 1)


# Row sets


@st.composite
def row_sets(draw: st.DrawFn) -> tuple[RowSet, Tensor, list[int]]:
    """A set of rows, all rows of its parts in one matrix, and the numbers of those that count."""
    sizes, width = draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)), draw(st.integers(1, 3))
    whole = torch.arange(sum(sizes) * width, dtype=torch.float32).reshape(-1, width)
    rows, numbers = RowSet(whole.split(sizes)), list(range(len(whole)))
    for _ in range(draw(st.integers(0, 2))):
        mask = draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
        rows = rows.keep(torch.tensor(mask, dtype=torch.bool))
        numbers = [number for number, kept in zip(numbers, mask, strict=True) if kept]
    return rows, whole, numbers


@given(row_sets(), st.data())
def test_a_row_set_is_the_rows_that_were_kept_of_all_parts_in_order(made, data):
    rows, whole, numbers = made
    wanted = whole[numbers]
    assert (len(rows), rows.width) == (len(numbers), whole.shape[1])
    low = data.draw(st.integers(0, len(rows)))
    high = data.draw(st.integers(low, len(rows)))
    assert torch.equal(rows.block(low, high), wanted[low:high])
    if numbers:
        places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))
        assert torch.equal(rows.take(torch.tensor(places, dtype=torch.int64)), wanted[places])
        found = rows.index_of(torch.tensor([*places, -1]))
        assert found.tolist() == [*(numbers[place] for place in places), -1]


# Neighbours


@st.composite
def exact_rows(draw: st.DrawFn, count: int, metric: str) -> Tensor:
    """Rows in four dimensions that are compared without rounding, with copies and rows of zeros among them."""
    rng = np.random.default_rng(draw(seeds))
    if metric == "l2":
        return torch.from_numpy(rng.integers(-2, 3, (count, 4))).float()
    axes = np.concatenate([np.eye(4), -np.eye(4), rng.choice([-1, 1], (6, 4)), np.zeros((1, 4))])
    return torch.from_numpy(axes[rng.integers(0, len(axes), count)] * rng.choice([1, 2, 0.5], (count, 1))).float()


def exact_similarities(bank: Tensor, queries: Tensor, metric: str) -> Tensor:
    """(N, M) float64, by differences and without a root: minus half the squared distance, or cosine - 1."""
    bank, queries = bank.double(), queries.double()
    if metric == "l2":
        return (queries[:, None] - bank).square().sum(dim=2) / -2
    return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T - 1


@st.composite
def exact_searches(draw: st.DrawFn) -> tuple[Tensor, Tensor, str]:
    metric = draw(st.sampled_from(["cos", "l2"]))
    bank = draw(exact_rows(2 ** draw(st.integers(0, 7)), metric))
    return bank, draw(exact_rows(draw(st.integers(1, 12)), metric)), metric


@given(exact_searches(), st.integers(1, 40), st.none() | st.integers(1, 5))
def test_neighbours_are_those_of_a_stable_sort_of_all_similarities(made, k, chunk):
    bank, queries, metric = made
    similarity, rows = neighbours(bank, queries, k=k, metric=metric, chunk=chunk)
    wanted, order = exact_similarities(bank, queries, metric).sort(dim=1, descending=True, stable=True)
    count = min(k, len(bank))
    assert torch.equal(rows[:, :count], order[:, :count])
    assert torch.equal(similarity[:, :count].double(), wanted[:, :count])
    assert (rows[:, count:] == -1).all()
    assert (similarity[:, count:] == -torch.inf).all()


@given(exact_searches(), st.integers(1, 20), seeds, st.integers(1, 6))
def test_rows_with_the_querys_own_id_are_left_out(made, k, seed, ids):
    bank, queries, metric = made
    generator = torch.Generator().manual_seed(seed)
    of_bank = torch.randint(ids, (len(bank),), generator=generator)
    of_queries = torch.randint(ids + 1, (len(queries),), generator=generator)
    _, rows = neighbours(bank, queries, k=k, metric=metric, skip=(of_bank, of_queries))
    every = exact_similarities(bank, queries, metric).sort(dim=1, descending=True, stable=True).indices
    for order, own, found in zip(every.tolist(), of_queries, rows.tolist(), strict=True):
        wanted = [row for row in order if of_bank[row] != own][:k]
        assert found == wanted + [-1] * (k - len(wanted))


@given(st.integers(1, 80), st.integers(1, 10), st.integers(1, 9), st.sampled_from(["cos", "l2"]), st.data())
def test_any_rows_have_the_largest_similarities_once_each(n, width, k, metric, data):
    rng = np.random.default_rng(data.draw(seeds))
    spread, offset = data.draw(st.sampled_from([1.0, 0.01])), data.draw(st.sampled_from([0.0, 1.0]))
    bank, queries = (torch.from_numpy(offset + spread * rng.standard_normal((m, width))).float() for m in (n, 6))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    parts = RowSet([bank[low:high] for low, high in pairwise([0, *cuts, n])])
    similarity, rows = neighbours(parts, queries, k=k, metric=metric)
    every = similarities(bank, queries, metric)
    count = min(k, n)
    torch.testing.assert_close(similarity[:, :count].double(), every.topk(count, dim=1).values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(similarity[:, :count].double(), every.gather(1, rows[:, :count]), rtol=1e-5, atol=1e-6)
    assert all(len(set(found)) == count for found in rows[:, :count].tolist())


# Votes


@st.composite
def neighbour_lists(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Similarities (n, k), largest first, -inf where there are fewer neighbours; their classes; how many classes."""
    n, k, count = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(seeds))
    similarity = -np.sort(rng.integers(0, 6, (n, k)) / 4)
    similarity[np.arange(k) >= rng.integers(0, k + 1, (n, 1))] = -np.inf
    return torch.from_numpy(similarity).float(), torch.from_numpy(rng.integers(0, count, (n, k))), count


@given(neighbour_lists())
def test_the_most_frequent_class_of_the_first_neighbours_wins_and_the_smallest_of_several(made):
    similarity, classes, count = made
    found = predicted_classes(similarity, classes, count)
    for near, labels, winners in zip(similarity.tolist(), classes.tolist(), found.tolist(), strict=True):
        for j, winner in enumerate(winners, start=1):
            tally = Counter(label for label, value in zip(labels[:j], near[:j], strict=True) if value > -np.inf)
            assert winner == min(tally, key=lambda label: (-tally[label], label), default=count)


@given(neighbour_lists(), st.sampled_from([0.07, 0.5, 2.0]))
def test_the_class_with_the_largest_sum_of_weights_wins(made, temperature):
    """Sums that differ by their rounding only are equal here, since the order of adding decides between them."""
    similarity, classes, count = made
    found = predicted_classes(similarity, classes, count, weighted=True, temperature=temperature)
    weights = np.exp(similarity.double().numpy() / temperature)
    for weight, labels, winners in zip(weights, classes.numpy(), found.tolist(), strict=True):
        for j, winner in enumerate(winners, start=1):
            tally = np.bincount(labels[:j], weight[:j], minlength=count)
            if tally.any():
                assert tally[winner] >= tally.max() * (1 - 1e-12)
            else:
                assert winner == count
