"""The update rules against steps worked by hand, and the learning rate against its closed form."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ssltool.config import PretrainConfig
from ssltool.training.optimizers import LARC, LARS, build_optimizer
from ssltool.training.schedule import Rates, cosine, learning_rates, rates_at, scaled_lr


def parameter(values, gradient) -> nn.Parameter:
    p = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    p.grad = torch.tensor(gradient, dtype=torch.float64)
    return p


def test_lars_scales_a_matrixs_step_to_a_thousandth_of_its_norm():
    # |p| = 5, d = g + 0.1 p = (0.5 + 0.3, 0.2 + 0.4) = (0.8, 0.6), |d| = 1, so d is scaled by 0.001 x 5 / 1 = 0.005.
    p = parameter([[3.0, 4.0]], [[0.5, 0.2]])
    LARS([p], 2.0, momentum=0.9, weight_decay=0.1).step()
    wanted = [[3 - 2 * 0.005 * 0.8, 4 - 2 * 0.005 * 0.6]]
    torch.testing.assert_close(p.data, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)


# |p| = 5, d = g + 0.1 p = (0.8, 0.6), |d| = 1, so that a trust of 0.02 gives 0.02 x 5 / 1 = 0.1 as the layer's rate.
@pytest.mark.parametrize(("lr", "layer_rate"), [(2.0, 0.1), (0.25, 0.1), (0.04, 0.04)])
def test_clipped_lars_moves_a_matrix_by_its_layers_rate_but_at_most_by_the_common_one(lr, layer_rate):
    p = parameter([[3.0, 4.0]], [[0.5, 0.2]])
    LARS([p], lr, weight_decay=0.1, trust=0.02, clip=True).step()
    wanted = [[3 - layer_rate * 0.8, 4 - layer_rate * 0.6]]
    torch.testing.assert_close(p.data, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)


def test_clipped_lars_treats_vectors_and_zeros_as_the_plain_one():
    for values, gradient in (([3.0, 4.0], [0.5, 0.2]), ([[0.0, 0.0]], [[0.5, 0.2]]), ([[3.0, 4.0]], [[0.0, 0.0]])):
        plain, clipped = (parameter(values, gradient) for _ in range(2))
        LARS([plain], 0.5).step()
        LARS([clipped], 0.5, clip=True).step()
        assert torch.equal(plain, clipped)


def test_clipped_lars_does_not_move_at_learning_rate_0():
    p = parameter([[3.0, 4.0]], [[0.5, 0.2]])
    LARS([p], 0.0, clip=True).step()
    assert p.tolist() == [[3.0, 4.0]]


def test_lars_leaves_vectors_to_plain_momentum_without_weight_decay():
    p = parameter([3.0, 4.0], [0.5, 0.2])
    LARS([p], 2.0, weight_decay=0.1).step()
    assert p.tolist() == pytest.approx([3 - 2 * 0.5, 4 - 2 * 0.2])


def test_lars_carries_momentum_over_two_steps():
    # First step as above without decay: |p| = 5, |g| = 1, v1 = 0.005 g, p1 = p - v1 = (2.997, 3.996), of norm 4.995.
    # Second with the same g: v2 = 0.9 v1 + 0.004995 g = 0.009495 g.
    p = parameter([[3.0, 4.0]], [[0.6, 0.8]])
    optimizer = LARS([p], 1.0, momentum=0.9)
    optimizer.step()
    torch.testing.assert_close(p.data, torch.tensor([[2.997, 3.996]]).double(), rtol=1e-7, atol=0)
    optimizer.step()
    wanted = [[2.997 - 0.009495 * 0.6, 3.996 - 0.009495 * 0.8]]
    torch.testing.assert_close(p.data, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


def test_momentum_of_a_vector_adds_up():
    p = parameter([0.0], [1.0])
    optimizer = LARS([p], 0.5, momentum=0.9)
    for _ in range(3):
        optimizer.step()
    assert p.item() == pytest.approx(-0.5 * (1 + 1.9 + (1 + 0.9 * 1.9)))


def test_lars_does_not_scale_where_the_parameter_or_the_update_is_zero():
    start = parameter([[0.0, 0.0]], [[0.5, 0.2]])
    LARS([start], 1.0, weight_decay=0.1).step()
    assert start.tolist() == [pytest.approx([-0.5, -0.2])]

    still = parameter([[3.0, 4.0]], [[0.0, 0.0]])
    LARS([still], 1.0).step()
    assert still.tolist() == [[3.0, 4.0]]


def test_lars_skips_parameters_without_a_gradient():
    p = nn.Parameter(torch.ones(2, 2))
    LARS([p], 1.0, weight_decay=0.1).step()
    assert p.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_lars_does_not_modify_gradients():
    p = parameter([[3.0, 4.0]], [[0.5, 0.2]])
    LARS([p], 1.0, weight_decay=0.1).step()
    assert p.grad.tolist() == [[0.5, 0.2]]


def test_lars_follows_the_rate_of_each_group():
    a, b = parameter([1.0], [1.0]), parameter([1.0], [1.0])
    LARS([{"params": [a]}, {"params": [b], "lr": 0.25}], 0.5).step()
    assert (a.item(), b.item()) == (0.5, 0.75)


def test_the_state_of_lars_survives_a_round_trip():
    def run(optimizer, p):
        p.grad = torch.full_like(p, 0.3)
        optimizer.step()

    first = parameter([[1.0, 2.0]], [[0.0, 0.0]])
    one = LARS([first], 0.1)
    run(one, first)
    second = nn.Parameter(first.detach().clone())
    two = LARS([second], 0.1)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    run(one, first)
    run(two, second)
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", ["matrix", "vector"])
def test_larc_scales_every_parameters_gradient_with_decay_in_both_norms(shape):
    # |p| = 5, |g| = 1: scale 0.001 x 5 / (1 + 0.1 x 5 + 1e-8), on g + 0.1 p = (0.6 + 0.3, 0.8 + 0.4).
    scale = 0.005 / (1.5 + 1e-8)
    values, gradient = [3.0, 4.0], [0.6, 0.8]
    p = parameter([values], [gradient]) if shape == "matrix" else parameter(values, gradient)
    LARC([p], 2.0, momentum=0.9, weight_decay=0.1).step()
    wanted = [3 - 2 * scale * 0.9, 4 - 2 * scale * 1.2]
    torch.testing.assert_close(p.data.flatten(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0)


def test_larc_carries_momentum_over_two_steps():
    # No decay: g is scaled to 0.001 |p|. v1 = 0.005 (.6, .8), p1 has norm 4.995; v2 = 0.9 v1 + 0.004995 (.6, .8).
    p = parameter([3.0, 4.0], [0.6, 0.8])
    optimizer = LARC([p], 1.0, momentum=0.9, weight_decay=0.0)
    optimizer.step()
    p.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
    optimizer.step()
    length = 5 - 0.005 - (0.9 * 0.005 + 0.004995)
    torch.testing.assert_close(p.data, torch.tensor([0.6, 0.8]).double() * length, rtol=1e-7, atol=0)


def test_larc_neither_scales_nor_decays_where_a_norm_is_zero():
    start = parameter([0.0, 0.0], [0.5, 0.2])
    LARC([start], 1.0, momentum=0.0, weight_decay=0.1).step()
    assert start.tolist() == pytest.approx([-0.5, -0.2])

    still = parameter([3.0, 4.0], [0.0, 0.0])
    LARC([still], 1.0, momentum=0.0, weight_decay=0.1).step()
    assert still.tolist() == [3.0, 4.0]


def test_larc_skips_parameters_without_a_gradient():
    p = nn.Parameter(torch.ones(2))
    LARC([p], 1.0, momentum=0.9, weight_decay=0.1).step()
    assert p.tolist() == [1.0, 1.0]


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


@pytest.mark.parametrize(
    ("name", "cls"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("lars", LARS)],
)
def test_the_named_optimiser_is_built_with_its_settings(name, cls):
    config = PretrainConfig(optimizer=name, epochs=10, batch_size=512, lr=0.05, weight_decay=0.02)
    groups = [{"params": [nn.Parameter(torch.ones(2))], "fixed_lr": False, "is_encoder": True}]
    optimizer = build_optimizer(groups, config)
    assert type(optimizer) is cls
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["is_encoder"]) == (pytest.approx(0.1), 0.02, True)
    assert name.startswith("adam") or group["momentum"] == 0.9


def test_lars_is_built_with_its_trust_and_its_clip():
    config = PretrainConfig(optimizer="lars", epochs=10, batch_size=512, lars_trust=0.02, lars_clip=True)
    (group,) = build_optimizer([nn.Parameter(torch.ones(2))], config).param_groups
    assert (group["trust"], group["clip"]) == (0.02, True)
    plain = build_optimizer([nn.Parameter(torch.ones(2))], PretrainConfig(optimizer="lars", epochs=1, batch_size=2))
    assert (plain.param_groups[0]["trust"], plain.param_groups[0]["clip"]) == (0.001, False)
