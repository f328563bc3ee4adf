"""The update rules of optimizers against steps worked by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssltool.config import PretrainConfig
from ssltool.training import OPTIMIZERS
from ssltool.training.optimizers import LARC, LARS, build_optimizer, create_optimizer
from ssltool.training.restore import load_optimizer


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


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("rate", [1e30, 3e38, 1e39, 1e300])
@pytest.mark.parametrize("setting", ["lr", "weight_decay"])
def test_a_rate_that_float32_cannot_hold_makes_training_diverge_and_is_no_error_of_torch(name, rate, setting):
    weight = torch.nn.Parameter(torch.randn(3, 2))
    settings = {"momentum": 0.9, "weight_decay": 0.0, "lars_trust": 0.001, "lars_clip": False}
    settings |= {setting: rate} if setting == "weight_decay" else {}
    optimizer = create_optimizer(name, [{"params": [weight]}], 0.1, settings)
    for _ in range(3):
        if setting == "lr":
            optimizer.param_groups[0]["lr"] = rate
        weight.grad = weight.detach() * 4
        optimizer.step()
    if setting == "lr":
        assert not weight.isfinite().all() or weight.abs().max() > 1e30


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
@pytest.mark.parametrize("saved_fused", [None, False, True])
def test_a_state_saved_by_other_kernels_and_in_another_memory_format_continues_the_same_training(name, saved_fused):
    """As on another device, or with another --channels-last."""
    if name == "lars" and saved_fused is not None:
        pytest.skip("it has no such kernels")
    generator = torch.Generator().manual_seed(0)
    start, *gradients = (torch.randn(4, 3, 2, 2, generator=generator) for _ in range(4))
    settings = {"momentum": 0.9, "weight_decay": 0.01, "lars_trust": 0.001, "lars_clip": False}

    def trained(p: nn.Parameter, optimizer: torch.optim.Optimizer, steps: list[torch.Tensor]) -> nn.Parameter:
        for gradient in steps:
            p.grad = torch.empty_like(p).copy_(gradient)
            optimizer.step()
        return p

    def made(values: torch.Tensor, memory_format: torch.memory_format) -> tuple[nn.Parameter, torch.optim.Optimizer]:
        p = nn.Parameter(values.detach().clone(memory_format=memory_format))
        return p, create_optimizer(name, [{"params": [p]}], 0.1, settings)

    whole = trained(*made(start, torch.channels_last), gradients)
    before, optimizer = made(start, torch.contiguous_format)
    trained(before, optimizer, gradients[:1])
    state = copy.deepcopy(optimizer.state_dict())
    if name != "lars":
        state["param_groups"][0]["fused"] = saved_fused
    after, optimizer = made(before, torch.channels_last)
    load_optimizer(optimizer, state, "run/checkpoint.pt")
    torch.testing.assert_close(trained(after, optimizer, gradients[1:]), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_a_step_whose_gradients_overflowed_in_fp16_changes_no_weight(name):
    weight = nn.Parameter(torch.ones(3, 2))
    optimizer = create_optimizer(name, [{"params": [weight]}], 0.1, {"momentum": 0.9, "weight_decay": 0.0})
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, torch.inf, 1.0):
        optimizer.zero_grad()
        before = weight.detach().clone()
        scaler.scale(factor * weight.sum()).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight, before) == (factor != 1.0)
        assert bool(weight.isfinite().all())
