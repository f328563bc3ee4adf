"""Orders that are computed element by element: keyed permutations, and the epochs of ``--keyed-order`` and
``--stream``."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.data.computed_orders import Consecutive, KeyedPermutation
from ssltool.data.strategies import epoch_indices, epoch_parts, images_seen

keys = st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=3)


@given(st.integers(1, 3000), keys)
def test_a_keyed_permutation_has_each_number_once(n, key):
    assert np.array_equal(np.sort(KeyedPermutation(n, *key)[:]), np.arange(n))


@given(st.integers(1, 500), keys, st.data())
def test_elements_do_not_depend_on_what_is_computed_with_them(n, key, data):
    order = KeyedPermutation(n, *key)
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    assert np.array_equal(order[places], order[:][places])
    start = data.draw(st.integers(0, n))
    assert np.array_equal(order[start:], order[:][start:])


def test_a_thousand_billion_numbers_take_no_memory():
    order = KeyedPermutation(10**12, 3)
    found = order[10**12 - 100_000 :]
    assert len(np.unique(found)) == 100_000
    assert 0 <= found.min() < 10**8 and 10**12 - 10**8 < found.max() < 10**12  # spread over the whole range


def test_each_number_is_as_often_at_each_position():
    n, draws, bins = 1000, 200, 10
    counts = np.zeros((bins, bins))  # of tenths of the positions and of the numbers
    for key in range(draws):
        np.add.at(counts, (np.arange(n) * bins // n, KeyedPermutation(n, key)[:] * bins // n), 1)
    expected = draws * n / bins**2
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 81 + 5 * 162**0.5  # (bins - 1)^2 degrees of freedom; five standard deviations


def test_positions_outside_are_refused():
    with pytest.raises(IndexError):
        KeyedPermutation(10, 1)[np.array([10])]
    with pytest.raises(IndexError):
        Consecutive(10)[np.array([-1])]


schedules = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["iid", "current", "accumulate", "last", "replay"]),
        "epochs": st.just(4),
        "replay_size": st.integers(0, 30),
        "replay_rule": st.just("fifo"),
    }
)


@given(st.integers(40, 200), st.integers(1, 10), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99), schedules)
def test_a_keyed_epoch_draws_from_its_subset_in_whole_passes(n, batch_size, repeat, epoch, seed, schedule):
    order = KeyedPermutation(n, seed)
    settings = {"epoch": epoch, "seed": seed, **schedule}
    start, stop, replayed = epoch_parts(order, **settings)
    subset = {*replayed.tolist(), *order[start:stop].tolist()}
    found = np.asarray(epoch_indices(order, batch_size=batch_size, repeat_batch=repeat, **settings))
    batches = found.reshape(-1, batch_size)
    assert len(batches) == n // batch_size
    for first in range(0, len(batches), repeat):  # each batch is used ``repeat`` times in a row
        assert (batches[first : first + repeat] == batches[first]).all()
    distinct, per_pass = batches[::repeat], len(subset) // batch_size
    for first in range(0, len(distinct), per_pass):
        images = distinct[first : first + per_pass].ravel().tolist()
        assert subset.issuperset(images) and len({*images}) == len(images)


def test_epochs_and_passes_are_permuted_differently():
    order = KeyedPermutation(60, 1)
    settings = {"strategy": "current", "epochs": 2, "batch_size": 10}
    one, two = np.asarray(epoch_indices(order, epoch=0, **settings)).reshape(2, 30)
    assert sorted(one) == sorted(two) and list(one) != list(two)
    other = np.asarray(epoch_indices(order, epoch=0, seed=11, **settings))[:30]
    assert sorted(one) == sorted(other) and list(one) != list(other)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 6))
def test_a_stream_reads_each_image_once_in_order(epochs, steps, repeat, batch_size):
    n = epochs * -(-steps // repeat) * batch_size
    settings = {"strategy": "current", "epochs": epochs, "batch_size": batch_size, "steps_per_epoch": steps}
    rows = [
        np.asarray(epoch_indices(Consecutive(n), epoch=epoch, repeat_batch=repeat, **settings))
        for epoch in range(epochs)
    ]
    batches = np.concatenate(rows).reshape(-1, batch_size)
    assert len(batches) == epochs * steps
    assert np.array_equal(np.unique(batches), np.arange(n))
    assert (np.diff(batches[:, 0]) >= 0).all()
    assert max(Counter(batches[:, 0].tolist()).values()) <= repeat


@given(st.integers(20, 60), st.sampled_from(["iid", "current", "last"]), st.integers(0, 9), st.integers(1, 4))
def test_images_seen_counts_those_of_the_epochs(n, strategy, seed, done):
    settings = {"strategy": strategy, "epochs": 4, "batch_size": 3, "seed": seed}
    order = KeyedPermutation(n, seed, 16)
    used = {int(i) for epoch in range(done) for i in np.asarray(epoch_indices(order, epoch=epoch, **settings))}
    assert images_seen(n, done, keyed_order=True, **settings) == len(used)
