"""Operations on 8-bit images compared with torchvision's functional ones in float, in 8-bit steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from torchvision.transforms import InterpolationMode

from ssltool.data import byte_ops as ops

ROUNDING = 0.501
"""Steps by which a result rounds."""

LUMA_ROUNDING = 0.8
"""The same where luma, whose coefficients sum to 0.9999, is part of it."""

FACTORS = [0.0, 0.6, 1.0, 1.4, 2.0]


@pytest.fixture(params=["noise", "smooth"])
def image(request, pixels) -> np.ndarray:
    """An image (30, 41, 3)."""
    if request.param == "noise":
        return pixels(30, 41, 3).numpy()
    y, x = np.mgrid[:30, :41]
    waves = [np.sin(x / 9 + shift) * np.cos(y / (5 + shift)) for shift in (0.0, 1.0, 2.0)]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def differences(made: np.ndarray, image: np.ndarray, expected) -> np.ndarray:
    """|made - expected(image)| in steps."""
    assert made.dtype == np.uint8 and made.shape == image.shape
    x = torch.from_numpy(image).permute(2, 0, 1) / 255
    return np.abs(made.astype(float) - 255 * expected(x).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_equals_torchvisions_within_rounding(image, factor):
    found = differences(ops.adjust_brightness(image, factor), image, lambda x: tv.adjust_brightness(x, factor))
    assert found.max() <= ROUNDING


@pytest.mark.parametrize("factor", FACTORS)
def test_contrast_equals_torchvisions_within_rounding(image, factor):
    found = differences(ops.adjust_contrast(image, factor), image, lambda x: tv.adjust_contrast(x, factor))
    assert found.max() <= ROUNDING


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation_equals_torchvisions_within_rounding(image, factor):
    found = differences(ops.adjust_saturation(image, factor), image, lambda x: tv.adjust_saturation(x, factor))
    assert found.max() <= LUMA_ROUNDING


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
def test_hue_equals_torchvisions_within_the_steps_of_8_bit_hsv(image, shift):
    found = differences(ops.adjust_hue(image, shift), image, lambda x: tv.adjust_hue(x, shift))
    assert found.mean() < 1 and found.max() <= 12


def test_greyscale_equals_torchvisions_within_rounding(image):
    assert differences(ops.grayscale(image), image, lambda x: tv.rgb_to_grayscale(x, 3)).max() <= LUMA_ROUNDING


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.2, 2.0])
def test_blur_equals_torchvisions_within_a_step(image, sigma):
    found = differences(ops.gaussian_blur(image, sigma), image, lambda x: tv.gaussian_blur(x, [13, 13], [sigma] * 2))
    assert found.max() <= 1


def test_solarisation_equals_torchvisions(image):
    expected = tv.solarize(torch.from_numpy(image).permute(2, 0, 1), 128).permute(1, 2, 0)
    assert np.array_equal(ops.solarize(image), expected)


@pytest.mark.parametrize("degrees", [-170.0, -13.0, 4.0, 90.0])
def test_rotation_equals_torchvisions_within_a_step(image, degrees):
    square = np.ascontiguousarray(image[:, :30])
    made = ops.rotate(square, degrees)
    found = differences(made, square, lambda x: tv.rotate(x, degrees, InterpolationMode.BILINEAR))
    assert found.max() <= 1


def test_interleaving_moves_the_channels_last(image):
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    assert np.array_equal(ops.interleave(planes), image)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
def test_flat_grey_images_stay_flat(value):
    flat = np.full((20, 20, 3), value, np.uint8)
    for made in (
        *(ops.gaussian_blur(flat, sigma) for sigma in np.linspace(0.1, 2.0, 20)),
        ops.adjust_contrast(flat, 1.4),
        ops.adjust_saturation(flat, 1.4),
        ops.adjust_hue(flat, 0.07),
        ops.grayscale(flat),
    ):
        assert np.array_equal(made, flat)


def test_results_are_clipped_not_wrapped():
    image = np.array([[[250, 5, 128], [200, 250, 10]]], np.uint8)
    assert ops.adjust_brightness(image, 1.4)[0, 0].tolist() == [255, 7, 179]
    assert ops.adjust_contrast(image, 2.0)[0, :, 1].tolist() == [0, 255]
    assert ops.adjust_saturation(image, 2.0)[0, 0].tolist()[:2] == [255, 0]


@pytest.mark.parametrize(
    "op",
    [
        *(lambda x, op=op: op(x, 0.3) for op in (*ops.JITTER, ops.gaussian_blur)),
        lambda x: ops.rotate(x, 20.0),
        ops.grayscale,
        ops.solarize,
    ],
)
def test_operations_do_not_change_their_input(pixels, op):
    image = pixels(30, 41, 3).numpy()
    before = image.copy()
    assert not np.array_equal(op(image), before)
    assert np.array_equal(image, before)


def test_a_blurs_kernel_leaves_out_little_of_its_weight():
    for sigma in np.linspace(0.1, 2.0, 20):
        radius = min(ops.RADIUS, math.ceil(ops.TAIL * sigma))
        assert math.erf((radius + 0.5) / (sigma * math.sqrt(2))) > 0.997
