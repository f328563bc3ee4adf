"""I-JEPA: its loss, its blocks, its targets and its teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods_helpers import build, facts, shake
from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Now
from ssltool.methods.ijepa import TARGET_ASPECT, TARGET_SCALE, block_size, draw_blocks, ijepa_loss
from ssltool.models.backbones import masked_tokens, patch_tokens
from ssltool.models.masking import Masking


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image_batch(n: int = 16, seed: int = 0) -> Batch:
    return Batch([torch.randn(n, 3, 8, 8, generator=generator(seed))], torch.full((n,), -1), torch.arange(n))


def test_the_loss_is_smooth_l1():
    a, b = (2 * torch.randn(3, 4, 5, generator=generator(k), dtype=torch.float64) for k in (0, 1))
    d = np.abs((a - b).numpy())
    wanted = np.where(d < 1, 0.5 * d**2, d - 0.5).mean()
    assert float(ijepa_loss(a, b)) == pytest.approx(wanted, rel=1e-10)
    assert float(ijepa_loss(a, a)) == 0.0


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 5)), ((2, 3), (2, 3)), ((0, 3, 4), (0, 3, 4))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match="ijepa_loss"):
        ijepa_loss(*(torch.zeros(shape) for shape in shapes))


# Blocks


@pytest.mark.parametrize("side", [8, 14, 16])
def test_target_blocks_have_about_the_published_share_and_aspect(side):
    for seed in range(40):
        height, width = block_size(side, TARGET_SCALE, TARGET_ASPECT, generator(seed))
        assert 0.1 < height * width / side**2 < 0.26  # 0.15 to 0.2 before rounding to whole rows
        assert 0.5 < height / width < 2.1


@pytest.mark.parametrize("side", [3, 4, 5, 7, 14])
def test_contexts_and_targets_do_not_overlap_and_targets_are_whole_blocks(side):
    for seed in range(10):
        context, targets = draw_blocks(12, side, 4, 10, generator(seed))
        assert context.shape[0] == targets.shape[0] == 12 and targets.shape[1] == 4
        assert context.shape[1] > 0
        for seen, blocks in zip(context.tolist(), targets.tolist(), strict=True):
            assert len(set(seen)) == len(seen)
            if 4 * targets.shape[2] < side * side:  # else the targets may cover the image
                assert not set(seen) & {patch for block in blocks for patch in block}
            for block in blocks:
                rows, columns = ({f(patch) for patch in block} for f in (lambda p: p // side, lambda p: p % side))
                assert len(rows) * len(columns) == len(set(block)) == targets.shape[2]
                assert max(rows) - min(rows) + 1 == len(rows) and max(columns) - min(columns) + 1 == len(columns)
                assert min(block) >= 0 and max(block) < side * side


def test_every_patch_is_a_target_and_a_context_somewhere():
    """Also those of the last row and column."""
    context, targets = draw_blocks(500, 8, 4, 10, generator())
    assert set(context.flatten().tolist()) == set(targets.flatten().tolist()) == set(range(64))


def test_the_context_keeps_the_wanted_number_of_patches_if_a_place_allows_it():
    least = min(draw_blocks(100, 14, 4, 10, generator(seed))[0].shape[1] for seed in range(30))
    assert least >= 10


def test_there_is_a_context_even_where_targets_can_cover_the_image():
    """On a grid of 4 x 4, four targets of 2 x 2 may leave nothing; then fewer of them are cut out."""
    for seed in range(200):
        assert draw_blocks(200, 4, 4, 10, generator(seed))[0].shape[1] > 0


# The method


def parts(method) -> tuple[torch.Tensor, torch.Tensor]:
    return method._draw(16, seeds.generator(method.run.seed, *method.now, seeds.Stream.MASKS))


def test_targets_are_the_teachers_tokens_of_the_whole_image_normalised():
    method = build("ijepa")
    shake(method.teacher)
    batch = image_batch()
    with torch.no_grad():
        tokens = patch_tokens(method.teacher["backbone"], batch.views[0])
        centred = tokens - tokens.mean(dim=2, keepdim=True)
        wanted = centred / (tokens.var(dim=2, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(method._targets(batch.views[0]), wanted, rtol=1e-4, atol=1e-5)
    assert not method._targets(batch.views[0]).requires_grad


def test_the_loss_by_hand_from_each_block_by_itself():
    method = build("ijepa")
    shake(method.teacher)
    batch = image_batch()
    context, targets = parts(method)
    with torch.no_grad():
        wanted, losses = method._targets(batch.views[0]), []
        for i in range(16):
            seen = context[i : i + 1]
            tokens = masked_tokens(method.backbone, batch.views[0][i : i + 1], Masking(kept=seen))[:, 1:]
            for block in targets[i]:
                prediction = method.predictor(tokens, seen, block[None])
                losses.append(F.smooth_l1_loss(prediction[0], wanted[i, block]))
        torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-6)


def test_the_network_sees_the_context_only():
    method = build("ijepa")
    batch, other = image_batch(), image_batch(seed=1)
    context, _ = parts(method)
    seen = torch.zeros(16, 16, dtype=torch.bool).scatter_(1, context, True)
    pixels = seen.view(16, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    mixed = Batch([torch.where(pixels, batch.views[0], other.views[0])], batch.labels, batch.rows)
    assert torch.equal(method(mixed).projection, method(batch).projection)
    assert not torch.equal(method(mixed).loss, method(batch).loss)  # the teacher sees all


@pytest.mark.parametrize(("options", "flows"), [({}, False), ({"stop_grad": False}, True)])
def test_the_gradient_flows_through_the_targets_only_without_stop_gradient(options, flows):
    method = build("ijepa", **options)
    target = method._targets(image_batch().views[0])
    assert target.requires_grad == flows
    method(image_batch()).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())


@torch.no_grad()
def test_equal_tokens_of_all_images_have_the_lowest_loss():
    """The last norm makes all tokens 0, which the predictor's head predicts."""
    method = build("ijepa", stop_grad=False)
    for module in (method.backbone.encoder.ln, method.predictor.head):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    loss = float(method(image_batch()).loss)
    assert (loss,) == method.constant_output_losses == (0.0,)
    assert len(method.probable_causes(loss)) == len(method.probable_causes(math.inf)) + 1


