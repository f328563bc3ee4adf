"""The learning-rate schedules: closed forms of the cosine, the warm-up and the scaling rule."""

from __future__ import annotations

import math

import pytest

from ssltool.config import PretrainConfig
from ssltool.training.schedule import Rates, cosine, learning_rates, rates_at, scaled_lr


def test_the_linear_scaling_rule_is_for_a_batch_of_256():
    assert scaled_lr(0.05, 256) == 0.05
    assert scaled_lr(0.05, 1024) == pytest.approx(0.2)


def test_the_cosine_goes_from_start_over_the_middle_to_the_end():
    assert cosine(0.0, 2.0, 1.0) == 2.0
    assert cosine(0.5, 2.0, 1.0) == pytest.approx(1.5)
    assert cosine(1.0, 2.0, 1.0) == pytest.approx(1.0)
    assert cosine(1 / 3, 1.0) == pytest.approx(0.75)  # (1 + cos 60 deg) / 2


def test_rates_follow_half_a_cosine_per_epoch():
    # main_simsiam.py: init_lr * 0.5 * (1. + math.cos(math.pi * epoch / args.epochs))
    for epoch in range(100):
        ordinary, fixed = learning_rates(epoch, epochs=100, lr=0.1)
        assert ordinary == pytest.approx(0.1 * 0.5 * (1.0 + math.cos(math.pi * epoch / 100)), rel=1e-12)
        assert fixed == 0.1


def test_the_cosine_ends_on_the_final_rate():
    rates = [learning_rates(epoch, epochs=4, lr=1.0, final_lr=0.2)[0] for epoch in range(4)]
    assert rates == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * e / 4)) for e in range(4)])


def test_warm_up_is_linear_and_followed_by_the_cosine():
    rates = [learning_rates(epoch, epochs=7, lr=1.0, warmup_epochs=3)[0] for epoch in range(7)]
    assert rates[:4] == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    assert rates[3:] == pytest.approx([(1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


@pytest.mark.parametrize("epoch", range(7))
def test_a_fixed_rate_is_constant_also_in_the_warm_up(epoch):
    assert learning_rates(epoch, epochs=7, lr=0.3, final_lr=0.1, warmup_epochs=3)[1] == 0.3


@pytest.mark.parametrize("epoch", [0, 3, 99])
def test_constant_rates_ignore_the_schedule(epoch):
    assert learning_rates(epoch, epochs=100, lr=0.3, final_lr=0.1, warmup_epochs=5, constant=True) == (0.3, 0.3)


def test_warm_up_within_epochs_climbs_in_proportion_to_the_time():
    rates = [learning_rates(epoch, epochs=7, lr=0.4, warmup_epochs=2)[0] for epoch in (0.0, 0.5, 1.0, 1.75, 2.0)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.35, 0.4])


SCHEDULE = {"epochs": 12, "batch_size": 512, "lr": 0.05, "final_lr": 0.01, "warmup_epochs": 2}
"""The rate climbs to 0.1 and falls to 0.02 on half a cosine of ten epochs."""


@pytest.mark.parametrize("within", [0.0, 0.25, 0.9])
def test_the_rates_of_a_configuration_are_scaled_with_its_batch_and_keep_for_an_epoch(within):
    config = PretrainConfig(**SCHEDULE, weight_decay=0.3)
    assert rates_at(config, 1, within) == pytest.approx(Rates(lr=0.1 * 2 / 3, fixed=0.1, weight_decay=0.3))
    assert rates_at(config, 2, within) == pytest.approx(Rates(lr=0.1, fixed=0.1, weight_decay=0.3))
    assert rates_at(config, 7, within) == pytest.approx(Rates(lr=(0.1 + 0.02) / 2, fixed=0.1, weight_decay=0.3))


@pytest.mark.parametrize(
    ("epoch", "within"), [(0, 0.0), (0, 0.5), (1, 0.99), (2, 0.0), (2, 1 / 3), (7, 0.5), (11, 1.0)]
)
def test_the_rate_by_step_is_the_line_and_the_cosine_at_that_time(epoch, within):
    rates = rates_at(PretrainConfig(**SCHEDULE, lr_schedule="step"), epoch, within)
    time = epoch + within
    falling = 0.02 + (0.1 - 0.02) * (1 + math.cos(math.pi * (time - 2) / 10)) / 2
    assert rates.lr == pytest.approx(0.1 * time / 2 if time < 2 else falling, rel=1e-12)
    assert rates.fixed == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["epoch", "step"])
@pytest.mark.parametrize(("epoch", "within"), [(0, 0.0), (3, 0.5), (6, 0.0), (9, 0.75)])
def test_weight_decay_goes_to_its_final_value_on_half_a_cosine_of_the_whole_run(schedule, epoch, within):
    config = PretrainConfig(**SCHEDULE, weight_decay=0.04, final_weight_decay=0.4, lr_schedule=schedule)
    time = epoch + (within if schedule == "step" else 0.0)
    wanted = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * time / 12)) / 2
    assert rates_at(config, epoch, within).weight_decay == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_a_run_of_constant_rates_has_them_at_every_step(schedule):
    config = PretrainConfig(**SCHEDULE, fix_all_lr=True, lr_schedule=schedule)
    assert {rates_at(config, epoch, within)[:2] for epoch in (0, 1, 7) for within in (0.0, 0.5)} == {(0.1, 0.1)}


def test_an_unresolved_configuration_has_no_rates():
    with pytest.raises(ValueError, match="not resolved"):
        rates_at(PretrainConfig(), 0)
