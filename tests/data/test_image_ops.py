"""Each batched operation against torchvision's, image by image, with the same parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv_pil
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ssltool.data import image_ops as ops

ROUNDING = 1e-5
"""Largest difference from torchvision's float operations, on pixels in [0, 1]."""

TWO_ROUNDINGS = 1.02 / 255
"""Largest difference from PIL, which rounds to whole levels after the horizontal and after the vertical pass: half a
level each, and a little for its fixed-point weights."""

LUMA_ROUNDING = 1e-3
"""Largest difference of a grey image from the same image as RGB: the luma weights sum to .9999."""

COLOUR_OPS = {
    "brightness": (ops.adjust_brightness, tv.adjust_brightness, (0.0, 0.6, 1.0, 1.17, 2.5)),
    "contrast": (ops.adjust_contrast, tv.adjust_contrast, (0.0, 0.6, 1.0, 1.17, 2.5)),
    "saturation": (ops.adjust_saturation, tv.adjust_saturation, (0.0, 0.6, 1.0, 1.17, 2.5)),
    "hue": (ops.adjust_hue, tv.adjust_hue, (-0.5, -0.1, 0.0, 0.03, 0.5)),
    "blur": (ops.gaussian_blur, lambda x, sigma: tv.gaussian_blur(x, [13, 13], [sigma, sigma]), (0.1, 0.4, 1, 1.7, 2)),
}
"""Ours, torchvision's, and parameters of a batch of five."""


def one_by_one(op, images, parameters):
    return torch.stack([op(image, float(p)) for image, p in zip(images, parameters, strict=True)])


def unit(images):
    return images.float() / 255


def assert_close(made, expected, tolerance):
    assert made.shape == expected.shape
    assert (made - expected).abs().max() <= tolerance


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 11, 23), (1, 16, 16), (1, 23, 11)], ids=str)
@pytest.mark.parametrize("name", COLOUR_OPS)
def test_op_equals_torchvisions_image_by_image(pixels, name, shape):
    ours, theirs, parameters = COLOUR_OPS[name]
    x = unit(pixels(5, *shape))
    assert_close(ours(x, torch.tensor(parameters)), one_by_one(theirs, x, parameters), ROUNDING)


@pytest.mark.parametrize("name", COLOUR_OPS)
def test_op_equals_torchvisions_on_few_levels_with_ties_between_channels(pixels, name):
    ours, theirs, parameters = COLOUR_OPS[name]
    x = (pixels(5, 3, 20, 20) % 3).float() / 2  # pure black, white and saturated colours among the pixels
    assert_close(ours(x, torch.tensor(parameters)), one_by_one(theirs, x, parameters), ROUNDING)


@pytest.mark.parametrize("name", COLOUR_OPS)
def test_op_does_not_modify_its_input(pixels, name):
    ours, _, parameters = COLOUR_OPS[name]
    x = unit(pixels(5, 3, 12, 12))
    before = x.clone()
    ours(x, torch.tensor(parameters))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", COLOUR_OPS)
def test_each_image_depends_only_on_its_own_parameter(pixels, name):
    ours, _, parameters = COLOUR_OPS[name]
    x, p = unit(pixels(5, 3, 12, 12)), torch.tensor(parameters)
    alone = torch.cat([ours(x[i : i + 1], p[i : i + 1]) for i in range(5)])
    assert_close(ours(x, p), alone, 1e-6)


@pytest.mark.parametrize("name", COLOUR_OPS)
def test_grey_image_results_equal_those_of_the_same_image_as_rgb(pixels, name):
    ours, _, parameters = COLOUR_OPS[name]
    grey, p = unit(pixels(5, 1, 14, 17)), torch.tensor(parameters)
    as_rgb = ours(grey.expand(-1, 3, -1, -1).contiguous(), p)
    assert_close(ours(grey, p).expand(-1, 3, -1, -1), as_rgb, LUMA_ROUNDING)


def test_grayscale_equals_torchvisions(pixels):
    x = unit(pixels(4, 3, 9, 13))
    assert_close(ops.grayscale(x), tv.rgb_to_grayscale(x), ROUNDING)


