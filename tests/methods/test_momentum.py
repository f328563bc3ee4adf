"""Momentum teachers: initialisation, updates, and their own batch statistics."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from methods_helpers import build, noisy_batch, shake
from ssltool.methods.base import Now
from ssltool.methods.parts.momentum import MomentumMethod, ema_update, momentum_at

FOLLOWED = ["byol", "moco", "mocov3"]


def taught(method: MomentumMethod) -> nn.ModuleDict:
    """The modules of the student that the teacher has too."""
    return nn.ModuleDict({"backbone": method.backbone, "projector": method.projector})


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_teacher_starts_as_a_copy_of_backbone_and_projector(name):
    method = build(name)
    assert set(method.teacher) == {"backbone", "projector"}
    student, teacher = taught(method).state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    for key, tensor in student.items():
        assert torch.equal(tensor, teacher[key])
        assert tensor.data_ptr() != teacher[key].data_ptr()


@pytest.mark.parametrize("name", FOLLOWED)
def test_no_gradient_reaches_the_teacher_and_no_optimiser_sees_it(name):
    method = build(name)
    method(noisy_batch()).loss.backward()
    own = {id(p) for p in method.teacher.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert all(id(p) not in own for group in method.param_groups() for p in group["params"])
    assert all(p.grad is not None for p in taught(method).parameters())


@pytest.mark.parametrize("name", FOLLOWED)
def test_teacher_forward_is_the_teachers_projection_without_gradient(name):
    method, (view, _) = build(name), noisy_batch().views
    shake(method.teacher)
    found = method.teacher_forward(view.clone().requires_grad_())
    wanted = method.teacher["projector"](method.teacher["backbone"](view))
    torch.testing.assert_close(found, wanted)
    assert not found.requires_grad
    assert not torch.allclose(found, method.projector(method.backbone(view)), atol=0.1)


@pytest.mark.parametrize("step", [0, 3, 8])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("byol", {"momentum": 0.9}),
        ("byol", {"momentum": 0.9, "momentum_final": 0.95}),
        ("byol", {"momentum": 0.9, "momentum_final": None}),
        ("moco", {"momentum": 0.7}),
        ("mocov3", {"momentum": 0.5}),
    ],
)
def test_a_step_updates_the_teacher_with_the_scheduled_momentum(name, options, step):
    method = build(name, **options)
    shake(taught(method))
    before, student = weights(method.teacher), weights(taught(method))
    method.now = Now(step // 4, step)
    method.after_step()
    start = options["momentum"]
    end = options.get("momentum_final", start if name == "moco" else 1.0)
    end = start if end is None else end
    m = end - (end - start) * (math.cos(math.pi * step / 8) + 1) / 2  # two epochs of four steps
    for t, old, s in zip(weights(method.teacher), before, student, strict=True):
        torch.testing.assert_close(t, m * old + (1 - m) * s, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(weights(taught(method)), student, strict=True))


def test_byols_schedule_is_its_eq_8():
    options = build("byol", momentum=0.996).options
    for k in range(9):
        wanted = 1 - (1 - 0.996) * (math.cos(math.pi * k / 8) + 1) / 2
        assert momentum_at(k / 8, options) == pytest.approx(wanted, rel=1e-14)
    assert momentum_at(0.0, options) == pytest.approx(0.996, rel=1e-15)
    assert momentum_at(1.0, options) == 1.0


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_without_momentum_final_the_momentum_is_constant(progress):
    assert momentum_at(progress, build("moco", momentum=0.99).options) == 0.99


@pytest.mark.parametrize(("momentum", "moves"), [(0.0, True), (1.0, False)])
def test_momentum_0_copies_and_1_freezes(momentum, moves):
    torch.manual_seed(0)
    teacher, student = nn.Linear(3, 2), nn.Linear(3, 2)
    wanted = copy.deepcopy(student if moves else teacher)
    ema_update(teacher, student, momentum)
    assert torch.equal(teacher.weight, wanted.weight)
    assert torch.equal(teacher.bias, wanted.bias)


def test_ema_update_does_not_change_buffers_and_gradients():
    teacher, student = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.zeros_(student.weight)
    student.running_mean.fill_(5.0)
    ema_update(teacher, student, 0.5)
    assert torch.equal(teacher.weight, torch.tensor([0.5, 0.5]))
    assert torch.equal(teacher.running_mean, torch.zeros(2))
    assert student.weight.grad is None and teacher.weight.grad_fn is None


def test_ema_update_of_another_architecture_is_refused():
    with pytest.raises(ValueError, match="zip"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.5)


@pytest.mark.parametrize("name", ["byol", "mocov3"])
def test_batch_norms_of_the_teacher_have_their_own_statistics(name):
    method = build(name)
    shake(method.teacher)
    method(noisy_batch())
    student, teacher = method.projector[1], method.teacher["projector"][1]
    assert int(student.num_batches_tracked) == int(teacher.num_batches_tracked) == 2
    assert not torch.allclose(student.running_mean, teacher.running_mean, atol=1e-3)
    method.eval()
    kept = teacher.running_mean.clone()
    method(noisy_batch(seed=1))
    assert torch.equal(teacher.running_mean, kept)


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_checkpoint_holds_the_teacher(name):
    method, other = build(name), build(name)
    shake(method.teacher)
    other.load_state_dict(method.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights(method.teacher), weights(other.teacher), strict=True))


@pytest.mark.parametrize("name", FOLLOWED)
def test_embed_uses_the_student(name):
    method, (view, _) = build(name).eval(), noisy_batch().views
    before = method.embed(view, "projector")
    shake(method.teacher)
    assert torch.equal(method.embed(view, "projector"), before)
