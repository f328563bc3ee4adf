"""DINOv2: what it adds to iBOT's loss, its separate heads, clipping by network, and Gram anchoring late in training."""

from __future__ import annotations

import math

import pytest
import torch

from methods_helpers import build, defaults, facts, noisy_batch, shake
from ssltool.methods.base import Method, Now
from ssltool.methods.parts.gram import gram_loss
from ssltool.methods.parts.koleo import koleo_loss
from ssltool.models.backbones import patch_tokens

HEADS = ("projector", "prototypes"), ("patch_projector", "patch_prototypes")


def dinov2(run=None, **options) -> Method:
    """A method whose student and teacher have different weights."""
    return shake(build("dinov2", run, **{"prototypes": 5, **options}))


def test_the_defaults_are_those_of_the_released_configuration_for_vit_l():
    assert defaults("dinov2") == {
        "asymmetric": False, "dim": 384, "hidden": 2048, "prototypes": 131072, "student_temp": 0.1,
        "teacher_temp": 0.07, "warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 30, "momentum": 0.994,
        "momentum_final": 1.0, "centering": "sinkhorn", "center_momentum": 0.9, "freeze": 1, "clip_grad": 3.0,
        "norm_last_layer": False, "drop_path": 0.0, "local_crops": 8, "local_size": None, "mask_p": 0.5,
        "mask_min": 0.1, "mask_max": 0.5, "koleo": 0.1, "gram": 0.0, "gram_start": 0.8,
    }  # fmt: skip


def test_koleo_of_the_class_tokens_of_each_large_crop_is_added():
    batch = noisy_batch(sizes=(8, 8, 4))
    plain, model = dinov2(koleo=0.0), dinov2(koleo=0.3)
    crops = [tokens[:, 0] for tokens in model.distilled(batch).tokens]
    added = 0.3 * sum(koleo_loss(rows).item() for rows in crops)
    assert model(batch).loss.item() - plain(batch).loss.item() == pytest.approx(added, rel=1e-4)


def test_class_tokens_and_patches_have_heads_of_their_own_which_the_teacher_follows():
    model = dinov2()
    model(noisy_batch()).loss.backward()
    of_heads = [[p.grad for name in head for p in getattr(model, name).parameters()] for head in HEADS]
    assert all(grad is not None and bool(grad.any()) for grads in of_heads for grad in grads)
    assert set(model.teacher.keys()) == {"backbone", *HEADS[0], *HEADS[1]}
    tokens = torch.randn(3, model.backbone_dim)
    assert not torch.allclose(model.projector(tokens), model.patch_projector(tokens))


def test_without_masks_the_head_of_patches_is_not_trained():
    model = dinov2(mask_p=0)
    assert not any(p.requires_grad for name in HEADS[1] for p in getattr(model, name).parameters())


def test_gradients_are_clipped_by_the_norm_of_a_network():
    model = dinov2(clip_grad=0.02)
    model.now = Now(1, 4)
    model(noisy_batch()).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.before_update()
    for names in (("backbone", "mask_token"), *HEADS):
        mine = [name for name in before if name.partition(".")[0] in names]
        norm = math.sqrt(sum(float(before[name].square().sum()) for name in mine))
        assert norm > 0.02
        for name in mine:
            found = dict(model.named_parameters())[name].grad
            torch.testing.assert_close(found, before[name] * 0.02 / norm, rtol=1e-3, atol=1e-7)


def test_both_last_layers_are_frozen_in_the_first_epoch():
    model = dinov2()
    model(noisy_batch()).loss.backward()
    model.before_update()
    assert model.prototypes.weight.grad is None and model.patch_prototypes.weight.grad is None


@pytest.mark.parametrize(
    ("options", "compares"),
    [({}, True), ({"koleo": 0.0}, True), ({"centering": "ema"}, True), ({"koleo": 0.0, "centering": "ema"}, False)],
)
def test_sinkhorn_and_koleo_compare_the_images_of_a_batch(options, compares):
    assert dinov2(**options).compares_images is compares


def test_the_loss_of_a_constant_output_is_known_without_koleo_and_gram_anchoring():
    (known,) = build("dinov2", prototypes=7, koleo=0).constant_output_losses
    assert known == pytest.approx(1.5 * math.log(7), rel=1e-12)
    for options in ({"koleo": 0.1}, {"koleo": 0.0, "gram": 1.0}):
        model = build("dinov2", prototypes=7, **options)
        model.now = Now(1, 4)
        assert model.constant_output_losses == ()
        assert model.diagnose(1.5 * math.log(7)) is None


def test_gram_anchoring_begins_at_its_share_of_the_steps_with_the_teacher_of_then():
    """Two epochs of four steps: with gram_start 0.5 after the fourth."""
    model = shake(build("dinov2", prototypes=5, gram=2.0, gram_start=0.5, momentum=0.5))
    plain, batch = shake(build("dinov2", prototypes=5, momentum=0.5)), noisy_batch()
    plain.load_state_dict(model.state_dict(), strict=False)
    at_first = {name: w.clone() for name, w in model.gram_teacher.state_dict().items()}
    for step in range(8):
        model.now = plain.now = Now(step // 4, step)
        found = model(batch).loss.item() - plain(batch).loss.item()
        tokens = torch.cat([model.of_patches(crop) for crop in model.distilled(batch).tokens])
        anchored = 2.0 * gram_loss(tokens, patch_tokens(model.gram_teacher, torch.cat(batch.views))).item()
        assert found == pytest.approx(anchored if step >= 4 else 0.0, rel=1e-3, abs=1e-6)
        assert anchored > 1e-4
        for method in (model, plain):
            shake(method.backbone, seed=10 + step)
            method.after_step()
        same = all(torch.equal(w, at_first[name]) for name, w in model.gram_teacher.state_dict().items())
        assert same is (step < 3)
        if step == 3:
            at_start = {name: w.clone() for name, w in model.teacher["backbone"].state_dict().items()}
    assert all(torch.equal(w, at_start[name]) for name, w in model.gram_teacher.state_dict().items())
    assert not any(p.requires_grad for p in model.gram_teacher.parameters())


def test_the_gram_teacher_is_part_of_the_state_only_with_gram_anchoring():
    with_gram, without = (set(build("dinov2", prototypes=5, gram=gram).state_dict()) for gram in (1.0, 0.0))
    backbone = {name for name in without if name.startswith("backbone.")}
    assert with_gram - without == {f"gram_teacher.{name.removeprefix('backbone.')}" for name in backbone}


def test_the_step_of_gram_anchoring_depends_on_the_length_of_the_run():
    run = facts(epochs=10, steps=7)
    assert build("dinov2", run, prototypes=5, gram=1.0, gram_start=0.8).gram_step == 56
