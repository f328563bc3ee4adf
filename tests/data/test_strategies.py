"""The data strategies: element for element the paper's sequences, what they cover, and what they refuse."""

from __future__ import annotations

import itertools
import math
import os
from fractions import Fraction

import numpy as np
import pytest

from ssltool.data.strategies import (
    epoch_indices,
    epoch_subset,
    few_steps_notes,
    read_numbers,
    read_order,
    steps_in_epoch,
)
from ssltool.errors import SSLToolError

PAPER_STRATEGIES = ("current", "accumulate", "last")
SCHEDULES = [(1, 1, 1), (4, 1, 1), (7, 1, 1), (6, 1, 2), (7, 1, 3), (5, 1, 9), (6, 2, 1), (9, 3, 2), (8, 2, 3)]
"""(epochs, rounds, epochs in a chunk), with chunks that do not divide a round and one longer than it."""


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63 - 1])
def test_any_seed_orders_the_images(seed):
    assert sorted(read_order(None, 10, seed)) == list(range(10))


def naive_indices(order, strategy, epoch, epochs, batch, chunk_size, n_rounds, repeat, steps, seed):
    """The paper's sequence, batch by batch on plain lists, its slices in exact fractions."""
    n = len(order)
    per_round = Fraction(epochs, n_rounds)
    chunk = math.floor((epoch % per_round) / chunk_size)
    share = n * chunk_size / per_round  # images in a chunk, not rounded
    kept = {
        "current": lambda p: math.floor(chunk * share) <= p < math.floor((chunk + 1) * share),
        "accumulate": lambda p: p < math.floor((chunk + 1) * share),
        "last": lambda p: p >= n - math.ceil(share),
    }[strategy]
    images = [image for place, image in enumerate(order) if kept(place)]
    rng = np.random.RandomState(epoch + seed)
    batches = []
    while len(batches) < (n // batch if steps is None else steps):
        left = list(rng.permutation(images))
        while len(left) >= batch:
            batches += [left[:batch]] * repeat
            left = left[batch:]
    return list(itertools.chain(*batches[: n // batch if steps is None else steps]))


def chunks(order, strategy, epochs, chunk_size=1, n_rounds=1):
    return [
        epoch_subset(order, strategy=strategy, epoch=e, epochs=epochs, chunk_size=chunk_size, n_rounds=n_rounds)
        for e in range(epochs)
    ]


@pytest.fixture
def order():
    return np.random.default_rng(5).permutation(103)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_indices_equal_the_papers_element_for_element(order, strategy, schedule):
    epochs, n_rounds, chunk_size = schedule
    for epoch, (batch, seed), repeat, steps in itertools.product(
        range(epochs), [(2, 0), (7, 10)], (1, 2, 3), (None, 5, 40)
    ):
        made = epoch_indices(
            order,
            strategy=strategy,
            epoch=epoch,
            epochs=epochs,
            batch_size=batch,
            chunk_size=chunk_size,
            n_rounds=n_rounds,
            repeat_batch=repeat,
            steps_per_epoch=steps,
            seed=seed,
        )
        expected = naive_indices(order, strategy, epoch, epochs, batch, chunk_size, n_rounds, repeat, steps, seed)
        assert made.dtype == np.int64
        assert made.tolist() == expected, (epoch, batch, repeat, steps, seed)


@pytest.mark.parametrize("n", [1, 2, 10, 11, 64, 97])
@pytest.mark.parametrize("strategy", PAPER_STRATEGIES)
def test_indices_equal_the_papers_for_any_number_of_images(strategy, n):
    order = np.random.default_rng(n).permutation(n)
    for epoch in range(3):
        smallest = len(epoch_subset(order, strategy=strategy, epoch=epoch, epochs=3))
        for batch in {b for b in (1, 2, smallest) if 1 <= b <= smallest}:
            made = epoch_indices(order, strategy=strategy, epoch=epoch, epochs=3, batch_size=batch)
            assert made.tolist() == naive_indices(order, strategy, epoch, 3, batch, 1, 1, 1, None, 10)


def test_numbers_other_than_places_are_passed_through(order):
    for strategy in PAPER_STRATEGIES:
        settings = dict(strategy=strategy, epoch=1, epochs=4, batch_size=8)
        places = epoch_indices(np.arange(103), **settings)
        assert (epoch_indices(order, **settings) == order[places]).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_single_pass_shows_each_image_in_one_chunk_only(order, schedule):
    epochs, n_rounds, chunk_size = schedule
    per_round = epochs // n_rounds
    for start in range(0, epochs, per_round):
        in_round = chunks(order, "current", epochs, chunk_size, n_rounds)[start : start + per_round]
        parts = in_round[::chunk_size]
        for offset, subset in enumerate(in_round):
            assert subset.tolist() == parts[offset // chunk_size].tolist()
        assert np.concatenate(parts).tolist() == order.tolist()


def test_single_pass_steps_use_the_chunks_images_alone(order):
    for epoch, subset in enumerate(chunks(order, "current", 6, chunk_size=2)):
        used = epoch_indices(order, strategy="current", epoch=epoch, epochs=6, batch_size=10, chunk_size=2)
        assert set(used) <= set(subset)
        assert len(used) == 100
        assert len(set(used)) >= 30  # nearly all of the 34 or 35, since each pass drops others


def test_chunks_of_a_single_pass_differ_by_at_most_one_image(order):
    sizes = [len(subset) for subset in chunks(order, "current", 10)]
    assert sum(sizes) == 103
    assert set(sizes) == {10, 11}


def test_accumulate_grows_to_all_images_in_the_order_given(order):
    subsets = chunks(order, "accumulate", 4)
    assert [len(s) for s in subsets] == [25, 51, 77, 103]  # floor(103 k / 4)
    assert all(s.tolist() == order[: len(s)].tolist() for s in subsets)


def test_last_is_the_end_of_the_order_and_its_length_is_rounded_up(order):
    for epochs, length in [(10, 11), (4, 26), (103, 1), (1, 103)]:  # ceil(103 / epochs)
        for subset in chunks(order, "last", epochs):
            assert subset.tolist() == order[103 - length :].tolist()


def test_iid_shows_every_image_once_when_the_batch_divides_the_data():
    order = np.random.default_rng(0).permutation(96)
    made = [epoch_indices(order, strategy="iid", epoch=e, epochs=2, batch_size=8) for e in range(2)]
    assert all(sorted(indices) == list(range(96)) for indices in made)
    assert made[0].tolist() != made[1].tolist()


def test_iid_leaves_out_only_the_rest_of_the_last_batch(order):
    made = epoch_indices(order, strategy="iid", epoch=0, epochs=2, batch_size=8)
    assert len(set(made)) == len(made) == 96


@pytest.mark.parametrize("strategy", ["iid", *PAPER_STRATEGIES])
def test_every_epoch_has_the_steps_of_the_whole_data_whatever_its_subset(order, strategy):
    lengths = {len(epoch_indices(order, strategy=strategy, epoch=e, epochs=5, batch_size=9)) for e in range(5)}
    assert lengths == {9 * (103 // 9)}


def test_steps_per_epoch_overrides_the_steps_up_and_down(order):
    for steps in (1, 3, 50):
        made = epoch_indices(order, strategy="last", epoch=0, epochs=4, batch_size=9, steps_per_epoch=steps)
        assert len(made) == 9 * steps
    assert steps_in_epoch(103, 9, 50) == 50
    assert steps_in_epoch(103, 9) == 11


@pytest.mark.parametrize(
    ("n", "batch_size", "proposed"), [(802, 512, 64), (802, 201, 64), (100, 64, 16), (8000, 4096, 512)]
)
def test_a_batch_that_leaves_few_steps_is_noted_with_one_that_makes_more(n, batch_size, proposed):
    (note,) = few_steps_notes(n, batch_size)
    assert f"-b {proposed} " in note and n // proposed >= 2 * (n // batch_size)


@pytest.mark.parametrize(("n", "batch_size"), [(802, 100), (802, 101), (8000, 512), (20, 16), (20, 20), (1, 1)])
def test_enough_steps_and_small_batches_are_not_noted(n, batch_size):
    assert few_steps_notes(n, batch_size) == []


def test_repeat_batch_uses_each_batch_that_often_in_a_row(order):
    once = epoch_indices(order, strategy="current", epoch=1, epochs=2, batch_size=5, steps_per_epoch=4).reshape(4, 5)
    made = epoch_indices(
        order, strategy="current", epoch=1, epochs=2, batch_size=5, steps_per_epoch=12, repeat_batch=3
    ).reshape(4, 3, 5)
    assert all((made[:, again] == once).all() for again in range(3))


def test_rounds_go_through_the_same_chunks_shuffled_anew(order):
    settings = dict(strategy="current", epochs=6, batch_size=17, n_rounds=2)
    for epoch in range(3):
        first = epoch_indices(order, epoch=epoch, **settings)
        second = epoch_indices(order, epoch=epoch + 3, **settings)
        subset = epoch_subset(order, strategy="current", epoch=epoch, epochs=6, n_rounds=2)
        assert set(first) <= set(subset)
        assert set(second) <= set(subset)
        assert first.tolist() != second.tolist()


def test_shuffles_follow_the_sum_of_epoch_and_seed(order):
    settings = dict(strategy="iid", epochs=9, batch_size=8)
    assert (
        epoch_indices(order, epoch=2, seed=5, **settings).tolist()
        == epoch_indices(order, epoch=4, seed=3, **settings).tolist()
        != epoch_indices(order, epoch=4, seed=5, **settings).tolist()
    )


def test_seeds_beyond_32_bits_are_taken(order):
    settings = dict(strategy="iid", epochs=2, batch_size=8, seed=2**32 - 1)
    assert sorted(epoch_indices(order[:96].argsort(), epoch=1, **settings)) == list(range(96))


def test_indices_neither_read_nor_move_numpys_global_state(order):
    made = []
    for seed in (1, 2):
        np.random.seed(seed)
        before = np.random.get_state()[1].copy()
        made.append(epoch_indices(order, strategy="last", epoch=0, epochs=2, batch_size=8).tolist())
        assert (np.random.get_state()[1] == before).all()
    assert made[0] == made[1]


def test_order_is_not_modified(order):
    before = order.copy()
    epoch_indices(order, strategy="accumulate", epoch=1, epochs=2, batch_size=8, repeat_batch=2)
    assert (order == before).all()


# Refusals


@pytest.mark.parametrize("strategy", ["current", "accumulate", "last"])
def test_chunk_smaller_than_the_batch_is_refused(order, strategy):
    with pytest.raises(SSLToolError, match=r"epoch 1 of --strategy .* 1[01] images.* \(12\)"):
        epoch_indices(order, strategy=strategy, epoch=0, epochs=10, batch_size=12)


def test_chunk_of_exactly_one_batch_is_accepted(order):
    made = epoch_indices(order, strategy="current", epoch=0, epochs=10, batch_size=10)
    assert set(made) == set(order[:10])


def test_partial_last_chunk_smaller_than_the_batch_is_refused(order):
    settings = dict(strategy="current", epochs=7, chunk_size=3, batch_size=40)  # chunks of 44, 44 and 15
    assert len(epoch_indices(order, epoch=5, **settings)) == 80
    with pytest.raises(SSLToolError, match=r"epoch 7 .* 15 images.* \(40\)"):
        epoch_indices(order, epoch=6, **settings)


def test_batch_larger_than_the_data_is_refused(order):
    with pytest.raises(SSLToolError, match=r"--batch-size 104 .* \(103\)"):
        epoch_indices(order, strategy="iid", epoch=0, epochs=1, batch_size=104)


@pytest.mark.parametrize(("epochs", "n_rounds"), [(10, 3), (2, 4), (5, 0)])
def test_rounds_that_do_not_divide_the_epochs_are_refused(order, epochs, n_rounds):
    with pytest.raises(SSLToolError, match=f"--epochs {epochs}, --n-rounds {n_rounds} "):
        epoch_indices(order, strategy="current", epoch=0, epochs=epochs, batch_size=2, n_rounds=n_rounds)


def test_chunk_size_below_one_is_refused(order):
    with pytest.raises(SSLToolError, match="--chunk-size 0 "):
        epoch_indices(order, strategy="current", epoch=0, epochs=2, batch_size=2, chunk_size=0)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"repeat_batch": 0}, {"repeat_batch": -1}], ids=str)
def test_empty_batches_and_repeats_are_refused_instead_of_looping_forever(order, bad):
    with pytest.raises(SSLToolError, match="at least 1"):
        epoch_indices(order, **(dict(strategy="last", epoch=0, epochs=2, batch_size=4) | bad))


@pytest.mark.parametrize("epoch", [-1, 4])
def test_epoch_outside_the_run_is_refused(order, epoch):
    with pytest.raises(SSLToolError, match="from 0 to 3"):
        epoch_indices(order, strategy="iid", epoch=epoch, epochs=4, batch_size=2)


def test_unknown_strategy_suggests_similar_names(order):
    with pytest.raises(SSLToolError, match=r"accumlate.* accumulate"):
        epoch_indices(order, strategy="accumlate", epoch=0, epochs=1, batch_size=2)


# Order files


@pytest.fixture
def saved(tmp_path):
    def save(array) -> str:
        np.save(tmp_path / "order.npy", array)
        return str(tmp_path / "order.npy")

    return save


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64, ">i4"])
def test_order_file_of_any_integers_is_read_as_int64(saved, dtype):
    order = np.random.default_rng(1).permutation(50)
    read = read_order(saved(order.astype(dtype)), 50, seed=0)
    assert read.dtype == np.int64
    assert read.tolist() == order.tolist()


def test_order_without_a_file_is_a_permutation_by_the_seed():
    first, again, other = (read_order(None, 50, seed) for seed in (3, 3, 4))
    assert first.dtype == np.int64
    assert sorted(first) == list(range(50))
    assert first.tolist() == again.tolist() != other.tolist()


def test_subset_file_keeps_its_own_order(saved):
    assert read_numbers(saved(np.array([7, 2, 5])), 8, "--idx-path").tolist() == [7, 2, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.arange(9), "9 indices.* 10 images"),
        (np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8]), "index 8 "),
        (np.arange(1, 11), r"index 10,.* 10 images \(0 to 9\)"),
        (np.arange(-1, 9), "index -1,"),
        (np.arange(11), "index 10,"),
        (np.arange(10.0), r"found float64 of shape \(10,\)"),
        (np.ones(10, bool), "found bool"),
        (np.arange(10).reshape(2, 5), r"found int64 of shape \(2, 5\)"),
        (np.int64(3), r"found int64 of shape \(\)"),
    ],
    ids=["short", "duplicate", "too large", "negative", "long", "floats", "bools", "table", "scalar"],
)
def test_order_file_that_is_not_a_permutation_is_refused(saved, content, message):
    path = saved(content)
    with pytest.raises(SSLToolError, match=message) as caught:
        read_order(path, 10, seed=0)
    assert str(caught.value).startswith(f"--incremental-idx-path: {path} ")
    assert "\n" not in str(caught.value)


