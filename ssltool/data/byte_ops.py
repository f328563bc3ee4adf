"""Photometric operations and rotation of one 8-bit RGB image, (H, W, 3) uint8, by OpenCV.

Each equals torchvision's functional operation, computed in float, within one 8-bit step; the hue, which 8-bit HSV
rounds, within 12, and within one in the mean. Each rounds and clips its result, as torchvision's operations on 8-bit
images do. No operation changes its input.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from ssltool.data.image_ops import GRAY

cv2.setNumThreads(1)  # one image is too small to share, and the workers are as many as the cores

IDENTITY = np.eye(3, 4)
LUMA = np.column_stack([np.tile(GRAY, (3, 1)), np.zeros(3)])
"""Affine maps of colours, (3, 4), for ``cv2.transform``, which rounds and clips to 0 to 255."""

INVERTED = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)

RADIUS = 6
"""Largest radius of a blur's kernel in pixels, as that of ``image_ops.gaussian_blur``."""

TAIL = 3.0
"""Standard deviations at which a blur's kernel ends; 0.3 % of its weight is beyond."""


def interleave(planes: np.ndarray) -> np.ndarray:
    """An image (3, H, W) as (H, W, 3)."""
    return cv2.merge(list(planes))


def adjust_brightness(x: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the image by ``factor``."""
    return cv2.transform(x, factor * IDENTITY)


def adjust_contrast(x: np.ndarray, factor: float) -> np.ndarray:
    """Scales the difference of the image to its mean luma by ``factor``."""
    matrix = factor * IDENTITY
    matrix[:, 3] = (1.0 - factor) * np.dot(cv2.mean(x)[:3], GRAY)
    return cv2.transform(x, matrix)


def adjust_saturation(x: np.ndarray, factor: float) -> np.ndarray:
    """Scales the difference of the image to its greyscale version by ``factor``."""
    return cv2.transform(x, factor * IDENTITY + (1.0 - factor) * LUMA)


def adjust_hue(x: np.ndarray, shift: float) -> np.ndarray:
    """Rotates the hue by ``shift``, in [-0.5, 0.5] of the colour circle, in steps of 1 / 256."""
    turn = round(256 * shift) % 256
    if turn == 0:
        return x
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(turn)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(x: np.ndarray) -> np.ndarray:
    """Luma in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def gaussian_blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with ``sigma`` > 0 in pixels and reflection padding."""
    radius = min(RADIUS, math.ceil(TAIL * sigma))
    kernel = cv2.getGaussianKernel(2 * radius + 1, sigma)
    return cv2.sepFilter2D(x, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)


def solarize(x: np.ndarray) -> np.ndarray:
    """Inverts values of at least 128."""
    return cv2.LUT(x, INVERTED)


def rotate(x: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates the image counter-clockwise by ``degrees``, with bilinear interpolation and black fill."""
    height, width = x.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR)


JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""The operations of colour jitter, in the order of ``ViewParams.jitter``."""
