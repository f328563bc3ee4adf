"""The data strategies by their definitions, in exact fractions, for any schedule."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, permutations
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from ssltool.config import STRATEGIES
from ssltool.config.fields import REPLAY_RULES
from ssltool.data.strategies import buffer_places, epoch_indices, epoch_parts, epoch_subset


@dataclass(frozen=True)
class Schedule:
    """An order of the images, and how a run goes through it."""

    order: np.ndarray
    n_rounds: int
    per_round: int
    chunk_size: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"epochs": self.n_rounds * self.per_round, "chunk_size": self.chunk_size, "n_rounds": self.n_rounds}

    def chunk(self, epoch: int) -> int:
        return epoch % self.per_round // self.chunk_size

    @property
    def share(self) -> Fraction:
        """Images in a chunk, not rounded."""
        return Fraction(len(self.order) * self.chunk_size, self.per_round)

    def subset(self, strategy: str, epoch: int, **more: Any) -> list[int]:
        return epoch_subset(self.order, strategy=strategy, epoch=epoch, **self.settings, **more).tolist()

    def before(self, epoch: int) -> list[int]:
        """The images of the chunks of the round before that of ``epoch``, in their order."""
        in_round = epoch - epoch % self.per_round
        firsts = range(in_round, in_round + self.chunk(epoch) * self.chunk_size, self.chunk_size)
        return list(chain(*(self.subset("current", first) for first in firsts)))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    n = draw(st.integers(1, 60))
    order = 3 * np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(n) + 1  # numbers that are no places
    return Schedule(order, draw(st.integers(1, 3)), draw(st.integers(1, 8)), draw(st.integers(1, 10)))


@given(schedules())
def test_current_shows_each_image_in_exactly_one_chunk_of_each_round(made):
    for start in range(0, made.n_rounds * made.per_round, made.per_round):
        chunks = [made.subset("current", start + e) for e in range(0, made.per_round, made.chunk_size)]
        assert list(chain(*chunks)) == made.order.tolist()
        whole = chunks if made.per_round % made.chunk_size == 0 else chunks[:-1]
        assert all(math.floor(made.share) <= len(chunk) <= math.ceil(made.share) for chunk in whole)


@given(schedules(), st.sampled_from(STRATEGIES))
def test_all_epochs_of_a_chunk_see_the_same_images(made, strategy):
    seen: dict[int, list[int]] = {}
    for epoch in range(made.n_rounds * made.per_round):
        subset = made.subset(strategy, epoch)
        assert seen.setdefault(made.chunk(epoch), subset) == subset


@given(schedules())
def test_accumulate_is_all_chunks_of_current_so_far(made):
    so_far: list[int] = []
    for epoch in range(0, made.per_round, made.chunk_size):
        so_far += made.subset("current", epoch)
        assert made.subset("accumulate", epoch) == so_far
    assert so_far == made.order.tolist()


@given(schedules())
def test_last_is_the_same_end_of_the_order_in_every_epoch_and_iid_is_all_of_it(made):
    length = min(len(made.order), math.ceil(made.share))
    for epoch in range(made.n_rounds * made.per_round):
        assert made.subset("last", epoch) == made.order.tolist()[-length:]
        assert made.subset("iid", epoch) == made.order.tolist()


@given(schedules(), st.sampled_from(STRATEGIES), st.integers(1, 8), st.integers(1, 3), st.data())
def test_an_epoch_is_whole_batches_that_show_each_image_of_its_subset_at_most_once_before_any_comes_again(
    made, strategy, batch, repeat, data
):
    epoch = data.draw(st.integers(0, made.n_rounds * made.per_round - 1))
    steps, seed = data.draw(st.none() | st.integers(1, 30)), data.draw(st.integers(0, 2**32 - 1))
    subset = made.subset(strategy, epoch)
    assume(batch <= len(subset))
    sizes = {"batch_size": batch, "repeat_batch": repeat, "steps_per_epoch": steps}
    found = epoch_indices(made.order, strategy=strategy, epoch=epoch, seed=seed, **sizes, **made.settings)
    assert found.shape == (batch * (len(made.order) // batch if steps is None else steps),)
    batches = found.reshape(-1, batch).tolist()
    assert all(again == batches[i - i % repeat] for i, again in enumerate(batches))
    per_pass = len(subset) // batch
    distinct = batches[::repeat]
    for start in range(0, len(distinct), per_pass):
        counts = Counter(chain(*distinct[start : start + per_pass]))
        assert set(counts.values()) == {1}
        assert counts.keys() <= set(subset)


RULES = st.sampled_from(REPLAY_RULES)
SIZES = st.integers(0, 70)


@given(schedules(), SIZES, RULES, st.integers(0, 2**32 - 1), st.data())
def test_replay_is_the_chunk_and_as_many_earlier_images_as_the_buffer_holds(made, size, rule, seed, data):
    epoch = data.draw(st.integers(0, made.n_rounds * made.per_round - 1))
    buffer = {"replay_size": size, "replay_rule": rule, "seed": seed}
    start, stop, replayed = epoch_parts(made.order, strategy="replay", epoch=epoch, **made.settings, **buffer)
    chunk, before = made.subset("current", epoch), made.before(epoch)
    assert made.order[start:stop].tolist() == chunk
    assert [image for image in before if image in replayed] == replayed.tolist()
    assert len(replayed) == min(size, len(before))
    assert sorted(made.subset("replay", epoch, **buffer)) == sorted([*replayed, *chunk])


@given(schedules(), SIZES, st.data())
def test_a_fifo_buffer_holds_the_last_images(made, size, data):
    epoch = data.draw(st.integers(0, made.n_rounds * made.per_round - 1))
    found = made.subset("replay", epoch, replay_size=size, replay_rule="fifo")
    before = made.before(epoch)
    assert found == before[max(0, len(before) - size) :] + made.subset("current", epoch)


@given(schedules(), SIZES, st.integers(0, 2**32 - 1))
def test_an_image_that_left_the_reservoir_does_not_come_back_in_the_round(made, size, seed):
    for start in range(0, made.n_rounds * made.per_round, made.per_round):
        gone: set[int] = set()
        for epoch in range(start, start + made.per_round, made.chunk_size):
            kept = set(made.subset("replay", epoch, replay_size=size, seed=seed)) - set(made.subset("current", epoch))
            assert not kept & gone
            gone |= set(made.before(epoch)) - kept


@given(schedules(), RULES, st.integers(1, 8), st.integers(0, 2**32 - 1), st.data())
def test_replay_is_current_without_a_buffer_and_accumulate_with_one_for_all_images(made, rule, batch, seed, data):
    epoch = data.draw(st.integers(0, made.n_rounds * made.per_round - 1))
    assume(batch <= len(made.subset("current", epoch)))
    settings = {"epoch": epoch, "batch_size": batch, "seed": seed, **made.settings}
    for size, limit in ((0, "current"), (len(made.order), "accumulate")):
        found = epoch_indices(made.order, strategy="replay", replay_size=size, replay_rule=rule, **settings)
        assert found.tolist() == epoch_indices(made.order, strategy=limit, **settings).tolist()


@given(st.integers(1, 6), st.data())
def test_each_set_of_images_is_equally_often_the_reservoir_over_all_keys(n, data):
    seen = data.draw(st.integers(0, n))
    size = data.draw(st.integers(1, n))
    counts = Counter(tuple(buffer_places(np.array(keys), seen, size)) for keys in permutations(range(n)))
    assert len(counts) == math.comb(seen, min(size, seen))
    assert set(counts.values()) == {math.factorial(n) // len(counts)}
