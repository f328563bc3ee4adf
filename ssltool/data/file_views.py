"""All augmented views of one image, as 8-bit pixels: what a worker process makes of a file, or of a large image in
memory.

``views.train_view`` makes the same views of a batch in float. For one large image, operations that run only where they
are sampled, on a quarter of the bytes, are several times as fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ssltool.data.decoding import decode
from ssltool.data.pixels import PixelRules
from ssltool.data.sources import Encoded
from ssltool.data.views import central_crop, crop_edges
from ssltool.errors import SSLToolError

REDUCTIONS = (8, 4, 2)
"""The factors by which the decoder of JPEG can reduce an image."""


class Box(NamedTuple):
    """A crop, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def reduced(self, factor: int, height: int, width: int) -> Box:
        """The box in an image of ``height`` x ``width`` that is ``factor`` times smaller, rounded to its pixels."""
        top, left = round(self.top / factor), round(self.left / factor)
        bottom = min(height, round((self.top + self.height) / factor))
        right = min(width, round((self.left + self.width) / factor))
        return Box(top, left, bottom - top, right - left)


class Crops(NamedTuple):
    """The ``views`` of one image, (3, size, size) uint8 each, and where they lie in it: ``boxes`` (V, 4) as
    ``views.view_boxes``."""

    views: list[Tensor]
    boxes: Tensor


def file_crops(path: Encoded, rules: PixelRules, params: np.ndarray, sizes: Sequence[int], interpolation: str) -> Crops:
    """The crops of the image in a file, as ``crops``. A JPEG is decoded at a half or less where all crops are still at
    least as large as their views; their boxes are then rounded to its pixels.

    Raises:
        SSLToolError: as ``decode``.
    """
    drawn: list[Box] = []
    factor = 1

    def reduction(size: tuple[int, int]) -> int:
        nonlocal factor
        drawn.extend(crop_boxes(params, size[1], size[0]))
        room = min(min(box.height, box.width) / side for box, side in zip(drawn, sizes, strict=True))
        factor = next((one for one in REDUCTIONS if one <= room), 1)
        return factor

    pixels = np.asarray(decode(path, rules, reduction))
    drawn = drawn or crop_boxes(params, *pixels.shape[:2])
    boxes = [box.reduced(factor, *pixels.shape[:2]) for box in drawn] if factor > 1 else drawn
    return Crops(_cut(pixels, boxes, params["flip"], sizes, interpolation), _edges(drawn, params["flip"]))


def crops(pixels: np.ndarray, params: np.ndarray, sizes: Sequence[int], interpolation: str = "bilinear") -> Crops:
    """The random crops of one image, resized and mirrored.

    Args:
        pixels: (H, W, 3) uint8.
        params: (V,) ``PACKED``, of the V views.
        sizes: the sides of the views.
        interpolation: as in ``Preprocessing``; antialiased.
    """
    boxes = crop_boxes(params, *pixels.shape[:2])
    return Crops(_cut(pixels, boxes, params["flip"], sizes, interpolation), _edges(boxes, params["flip"]))


def crop_boxes(params: np.ndarray, height: int, width: int) -> list[Box]:
    """The crops of (V,) ``PACKED`` in an image of ``height`` x ``width``; as ``views.crop_boxes`` for V images."""
    areas, log_ratios, positions = (params[name].tolist() for name in ("area", "log_ratio", "position"))
    rows = zip(areas, log_ratios, positions, strict=True)
    return [_crop_box(area, log_ratio, position, height, width) for area, log_ratio, position in rows]


def _crop_box(areas: list[float], log_ratios: list[float], position: list[float], height: int, width: int) -> Box:
    for area, log_ratio in zip(areas, log_ratios, strict=True):
        ratio, pixels = math.exp(-log_ratio), area * height * width
        h, w = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(math.floor(position[0] * (height - h + 1)), math.floor(position[1] * (width - w + 1)), h, w)
    return Box(*central_crop(height, width))


def _edges(boxes: list[Box], flips: np.ndarray) -> Tensor:
    return crop_edges(torch.tensor(boxes), torch.from_numpy(flips))


def _cut(
    pixels: np.ndarray, boxes: list[Box], flips: np.ndarray, sizes: Sequence[int], interpolation: str
) -> list[Tensor]:
    views = (_crop_resize(pixels, box, size, interpolation) for box, size in zip(boxes, sizes, strict=True))
    return [view.flip(-1) if flip else view for view, flip in zip(views, flips.tolist(), strict=True)]


def _crop_resize(pixels: np.ndarray, box: Box, size: int, interpolation: str) -> Tensor:
    cut = pixels[box.top : box.top + box.height, box.left : box.left + box.width].copy()
    if interpolation == "bilinear":
        planes = torch.from_numpy(cut).permute(2, 0, 1)[None]
        return F.interpolate(planes, (size, size), mode="bilinear", antialias=True)[0].contiguous()
    resized: Tensor = tv.pil_to_tensor(tv.resize(Image.fromarray(cut), [size, size], InterpolationMode(interpolation)))
    return resized


def finish(crop: Tensor, row: np.ndarray) -> np.ndarray:
    """Rotation and the photometric operations of one view: its crop (3, S, S) uint8 to (S, S, 3) uint8. Erasing is
    left to the batch, because it sets standardised values to 0."""
    from ssltool.data import byte_ops as ops

    p = dict(zip(row.dtype.names or (), row.tolist(), strict=True))
    x = ops.interleave(crop.numpy())
    if p["angle"]:
        x = ops.rotate(x, p["angle"])
    if p["jittered"]:
        factors = p["jitter"].tolist()
        for number in p["jitter_order"].tolist():
            x = ops.JITTER[number](x, factors[number])
    if p["gray"]:
        x = ops.grayscale(x)
    if p["sigma"] > 0:
        x = ops.gaussian_blur(x, p["sigma"])
    return ops.solarize(x) if p["solarized"] else x


def require_opencv() -> None:
    """Loads the 8-bit operations, in the main process, so that its workers share them.

    Raises:
        SSLToolError: if OpenCV cannot be imported.
    """
    try:
        import ssltool.data.byte_ops  # noqa: F401
    except ImportError as error:
        raise SSLToolError(f"views of image files need OpenCV ({error}); pip install opencv-python-headless") from error