def test_missing_order_file_is_refused(tmp_path):
    with pytest.raises(SSLToolError, match=r"--incremental-idx-path: .*/nowhere\.npy"):
        read_order(str(tmp_path / "nowhere.npy"), 10, seed=0)


def test_pickled_objects_in_an_order_file_are_refused_and_not_run(tmp_path, saved, bomb):
    path = saved(np.array([bomb(os.mkdir, str(tmp_path / "ran"))], dtype=object))
    with pytest.raises(SSLToolError, match=r"\.npy") as caught:
        read_order(path, 1, seed=0)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    np.load(path, allow_pickle=True)
    assert (tmp_path / "ran").exists()  # the same file would have run its code


def test_archive_of_arrays_is_refused_as_order(tmp_path):
    np.savez(tmp_path / "order.npz", order=np.arange(10))
    with pytest.raises(SSLToolError, match=r"order\.npz"):
        read_order(str(tmp_path / "order.npz"), 10, seed=0)


@pytest.mark.parametrize("content", [b"", b"0\n1\n2\n", b"\x93NUMPY\x01\x00", b"PK\x03\x04 cut off"], ids=str)
def test_order_file_that_is_not_an_array_is_refused(tmp_path, content):
    path = tmp_path / "order.npy"
    path.write_bytes(content)
    with pytest.raises(SSLToolError, match=r"order\.npy") as caught:
        read_order(str(path), 10, seed=0)
    assert "\n" not in str(caught.value)


def test_truncated_order_file_is_refused(tmp_path, saved):
    path = saved(np.arange(1000))
    with open(path, "r+b") as stream:
        stream.truncate(3000)
    with pytest.raises(SSLToolError, match=r"\.npy"):
        read_order(path, 1000, seed=0)