def test_grayscale_returns_grey_images_unchanged(pixels):
    x = unit(pixels(4, 1, 9, 13))
    assert torch.equal(ops.grayscale(x), x)


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_equals_torchvisions_on_bytes_at_128(pixels, channels):
    images = torch.arange(256, dtype=torch.uint8).repeat(channels).view(1, channels, 16, 16)
    images = torch.cat([images, pixels(1, channels, 16, 16)])
    assert_close(ops.solarize(unit(images)), unit(tv.solarize(images, 128)), 1e-6)


ANGLES = (0.0, 15.0, -14.9, 90.0, -137.3)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 21, 21)], ids=str)
def test_rotate_equals_torchvisions_bilinear_rotation_image_by_image(pixels, shape):
    x = unit(pixels(len(ANGLES), *shape))
    expected = torch.stack(
        [tv.rotate(image, a, InterpolationMode.BILINEAR) for image, a in zip(x, ANGLES, strict=True)]
    )
    assert_close(ops.rotate(x, torch.tensor(ANGLES)), expected, 1e-4)  # the place of a pixel rounds, on noise


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_rotation_by_right_angles_is_counter_clockwise(pixels, turns):
    x = unit(pixels(2, 3, 15, 15))
    assert_close(ops.rotate(x, torch.tensor([90.0 * turns] * 2)), torch.rot90(x, turns, (2, 3)), 1e-4)


BOXES_TO_ERASE = [(0, 0, 5, 7), (3, 2, 1, 12), (0, 0, 0, 0), (8, 9, 4, 5), (0, 0, 12, 14)]


def test_erase_equals_torchvisions_image_by_image_and_leaves_the_rest_bit_for_bit(pixels):
    x = unit(pixels(len(BOXES_TO_ERASE), 3, 12, 14))
    erased = [tv.erase(image, *box, torch.zeros(1)) for image, box in zip(x, BOXES_TO_ERASE, strict=True)]
    assert torch.equal(ops.erase(x, torch.tensor(BOXES_TO_ERASE)), torch.stack(erased))


@pytest.mark.parametrize(
    "op",
    [ops.solarize, lambda x: ops.rotate(x, torch.full((5,), 20.0)), lambda x: ops.erase(x, torch.ones(5, 4).long())],
    ids=["solarize", "rotate", "erase"],
)
def test_solarize_rotate_and_erase_do_not_modify_their_input(pixels, op):
    x = unit(pixels(5, 3, 12, 12))
    before = x.clone()
    assert not torch.equal(op(x), before)
    assert torch.equal(x, before)


def test_hue_shift_of_a_third_maps_red_to_green():
    red = torch.tensor([0.8, 0.1, 0.1]).view(1, 3, 1, 1)
    turned = ops.adjust_hue(red, torch.tensor([1 / 3])).flatten()
    assert torch.allclose(turned, torch.tensor([0.1, 0.8, 0.1]), atol=1e-6)


def test_blur_keeps_a_flat_image_and_the_mean_of_a_point():
    flat = torch.full((1, 1, 16, 16), 0.7)
    assert_close(ops.gaussian_blur(flat, torch.tensor([2.0])), flat, 1e-6)
    point = torch.zeros(1, 1, 25, 25)
    point[..., 12, 12] = 1
    blurred = ops.gaussian_blur(point, torch.tensor([1.5]))
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert blurred[0, 0, 12, 14] / blurred[0, 0, 12, 12] == pytest.approx(np.exp(-0.5 * (2 / 1.5) ** 2), rel=1e-4)


# Crops

BOXES = {
    "whole": (0, 0, 40, 56),
    "corner": (29, 41, 11, 15),
    "wide": (3, 2, 9, 50),
    "tall": (1, 30, 38, 7),
    "one pixel": (17, 23, 1, 1),
    "strip": (0, 5, 40, 1),
    "square": (10, 20, 16, 16),
}
"""Boxes (top, left, height, width) in images of 40 x 56."""


