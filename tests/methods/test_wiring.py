"""Properties of the forward pass of all methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods_helpers import SMALL, WIDTH, build, facts, noisy_batch
from ssltool.data.loader import Batch
from ssltool.data.views import PAPER
from ssltool.methods import method_class
from ssltool.methods.base import Now, trainable_parameters
from ssltool.methods.parts.crops import large_views

TWO_VIEWS = ["simsiam", "byol", "simclr", "moco", "mocov3", "barlow", "vicreg", "wmse", "nnclr", "nnsiam"]
TWO_VIEWS += ["tico", "frossl"]
ALL = [*TWO_VIEWS, "supervised"]
PREDICTORS = ["simsiam", "byol", "mocov3", "nnclr", "nnsiam"]
ASYMMETRIC = ["byol", "mocov3", "barlow", "vicreg", "tico"]


def batch_for(name: str, seed: int = 0) -> Batch:
    labels = torch.arange(16) % 4
    return noisy_batch(sizes=(8,) if name == "supervised" else (8, 8), seed=seed, labels=labels)


@pytest.mark.parametrize("name", ALL)
def test_the_projection_has_one_detached_float32_row_per_image(name):
    out = build(name)(batch_for(name))
    width = WIDTH if name == "supervised" else SMALL["dim"]
    assert (out.projection.shape, out.projection.dtype) == ((16, width), torch.float32)
    assert not out.projection.requires_grad
    assert out.loss.shape == ()


@pytest.mark.parametrize("name", ALL)
def test_the_projection_is_that_of_the_first_view(name):
    method, batch = build(name), batch_for(name)
    layer = "backbone" if name == "supervised" else "projector"
    torch.testing.assert_close(method(batch).projection, method.embed(batch.views[0], layer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_reaches_all_trainable_parameters(name):
    method = build(name)
    method(batch_for(name)).loss.backward()
    assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    assert float(method.backbone.layer.weight.grad.norm()) > 1e-6


@pytest.mark.parametrize("name", ALL)
def test_under_autocast_the_loss_is_float32_and_near_that_without(name):
    found = {}
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found[enabled] = build(name)(batch_for(name))
    assert found[True].loss.dtype == found[True].projection.dtype == torch.float32
    assert found[True].loss.item() == pytest.approx(found[False].loss.item(), rel=0.1, abs=0.1)
    assert found[True].loss.item() != found[False].loss.item()


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_the_loss_does_not_depend_on_labels(name):
    batch = batch_for(name)
    unlabelled = Batch(batch.views, torch.full((16,), -1), batch.rows)
    assert build(name)(batch).loss.item() == build(name)(unlabelled).loss.item()
    assert not method_class(name).uses_labels


@pytest.mark.parametrize("name", ALL)
def test_views_of_any_size_are_accepted(name):
    sizes = (8,) if name == "supervised" else (8, 4)
    labels = torch.arange(16) % 4
    out = build(name)(noisy_batch(sizes=sizes, labels=labels))
    assert bool(out.loss.isfinite())


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_deterministic_in_seed_and_batch(name):
    def after_two_steps() -> tuple[float, dict[str, Tensor]]:
        method = build(name)
        optimizer = torch.optim.SGD(trainable_parameters(method), 0.05)
        for step in range(2):
            method.now = Now(0, step)
            loss = method(batch_for(name, seed=step)).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_step()
        return loss.item(), method.state_dict()

    (first, state), (again, other) = after_two_steps(), after_two_steps()
    assert first == again
    assert all(torch.equal(tensor, other[key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", TWO_VIEWS)
def test_two_views_are_made_by_the_runs_recipe(name):
    assert build(name).view_recipes(PAPER) == [PAPER, PAPER]


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_asymmetric_views_are_available(name):
    model = build(name, asymmetric=True)
    assert model.view_recipes(PAPER) == large_views(PAPER, model.options) != [PAPER, PAPER]


@pytest.mark.parametrize("name", ["simsiam", "nnsiam", "wmse", "mmcr", "frossl"])
def test_n_augs_sets_the_number_of_views(name):
    assert build(name, n_augs=4).view_recipes(PAPER) == [PAPER] * 4


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", PREDICTORS)
def test_the_predictor_has_its_own_parameter_group_with_an_optional_fixed_learning_rate(name, fixed):
    method = build(name, fix_pred_lr=fixed)
    encoder, predictor = method.param_groups()
    assert {id(p) for p in predictor["params"]} == {id(p) for p in method.predictor.parameters()}
    assert (encoder["fixed_lr"], predictor["fixed_lr"]) == (False, fixed)
    assert (encoder["is_encoder"], predictor["is_encoder"]) == (True, False)


@pytest.mark.parametrize("name", ALL)
def test_the_groups_have_each_trainable_parameter_once(name):
    method = build(name)
    found = [id(p) for group in method.param_groups() for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [name for name in ALL if name not in PREDICTORS])
def test_a_method_without_a_predictor_has_one_group_of_the_encoder(name):
    (group,) = build(name).param_groups()
    assert (group["fixed_lr"], group["is_encoder"], group["decays"]) == (False, True, True)


@pytest.mark.parametrize("name", ["simclr", "moco", "mocov3", "nnclr"])
def test_an_overflowing_temperature_gives_a_warning(name):
    run = facts(images=10**6)
    assert build(name, run, temperature=0.012).warnings() == []
    (warning,) = build(name, run, temperature=0.01).warnings()
    assert warning.startswith("temperature=0.01 ") and "100" in warning
