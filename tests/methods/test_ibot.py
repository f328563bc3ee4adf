"""iBOT: the loss of masked patches against loops, its relation to DINO, its masks, centres and frozen layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, defaults, facts, forward_and_update, noisy_batch, rows, shake, small_vit
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method, Now
from ssltool.methods.ibot import masked_patch_loss
from ssltool.methods.parts.sinkhorn import sinkhorn
from ssltool.models.backbones import masked_tokens
from ssltool.models.masking import Masking
from target_helpers import array, cross_entropy, softmax

MASKS = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])


def by_hand(student, targets, masks, student_temp: float = 0.1) -> float:
    """Eq. 2 of arXiv:2111.07832: the mean over crops of the mean over their masked patches, crop by crop."""
    losses = cross_entropy(array(targets), array(student) / student_temp).tolist()
    crops = []
    for mask in masks.tolist():
        here = [losses.pop(0) for masked in mask if masked]
        crops.append(sum(here) / len(here) if here else 0.0)
    return sum(crops) / len(crops)


def inputs() -> tuple[Tensor, Tensor]:
    student, teacher = rows(2, n=int(MASKS.sum()))
    return student.tanh(), teacher.softmax(dim=1)


@pytest.mark.parametrize("student_temp", [0.1, 1.0])
def test_the_loss_of_patches_equals_eq_2_by_loops(student_temp):
    student, targets = inputs()
    wanted = by_hand(student, targets, MASKS, student_temp)
    assert masked_patch_loss(student, targets, MASKS, student_temp).item() == pytest.approx(wanted, rel=1e-12)


def test_a_uniform_output_has_the_loss_ln_k_for_each_crop_with_masked_patches():
    _, targets = inputs()
    assert masked_patch_loss(torch.zeros(6, 5).double(), targets, MASKS).item() == pytest.approx(0.75 * math.log(5))


def test_the_weight_of_a_crop_does_not_depend_on_how_many_patches_are_masked():
    student, targets = torch.zeros(2, 2).double(), torch.tensor([[0.5, 0.5], [0.5, 0.5]]).double()
    one, two = torch.tensor([[True, False], [True, False]]), torch.tensor([[True, True]])
    for masks in (one, two):
        assert masked_patch_loss(student, targets, masks).item() == pytest.approx(math.log(2), rel=1e-12)


def test_without_masked_patches_the_loss_and_its_gradient_are_0():
    student = torch.zeros(0, 5, requires_grad=True)
    loss = masked_patch_loss(student, torch.zeros(0, 5), torch.zeros(4, 3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0


def test_only_the_student_has_a_gradient():
    student, targets = (x.requires_grad_() for x in inputs())
    masked_patch_loss(student, targets, MASKS).backward()
    assert float(student.grad.norm()) > 0 and targets.grad is None


@pytest.mark.parametrize(("student", "targets"), [((5, 4), (5, 4)), ((6, 4), (6, 3)), ((6,), (6,))])
def test_rows_that_are_not_one_for_each_masked_patch_are_refused(student, targets):
    with pytest.raises(SSLToolError, match="masked_patch_loss ") as caught:
        masked_patch_loss(torch.zeros(student), torch.zeros(targets), MASKS)
    assert str(caught.value).endswith(f"found (4, 3) with M = 6, {student} and {targets}")


def test_the_defaults_are_those_of_the_released_command_for_vit_s():
    assert defaults("ibot") == {
        "asymmetric": False, "dim": 256, "hidden": 2048, "prototypes": 8192, "student_temp": 0.1, "teacher_temp": 0.07,
        "warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 30, "momentum": 0.996, "momentum_final": 1.0,
        "centering": "ema", "center_momentum": 0.9, "freeze": 1, "clip_grad": 3.0, "norm_last_layer": False,
        "drop_path": 0.0, "local_crops": 10, "local_size": None, "mask_p": 0.5, "mask_min": 0.1, "mask_max": 0.5,
    }  # fmt: skip


def test_a_smallest_share_of_masked_patches_above_the_largest_is_refused():
    with pytest.raises(SSLToolError, match=r"mask_min=0\.6 .*mask_max=0\.5"):
        method_options("ibot", {"mask_min": 0.6})


def ibot(run=None, **options) -> Method:
    """A method whose student and teacher have different weights."""
    return shake(build("ibot", run, **{"prototypes": 5, **options}))


def test_without_masks_it_is_dino():
    options = {"dim": 6, "hidden": 10, "prototypes": 5, "teacher_temp": 0.05, "local_crops": 0}
    torch.manual_seed(0)
    dino = method_class("dino")(*small_vit(), method_options("dino", options), facts())
    ibot = build("ibot", **options, mask_p=0, norm_last_layer=True, warmup_teacher_temp_epochs=0)
    for step, sizes in enumerate([(8, 8), (8, 8, 4, 4)]):
        found, wanted = (forward_and_update(method, noisy_batch(sizes=sizes, seed=step)) for method in (ibot, dino))
        assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
        torch.testing.assert_close(ibot.center, dino.center)
    gradients = [
        torch.autograd.grad(out.loss, list(m.projector.parameters())) for m, out in ((ibot, found), (dino, wanted))
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def logits(part: dict[str, nn.Module], tokens: Tensor) -> np.ndarray:
    return array(part["prototypes"](part["projector"](tokens)))


def parts(model: Method) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    return {name: getattr(model, name) for name in ("backbone", "projector", "prototypes")}, dict(model.teacher.items())


@pytest.mark.parametrize("centering", ["ema", "sinkhorn", "none"])
@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4)])
def test_a_forward_pass_is_the_loss_of_class_tokens_across_crops_and_of_masked_patches_within_them(sizes, centering):
    model, batch = ibot(centering=centering), noisy_batch(sizes=sizes)
    student, teacher = parts(model)
    masks = model.masks(batch)
    if centering == "ema":
        model.center.copy_(torch.linspace(-0.3, 0.4, 5))
        model.patch_center.copy_(torch.linspace(0.2, -0.1, 5))

    def targets(given: np.ndarray, name: str) -> np.ndarray:
        if centering == "sinkhorn":
            return array(sinkhorn(torch.from_numpy(given), 0.04))
        return softmax((given - (array(getattr(model, name)) if centering == "ema" else 0)) / 0.04)

    views = torch.cat(batch.views[:2])
    seen = masked_tokens(teacher["backbone"], views)
    tokens = masked_tokens(student["backbone"], views, Masking(masks, model.mask_token))
    p = np.split(targets(logits(teacher, seen[:, 0]), "center"), 2)
    crops = [*tokens[:, 0].chunk(2), *(student["backbone"](view) for view in batch.views[2:])]
    pairs = [(t, s) for t in range(2) for s in range(len(crops)) if s != t]
    of_classes = np.mean([cross_entropy(p[t], logits(student, crops[s]) / 0.1).mean() for t, s in pairs])
    q = targets(logits(teacher, seen[:, 1:][masks]), "patch_center")
    of_patches = by_hand(logits(student, tokens[:, 1:][masks]), q, masks)
    assert model(batch).loss.item() == pytest.approx(of_classes + of_patches, rel=1e-4)


def test_half_of_the_crops_of_the_whole_batch_are_masked_whatever_part_of_it_is_seen():
    model, batch = ibot(), noisy_batch()
    whole = model.masks(batch)
    assert whole.shape == (32, 16) and int(whole.any(dim=1).sum()) == 16
    for first in (0, 4, 12):
        part = Batch([view[first : first + 4] for view in batch.views], batch.labels[:4], batch.rows[:4], first=first)
        assert torch.equal(model.masks(part), whole.view(2, 16, 16)[:, first : first + 4].flatten(0, 1))


def test_masks_differ_between_steps_and_seeds():
    model, batch = ibot(), noisy_batch()
    first = model.masks(batch)
    assert torch.equal(model.masks(batch), first)
    assert not torch.equal(ibot(facts(seed=1)).masks(batch), first)
    model.now = Now(0, 1)
    assert not torch.equal(model.masks(batch), first)


def test_the_centres_are_moving_averages_of_the_teachers_logits_of_class_tokens_and_of_all_patches():
    model, batch = ibot(center_momentum=0.75), noisy_batch()
    _, teacher = parts(model)
    seen = masked_tokens(teacher["backbone"], torch.cat(batch.views))
    forward_and_update(model, batch)
    assert array(model.center) == pytest.approx(0.25 * logits(teacher, seen[:, 0]).mean(axis=0), abs=1e-6)
    of_patches = logits(teacher, seen[:, 1:].flatten(0, 1)).mean(axis=0)
    assert array(model.patch_center) == pytest.approx(0.25 * of_patches, abs=1e-6)


@pytest.mark.parametrize("centering", ["sinkhorn", "none"])
def test_without_a_running_mean_there_is_no_centre(centering):
    assert not [name for name in build("ibot", prototypes=5, centering=centering).state_dict() if "center" in name]


def test_a_mask_token_is_trained_only_where_there_are_masks():
    for share in (0.5, 0.0):
        model = ibot(mask_p=share)
        model(noisy_batch()).loss.backward()
        assert (model.mask_token.grad is not None and bool(model.mask_token.grad.any())) is (share > 0)


def test_the_loss_of_a_uniform_output_counts_patches_by_the_share_of_masked_crops():
    for share, cross_entropies in ((0.5, 1.5), (0.0, 1.0), (0.3, 1 + 9 / 32)):
        (known,) = build("ibot", prototypes=7, mask_p=share).constant_output_losses
        assert known == pytest.approx(cross_entropies * math.log(7), rel=1e-12)


def test_a_uniform_output_after_the_first_epoch_is_named():
    model = build("ibot", prototypes=7)
    model.now = Now(1, 4)
    assert "1.5 ln 7" in str(model.diagnose(1.5 * math.log(7)))
    assert model.diagnose(math.log(7)) is None


def test_the_last_layer_is_frozen_in_the_first_epoch():
    model = ibot()
    for epoch, frozen in ((0, True), (1, False)):
        model.now = Now(epoch, 4 * epoch)
        model(noisy_batch()).loss.backward()
        model.before_update()
        assert (model.prototypes.weight.grad is None) is frozen


def test_an_image_is_masked_for_the_student_and_not_for_the_teacher():
    model = ibot(mask_p=1.0, mask_min=1.0, mask_max=1.0)
    first, second = noisy_batch(seed=0), noisy_batch(seed=1)
    tokens = [torch.cat(model.distilled(batch).tokens) for batch in (first, second)]
    torch.testing.assert_close(*tokens)  # all patches of both are mask tokens
    assert model(first).loss.item() != model(second).loss.item()