@pytest.mark.parametrize("size", [1, 8, 16, 39, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_equals_torchvisions_resized_crop_up_and_down(pixels, channels, size):
    images = pixels(len(BOXES), channels, 40, 56)
    made = ops.crop_resize(images, torch.tensor(list(BOXES.values())), torch.zeros(len(BOXES), dtype=bool), size)
    for name, box, image, got in zip(BOXES, BOXES.values(), unit(images), made, strict=True):
        expected = tv.resized_crop(image, *box, [size, size], antialias=True)
        assert (got - expected).abs().max() <= ROUNDING, name


def test_crop_of_a_box_of_the_output_size_copies_the_pixels(pixels):
    images = pixels(1, 3, 40, 56)
    made = ops.crop_resize(images, torch.tensor([[10, 20, 16, 16]]), torch.tensor([False]), 16)
    assert_close(made, unit(images[:, :, 10:26, 20:36]), 1e-6)


def test_crop_is_mirrored_where_flip_is_true(pixels):
    images = pixels(4, 3, 40, 56)
    boxes = torch.tensor([[3, 4, 30, 40], [0, 0, 40, 56], [5, 6, 7, 8], [10, 10, 20, 9]])
    flip = torch.tensor([True, False, True, True])
    made = ops.crop_resize(images, boxes, flip, 24)
    for image, box, mirrored, got in zip(unit(images), boxes.tolist(), flip, made, strict=True):
        expected = tv.resized_crop(image, *box, [24, 24], antialias=True)
        expected = tv.horizontal_flip(expected) if mirrored else expected
        assert (got - expected).abs().max() <= ROUNDING


@pytest.mark.parametrize("size", [8, 16, 39, 64])
def test_crop_equals_pils_within_its_rounding_to_levels(pixels, size):
    images = pixels(len(BOXES), 3, 40, 56)
    made = ops.crop_resize(images, torch.tensor(list(BOXES.values())), torch.zeros(len(BOXES), dtype=bool), size)
    for name, box, image, got in zip(BOXES, BOXES.values(), images, made, strict=True):
        crop = tv_pil.resized_crop(Image.fromarray(image.permute(1, 2, 0).numpy()), *box, [size, size])
        expected = torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 255
        assert (got - expected).abs().max() <= TWO_ROUNDINGS, name


def test_crop_does_not_read_outside_its_box(pixels):
    images = pixels(1, 3, 40, 56)
    other = 255 - images
    other[:, :, 12:30, 20:41] = images[:, :, 12:30, 20:41]
    box, flip = torch.tensor([[12, 20, 18, 21]]), torch.tensor([False])
    for size in (8, 32):
        assert torch.equal(ops.crop_resize(images, box, flip, size), ops.crop_resize(other, box, flip, size))


def test_crop_of_grey_equals_the_crop_of_the_same_image_as_rgb(pixels):
    grey = pixels(2, 1, 40, 56)
    boxes, flip = torch.tensor([[3, 4, 30, 40], [5, 6, 7, 8]]), torch.tensor([True, False])
    as_rgb = ops.crop_resize(grey.expand(-1, 3, -1, -1), boxes, flip, 20)
    assert_close(ops.crop_resize(grey, boxes, flip, 20).expand(-1, 3, -1, -1), as_rgb, 1e-6)


@pytest.mark.parametrize(
    ("shape", "resize", "size"),
    [
        ((3, 32, 32), 37, 32),
        ((1, 28, 28), 18, 16),
        ((3, 33, 20), 32, 28),
        ((3, 20, 33), 32, 28),
        ((1, 300, 131), 73, 64),
        ((3, 97, 150), 256, 224),
        ((3, 64, 65), 9, 8),
    ],
    ids=str,
)
def test_central_crop_equals_torchvisions_resize_and_centre_crop(pixels, shape, resize, size):
    images = pixels(2, *shape)
    expected = tv.center_crop(tv.resize(unit(images), [resize], antialias=True), [size, size])
    assert_close(ops.resize_centre(images, size, resize), expected, ROUNDING)
