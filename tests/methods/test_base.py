"""The base class of methods: outputs of layers, parameter groups, views, warnings, and the check of shapes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from methods_helpers import WIDTH, Flat, facts, noisy_batch
from ssltool.data.views import PAPER, PLAIN
from ssltool.errors import SSLToolError
from ssltool.methods import options as declared
from ssltool.methods.base import Method, Now, check_same_shape, trainable_parameters
from ssltool.methods.parts.crops import large_views
from ssltool.settings import Checked


@dataclass(frozen=True)
class Options(declared.AsymmetricViews):
    temperature: float = declared.temperature(0.1)
    teacher_temp: float = declared.temperature(0.04)
    fix_pred_lr: bool = declared.fix_pred_lr()


@dataclass(frozen=True)
class Few(Checked):
    """Options without fields."""


class OnlyProjector(Method):
    """A projector and no predictor."""

    def __init__(self, options: Checked = Few()) -> None:
        super().__init__(Flat(), WIDTH, options, facts(steps=5, epochs=4))
        self.projector = nn.Linear(WIDTH, 5)


class WithPredictor(OnlyProjector):
    """A projector and a predictor."""

    def __init__(self, options: Checked = Few(), predictor: nn.Module | None = None) -> None:
        super().__init__(options)
        self.predictor = predictor or nn.Linear(5, 5)


def images():
    return noisy_batch().views[0]


def test_embed_returns_the_output_of_each_layer():
    method, x = WithPredictor(), images()
    h = method.backbone(x)
    z = method.projector(h)
    assert torch.equal(method.embed(x, "backbone"), h)
    assert torch.equal(method.embed(x, "projector"), z)
    assert torch.equal(method.embed(x, "predictor"), method.predictor(z))


def test_outputs_runs_one_forward_pass_up_to_the_last_requested_layer():
    method, x = WithPredictor(), images()
    passes: list[nn.Module] = []
    method.backbone.register_forward_hook(lambda module, given, made: passes.append(module))
    found = method.outputs(x, "projector")
    assert len(passes) == 1
    assert list(found) == ["backbone", "projector"]
    assert list(method.outputs(x)) == ["backbone", "projector", "predictor"]
    assert list(method.outputs(x, "backbone")) == ["backbone"]
    assert all(torch.equal(rows, method.embed(x, layer)) for layer, rows in found.items())


@pytest.mark.parametrize("method", [OnlyProjector(), WithPredictor(predictor=nn.Identity())])
def test_a_missing_predictor_is_refused(method):
    assert method.embed(images(), "projector").shape == (16, 5)
    with pytest.raises(SSLToolError, match="--layer predictor"):
        method.embed(images(), "predictor")


def test_a_missing_projector_is_refused():
    method = OnlyProjector()
    del method.projector
    assert method.embed(images(), "backbone").shape == (16, WIDTH)
    with pytest.raises(SSLToolError, match="--layer projector"):
        method.embed(images(), "projector")


def test_forward_of_the_base_class_is_not_implemented():
    with pytest.raises(NotImplementedError):
        OnlyProjector()(noisy_batch())


def test_a_method_without_a_predictor_trains_all_its_parameters_in_one_group():
    method = OnlyProjector()
    (group,) = method.param_groups()
    assert [id(p) for p in group["params"]] == [id(p) for p in method.parameters()]
    assert (group["fixed_lr"], group["is_encoder"], group["decays"]) == (False, True, True)


@pytest.mark.parametrize("predictor", [nn.Identity(), nn.Linear(5, 5).requires_grad_(False)])
def test_a_frozen_predictor_is_in_no_parameter_group(predictor):
    method = WithPredictor(predictor=predictor)
    (group,) = method.param_groups()
    learning = [*method.backbone.parameters(), *method.projector.parameters()]
    assert {id(p) for p in group["params"]} == {id(p) for p in learning}


@pytest.mark.parametrize(("options", "fixed"), [(Few(), False), (Options(), False), (Options(fix_pred_lr=True), True)])
def test_a_predictor_has_its_own_parameter_group_with_an_optional_fixed_learning_rate(options, fixed):
    method = WithPredictor(options)
    method.backbone.layer.bias.requires_grad_(False)
    encoder, predictor = method.param_groups()
    found = [id(p) for group in (encoder, predictor) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    assert {id(p) for p in predictor["params"]} == {id(p) for p in method.predictor.parameters()}
    assert (encoder["fixed_lr"], predictor["fixed_lr"]) == (False, fixed)
    assert (encoder["is_encoder"], predictor["is_encoder"]) == (True, False)


def test_trainable_parameters_excludes_frozen_parameters():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    assert [id(p) for p in trainable_parameters(a, b)] == [id(a.weight), id(a.bias)]


@pytest.mark.parametrize(("step", "wanted"), [(0, 0.0), (5, 0.25), (19, 0.95), (20, 1.0)])
def test_progress_is_the_completed_fraction_of_all_steps(step, wanted):
    method = OnlyProjector()
    method.now = Now(step // 5, step)
    assert method.progress == wanted


@pytest.mark.parametrize("options", [Few(), Options()])
def test_by_default_both_views_use_the_recipe_of_the_run(options):
    assert OnlyProjector(options).view_recipes(PAPER) == [PAPER, PAPER]


def test_asymmetric_views_are_byols_table_6():
    changes = [
        {"saturation": 0.2, "blur_p": 1.0, "solarize_p": 0.0},
        {"saturation": 0.2, "blur_p": 0.1, "solarize_p": 0.2},
    ]
    wanted = [dataclasses.replace(PAPER, **change) for change in changes]
    assert OnlyProjector(Options(asymmetric=True)).view_recipes(PAPER) == wanted


def test_asymmetric_views_of_a_recipe_without_blur_have_none():
    first, second = large_views(PLAIN, Options(asymmetric=True))
    assert (first.blur_p, second.blur_p) == (0.0, 0.0)
    assert (first.solarize_p, second.solarize_p) == (0.0, 0.2)


def test_asymmetric_views_scale_the_blur_and_solarisation_of_the_run():
    base = dataclasses.replace(PAPER, blur_p=0.3, solarize_p=0.5)
    first, second = large_views(base, Options(asymmetric=True))
    assert (first.blur_p, second.blur_p) == pytest.approx((0.6, 0.06))
    assert (first.solarize_p, second.solarize_p) == (0.5, 0.5)


def test_only_temperatures_whose_logits_overflow_give_a_warning():
    assert OnlyProjector(Options(temperature=0.012, teacher_temp=0.012)).warnings() == []
    (warning,) = OnlyProjector(Options(teacher_temp=0.01)).warnings()
    assert warning.startswith("teacher_temp=0.01 ") and "100" in warning
    assert OnlyProjector(Few()).warnings() == []


@pytest.mark.parametrize("shape", [(1, 1), (4, 3)])
def test_tensors_of_the_same_shape_are_accepted(shape):
    assert check_same_shape("f", torch.zeros(shape), torch.ones(shape)) is None


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        ([(4, 3), (4, 2)], "[(4, 2), (4, 3)]"),
        ([(4, 3), (5, 3)], "[(4, 3), (5, 3)]"),
        ([(3,), (3,)], "[(3,)]"),
        ([(2, 3, 4), (2, 3, 4)], "[(2, 3, 4)]"),
        ([(0, 3), (0, 3)], "[(0, 3)]"),
        ([()], "[()]"),
    ],
)
def test_tensors_of_other_shapes_are_refused(shapes, found):
    with pytest.raises(SSLToolError) as caught:
        check_same_shape("f", *(torch.zeros(shape) for shape in shapes))
    assert str(caught.value).startswith("f ") and str(caught.value).endswith(f"found {found}")