@pytest.mark.parametrize("final", [1.0, 0.9, None])
def test_the_momentum_of_the_teacher_increases_linearly(final):
    method = build("ijepa", momentum=0.5, momentum_final=final)
    shake(method.backbone)
    for step in (0, 3, 7):  # of 8
        before = [p.clone() for p in method.teacher.parameters()]
        method.now = Now(0, step)
        method.after_step()
        m = 0.5 + (step / 8) * ((0.5 if final is None else final) - 0.5)
        for t, old, own in zip(method.teacher.parameters(), before, method.backbone.parameters(), strict=True):
            torch.testing.assert_close(t, m * old + (1 - m) * own)


def test_the_representation_is_the_mean_of_the_patches():
    method = build("ijepa")
    x = image_batch().views[0]
    with torch.no_grad():
        found = method.outputs(x)
        assert found.keys() == {"backbone"}
        torch.testing.assert_close(found["backbone"], patch_tokens(method.backbone, x).mean(dim=1))


def test_the_predictor_is_an_optimiser_group_of_its_own():
    method = build("ijepa", fix_pred_lr=True)
    own = {id(p) for p in method.predictor.parameters()}
    for group in method.param_groups():
        assert {id(p) in own for p in group["params"]} == {not group["is_encoder"]}
        assert group["fixed_lr"] == (not group["is_encoder"])


def test_views_of_too_few_patches_are_refused():
    with pytest.raises(UsageError, match=r"2 x 2.* --image-size") as refused:
        build("ijepa", facts(image_size=4))
    assert "\n" not in str(refused.value)


def test_momentum_without_stop_gradient_is_refused():
    with pytest.raises(SSLToolError, match="momentum"):
        build("ijepa", stop_grad=False, momentum=0.9)
