"""Image operations on batches, with separate parameters for each image.

Images are (N, C, H, W) with C 1 or 3, float in [0, 1] unless stated otherwise; parameters have N rows. Each operation
equals the functional one of torchvision for each image, up to float rounding (``tests/data/test_image_ops.py``). Colour
operations return grey images (C = 1) unchanged if they would not change a grey RGB image.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

GRAY = (0.2989, 0.587, 0.114)
"""ITU-R 601 luma coefficients, rounded as in torchvision."""


def resize_matrix(
    start: Tensor, length: Tensor, out: int, size: int, low: Tensor, high: Tensor, mirror: Tensor | None = None
) -> Tensor:
    """Antialiased linear resampling of one axis, as matrices (N, size, out).

    Matrix n maps pixels ``start[n] .. start[n] + length[n]`` of an axis of ``size`` pixels to ``out`` pixels with a
    triangle filter, widened when downsampling. Only pixels from ``low`` up to ``high`` (exclusive) have weight. Where
    ``mirror`` (N,) is true, the output is reversed.
    """
    scale = (length / out)[:, None]
    narrow = 1.0 / scale.clamp(min=1.0)
    centre = start[:, None] + (torch.arange(out, device=start.device) + 0.5) * scale - 0.5
    if mirror is not None:
        centre = torch.where(mirror[:, None], centre.flip(1), centre)
    pixel = torch.arange(size, device=start.device)
    counts = (pixel >= low[:, None]) & (pixel < high[:, None])
    position = torch.where(counts, pixel * narrow, torch.inf)  # infinite distance to all centres: weight 0
    weight = (position[:, :, None] - (centre * narrow)[:, None, :]).abs_()
    weight = torch.sub(1.0, weight, out=weight).clamp_(min=0.0)
    return weight.div_(weight.sum(dim=1, keepdim=True))


def separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiplies each axis of each image by a matrix: (N, C, H, W) with (N, H, H') and (N, W, W') to (N, C, H', W')."""
    n, channels, height, width = x.shape
    x = torch.bmm(x.reshape(n, channels * height, width), columns).view(n, channels, height, -1)
    return rows.mT[:, None] @ x


def crop_resize(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Crops ``boxes`` (N, 4), integers (top, left, height, width), resizes them to size x size, and mirrors where
    ``flip`` (N,) is true.

    ``images`` are uint8; the result is float in [0, 1]. Equals torchvision's ``resized_crop`` with antialiasing.
    """
    height, width = images.shape[-2:]
    top, left, h, w = boxes.float().unbind(1)
    rows = resize_matrix(top, h, size, height, top, top + h)
    columns = resize_matrix(left, w, size, width, left, left + w, flip)
    return separable(images.float().div_(255.0), rows, columns)


def resize_centre(images: Tensor, size: int, resize: int) -> Tensor:
    """Resizes the shorter side to ``resize`` and centre crops to size x size; uint8 in, float in [0, 1] out.

    Equals torchvision's ``Resize(resize)`` and ``CenterCrop(size)``.
    """
    n, _, height, width = images.shape
    short = min(height, width)
    matrices = []
    for side in (height, width):
        scaled = resize if side == short else int(resize * side / short)
        start = torch.full((n,), round((scaled - size) / 2) * side / scaled, device=images.device)
        length = torch.full((n,), size * side / scaled, device=images.device)
        matrices.append(resize_matrix(start, length, size, side, torch.zeros_like(start), torch.full_like(start, side)))
    return separable(images.float().div_(255.0), *matrices)


def grayscale(x: Tensor) -> Tensor:
    """Luma (N, 1, H, W); grey images are returned unchanged."""
    if x.shape[1] == 1:
        return x
    return GRAY[0] * x[:, 0:1] + GRAY[1] * x[:, 1:2] + GRAY[2] * x[:, 2:3]


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiplies each image by its ``factor`` (N,), clipped to [0, 1]."""
    return (x * factor.view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the difference of each image to its mean luma by its ``factor`` (N,), clipped to [0, 1]."""
    mean = grayscale(x).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(x, mean, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scales the difference of each image to its greyscale version by its ``factor`` (N,), clipped to [0, 1]."""
    if x.shape[1] == 1:
        return x
    return _blend(x, grayscale(x), factor)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (x * factor).add_(other * (1.0 - factor)).clamp_(0.0, 1.0)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Rotates the hue of each image by its ``shift`` (N,), in [-0.5, 0.5] of the colour circle."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x.unbind(1)
    low, value = x.amin(dim=1), x.amax(dim=1)
    chroma = value - low
    scale = chroma.clamp(min=1e-12).reciprocal_()
    hue = torch.where(
        value == red,
        (green - blue).mul_(scale),
        torch.where(
            value == green,
            (blue - red).mul_(scale).add_(2.0),
            (red - green).mul_(scale).add_(4.0),
        ),
    )
    hue.add_(6.0 * shift.view(-1, 1, 1)).remainder_(6.0)
    # HSV to RGB: each channel is low + chroma * (a trapezoid of the hue, 2 wide at the top).
    out = torch.empty_like(x)
    torch.addcmul(low, chroma, (hue - 3.0).abs_().sub_(1.0).clamp_(0.0, 1.0), out=out[:, 0])
    torch.addcmul(low, chroma, (hue - 2.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0), out=out[:, 1])
    torch.addcmul(low, chroma, (hue - 4.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0), out=out[:, 2])
    return out


def solarize(x: Tensor) -> Tensor:
    """Inverts values of at least 128 / 255, as for uint8 images."""
    return torch.where(x >= 127.5 / 255, 1.0 - x, x)


def rotate(x: Tensor, degrees: Tensor) -> Tensor:
    """Rotates square images counter-clockwise by ``degrees`` (N,), with bilinear interpolation and black fill."""
    angle = torch.deg2rad(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def erase(x: Tensor, boxes: Tensor) -> Tensor:
    """Sets ``boxes`` (N, 4), integers (top, left, height, width), to 0."""
    top, left, h, w = (side[:, None] for side in boxes.unbind(1))
    row, column = torch.arange(x.shape[2], device=x.device), torch.arange(x.shape[3], device=x.device)
    rows, columns = (row >= top) & (row < top + h), (column >= left) & (column < left + w)
    return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


@lru_cache(maxsize=8)
def _taps(size: int, radius: int, device: torch.device) -> Tensor:
    """(2 radius + 1, size * size): entry [t, i * size + j] is 1 if tap t of output pixel j reads pixel i, with
    reflection padding."""
    taps = torch.zeros(2 * radius + 1, size, size)
    pixel = torch.arange(size)
    for t in range(-radius, radius + 1):
        source = (pixel + t).abs()
        source = torch.where(source > size - 1, 2 * (size - 1) - source, source).clamp(0, size - 1)
        taps[t + radius, source, pixel] = 1.0
    return taps.view(2 * radius + 1, -1).to(device)


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Gaussian blur with ``sigma`` (N,) in pixels, a kernel of 2 radius + 1 taps and reflection padding."""
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)

    def matrix(size: int) -> Tensor:
        return (kernel @ _taps(size, radius, x.device)).view(-1, size, size)

    return separable(x, matrix(x.shape[2]), matrix(x.shape[3]))
