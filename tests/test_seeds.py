"""Seeds: a function of their numbers alone, and different for different numbers."""

from __future__ import annotations

import itertools

import pytest
import torch

from ssltool import seeds


def test_equal_numbers_give_equal_seeds_and_generators():
    assert seeds.derive(10, 3, 7) == seeds.derive(10, 3, 7)
    assert torch.equal(torch.rand(5, generator=seeds.generator(1, 2)), torch.rand(5, generator=seeds.generator(1, 2)))


def test_seeds_fit_into_63_bits_and_use_them():
    made = [seeds.derive(n) for n in range(200)]
    assert all(0 <= seed < 2**63 for seed in made)
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in made) / len(made)
        assert 0.3 < share < 0.7, bit  # 0.5 +- 5.6 deviations


def test_seeds_differ_for_all_epochs_and_steps_of_several_runs():
    numbers = list(itertools.product(range(5), range(20), range(100)))
    assert len({seeds.derive(*n) for n in numbers}) == len(numbers)


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), (2, 1)), ((10,), (10, 0)), ((10, 0), (10, 0, 0)), ((1, 23), (12, 3)), ((2**32,), (0, 1)), ((), (0,))],
    ids=str,
)
def test_order_number_and_size_of_the_numbers_all_matter(one, other):
    assert seeds.derive(*one) != seeds.derive(*other)


def test_neighbouring_seeds_give_uncorrelated_streams():
    streams = torch.stack([torch.randn(2000, generator=seeds.generator(10, epoch)) for epoch in range(20)])
    correlation = torch.corrcoef(streams) - torch.eye(20)
    assert correlation.abs().max() < 0.1  # 4.5 deviations of 1 / sqrt(2000)


def test_generators_neither_read_nor_move_the_global_state():
    made = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        made.append(torch.rand(3, generator=seeds.generator(5, 6)))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*made)
