"""MAE: its loss, its patches, what the network sees, and refused settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods_helpers import build, facts, noisy_batch
from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Now
from ssltool.methods.mae import mae_loss, patchify


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def image_batch(seed: int = 0, n: int = 16) -> Batch:
    images = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Batch([images], torch.full((n,), -1), torch.arange(n))


@pytest.mark.parametrize("norm_pix", [True, False])
def test_the_loss_is_the_mean_over_patches_of_the_mean_squared_error(norm_pix):
    prediction, pixels = draws(3, 5, 12), 4 * draws(3, 5, 12, seed=1) + 2
    errors = []
    for i in range(3):
        for j in range(5):
            target = pixels[i, j].numpy()
            if norm_pix:
                target = (target - target.mean()) / np.sqrt(np.var(target, ddof=1) + 1e-6)
            errors.append(np.mean((prediction[i, j].numpy() - target) ** 2))
    assert float(mae_loss(prediction, pixels, norm_pix=norm_pix)) == pytest.approx(np.mean(errors), rel=1e-10)


def test_normalised_targets_do_not_change_with_brightness_and_contrast():
    prediction, pixels = draws(2, 4, 48), draws(2, 4, 48, seed=1)
    loss = float(mae_loss(prediction, pixels))
    assert float(mae_loss(prediction, 100 + 30 * pixels)) == pytest.approx(loss, rel=1e-5)
    assert float(mae_loss(prediction, 30 * pixels, norm_pix=False)) > 2 * loss


def test_the_loss_of_predicting_zero_is_d_minus_1_over_d():
    """Whatever the patches are, if they are not of one colour."""
    pixels = 1000 * draws(2, 4, 48)
    assert float(mae_loss(torch.zeros_like(pixels), pixels)) == pytest.approx(47 / 48, rel=1e-8)


def test_the_loss_of_patches_of_one_colour_is_finite():
    pixels = torch.full((1, 2, 12), 0.7, dtype=torch.float64)
    assert float(mae_loss(torch.zeros_like(pixels), pixels)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 5)), ((2, 3), (2, 3)), ((2, 3, 1), (2, 3, 1)), ((0, 3, 4),) * 2])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match="mae_loss"):
        mae_loss(*(torch.zeros(shape) for shape in shapes))


def test_a_patch_has_the_pixels_of_its_square_with_the_colours_of_each_together():
    images = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 9, 12)
    for row in range(3):
        for column in range(3):
            square = images[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert patches[1, 3 * row + column].tolist() == [
                float(square[c, y, x]) for y in range(2) for x in range(2) for c in range(3)
            ]


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 4), (0.5, 8), (0.9, 1), (0.01, 15)])
def test_each_patch_is_either_visible_or_predicted(ratio, kept):
    method = build("mae", mask_ratio=ratio)
    visible, masked = method._draw(50, torch.Generator().manual_seed(0))
    assert visible.shape == (50, kept) and masked.shape == (50, 16 - kept)
    every = torch.cat([visible, masked], dim=1)
    assert torch.equal(every.sort(dim=1).values, torch.arange(16).expand(50, -1))
    assert len({tuple(row) for row in every.tolist()}) == 50


def test_the_loss_depends_on_visible_patches_by_the_prediction_and_on_masked_ones_as_targets_only():
    """With a prediction of zero, which the decoder's head gives, the loss is that of the masked patches alone."""
    method = build("mae", norm_pix=False)
    torch.nn.init.zeros_(method.decoder.head.weight)
    batch = image_batch()
    _, masked = method._draw(16, _generator(method))
    patches = patchify(batch.views[0], 2)
    wanted = torch.stack([patches[i, numbers].square().mean() for i, numbers in enumerate(masked)]).mean()
    torch.testing.assert_close(method(batch).loss, wanted)


def test_the_projection_that_is_monitored_does_not_depend_on_masked_patches():
    method = build("mae")
    batch, other = image_batch(), image_batch(seed=1)
    visible, _ = method._draw(16, _generator(method))
    seen = torch.zeros(16, 16, dtype=torch.bool).scatter_(1, visible, True)
    pixels = seen.view(16, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    mixed = Batch([torch.where(pixels, batch.views[0], other.views[0])], batch.labels, batch.rows)
    assert torch.equal(method(mixed).projection, method(batch).projection)
    assert not torch.equal(method(other).projection, method(batch).projection)


def _generator(method) -> torch.Generator:
    return seeds.generator(method.run.seed, *method.now, seeds.Stream.MASKS)


def test_masks_are_a_function_of_seed_epoch_and_step_and_of_the_place_in_the_whole_batch():
    batch = image_batch()
    first, again = build("mae")(batch).loss, build("mae")(batch).loss
    assert torch.equal(first, again)
    later = build("mae")
    later.now = Now(0, 1)
    assert not torch.equal(later(batch).loss, first)
    assert not torch.equal(build("mae", facts(seed=1))(batch).loss, first)
    halves = [
        Batch([batch.views[0][at : at + 8]], batch.labels[at : at + 8], batch.rows[at : at + 8], first=at)
        for at in (0, 8)
    ]
    torch.testing.assert_close(torch.stack([build("mae")(half).loss for half in halves]).mean(), first)
    halves[1].first = 0
    assert not torch.allclose(torch.stack([build("mae")(half).loss for half in halves]).mean(), first)


def test_biases_norms_and_the_mask_token_have_no_weight_decay_and_all_else_has():
    method = build("mae")
    names = {id(p): name for name, p in method.named_parameters()}
    decays = {names[id(p)]: group["decays"] for group in method.param_groups() for p in group["params"]}
    assert not decays["decoder.norm.weight"] and not decays["backbone.conv_proj.bias"]
    assert decays["decoder.head.weight"] and decays["backbone.class_token"]


def test_equal_outputs_are_no_known_loss_and_have_no_known_cause():
    method = build("mae")
    assert method.constant_output_losses == () and method.collapse_causes() == {}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mask_ratio": 0}, "mask_ratio"),
        ({"mask_ratio": 1.0}, "masks all"),
        ({"mask_ratio": 1e-9}, "masks none"),
        ({"width": 18, "heads": 4}, "heads=4"),
        ({"width": 6, "heads": 2}, "by 4"),
    ],
)
def test_settings_that_leave_nothing_to_see_or_to_predict_are_refused(options, named):
    with pytest.raises(UsageError, match=named) as refused:
        build("mae", **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("method", ["mae", "ijepa"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_network_without_patches_is_refused_before_anything_is_written(ssltool, tmp_path, method, more):
    flags = ["-m", method, "-a", "resnet18_w8", "--device", "cpu", "-o", tmp_path / "run", *more]
    ran = ssltool("pretrain", *flags)
    message = ran.err.splitlines()[-1]
    assert (ran.code, ran.out) == (2, "")
    assert method in message and "resnet18_w8" in message and "vit_small" in message
    assert not (tmp_path / "run").exists()


def test_one_view_of_each_image_is_made():
    method = build("mae")
    assert len(method.view_recipes(object())) == 1
    assert torch.isfinite(method(noisy_batch(sizes=(8,))).loss)
