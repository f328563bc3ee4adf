"""Augmented views of whole batches: sample the parameters, one row per image, then apply them on the device.

The parameters depend only on an explicit generator, not on the images. So the views of a step do not depend on the
number of ranks or on interruptions. ``PAPER`` is the recipe of MoCo v2, SimSiam and the collapse paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.data import image_ops as ops
from ssltool.data.preprocessing import Preprocessing

VERSION = 2
"""Version of the pixels of views, saved with a run. Since version 2, those of image files and of images in memory above
64 pixels are made in 8 bits on a CPU."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Range of the aspect ratio (width / height) of a random crop, as in the papers."""

ERASE_RATIO = (0.3, 3.3)
"""Range of the aspect ratio (height / width) of an erased box."""

ATTEMPTS = 10
"""Attempts to sample a box, before a random crop uses the central crop and erasing is skipped; as in torchvision."""


@dataclass(frozen=True)
class Recipe:
    """Augmentation settings: ranges and probabilities, with the names and meaning of torchvision."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    flip_p: float = 0.5
    jitter_p: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0
    rotation: float = 0.0  # degrees, in both directions
    erase_p: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    size: int | None = None  # side of the view in pixels; None for the run's image size


PAPER = Recipe()
PLAIN = Recipe(jitter_p=0.0, gray_p=0.0, blur_p=0.0)
"""Random crop and flip only."""
PROBE = dataclasses.replace(PLAIN, crop_scale=(0.08, 1.0))
"""The recipe of the linear probe."""


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe for the resolved settings of a run, a mapping with the names of ``PretrainConfig``."""
    jitter = settings["jitter"]
    return dataclasses.replace(
        PAPER,
        crop_scale=(settings["crop_min"], 1.0),
        flip_p=settings["flip_p"],
        jitter_p=settings["jitter_p"],
        brightness=0.4 * jitter,
        contrast=0.4 * jitter,
        saturation=0.4 * jitter,
        hue=0.1 * jitter,
        gray_p=settings["gray_p"],
        blur_p=settings["blur_p"] or 0.0,
        solarize_p=settings["solarize_p"],
    )


PACKED = np.dtype(
    [
        ("area", np.float32, (ATTEMPTS,)),
        ("log_ratio", np.float32, (ATTEMPTS,)),
        ("position", np.float32, (2,)),
        ("flip", bool),
        ("jittered", bool),
        ("jitter_order", np.int8, (4,)),
        ("jitter", np.float32, (4,)),
        ("gray", bool),
        ("sigma", np.float32),
        ("solarized", bool),
        ("angle", np.float32),
    ]
)
"""The parameters of one view, but for those of erasing, with the names of ``ViewParams``."""


@dataclass(frozen=True)
class ViewParams:
    """Sampled augmentation parameters of N views, independent of the image size.

    ``area`` and ``log_ratio`` (N, 10) are the crop attempts and ``position`` (N, 2) in [0, 1) is the crop position;
    ``jitter_order`` (N, 4) is a permutation of brightness, contrast, saturation, hue, and ``jitter`` (N, 4) holds their
    parameters in that fixed order; ``sigma`` (N,) is in pixels, 0 for no blur; ``angle`` (N,) is in degrees,
    counter-clockwise; ``erase_area``, ``erase_log_ratio`` (N, 10) and ``erase_position`` (N, 2) describe the erased
    box; ``flip``, ``jittered``, ``gray``, ``solarized``, ``erased`` (N,) are bool.
    """

    area: Tensor
    log_ratio: Tensor
    position: Tensor
    flip: Tensor
    jittered: Tensor
    jitter_order: Tensor
    jitter: Tensor
    gray: Tensor
    sigma: Tensor
    solarized: Tensor
    angle: Tensor
    erased: Tensor
    erase_area: Tensor
    erase_log_ratio: Tensor
    erase_position: Tensor

    def packed(self) -> np.ndarray:
        """The parameters of all but erasing, (N,) ``PACKED``: a compact form for worker processes."""
        rows = np.empty(len(self.flip), PACKED)
        for name in PACKED.names or ():
            rows[name] = getattr(self, name).numpy()
        return rows

    def __getitem__(self, rows: slice | np.ndarray) -> ViewParams:
        return ViewParams(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    @staticmethod
    def concatenate(parts: list[ViewParams]) -> ViewParams:
        """The concatenated rows of several ``ViewParams``."""
        names = [f.name for f in dataclasses.fields(ViewParams)]
        return ViewParams(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def sample_params(n: int, recipe: Recipe, generator: torch.Generator) -> ViewParams:
    """Samples the parameters of ``n`` views."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def chance(p: float) -> Tensor:
        return torch.rand(n, generator=generator) < p

    def log_ratio(bounds: tuple[float, float]) -> Tensor:
        return uniform(math.log(bounds[0]), math.log(bounds[1]), n, ATTEMPTS)

    r = recipe
    none = torch.zeros(n, dtype=torch.bool)
    strengths = (r.brightness, r.contrast, r.saturation)
    return ViewParams(
        area=uniform(*r.crop_scale, n, ATTEMPTS),
        log_ratio=log_ratio(CROP_RATIO),
        position=uniform(0, 1, n, 2),
        flip=chance(r.flip_p),
        jittered=chance(r.jitter_p),
        jitter_order=torch.rand(n, 4, generator=generator).argsort(dim=1),
        jitter=torch.stack([uniform(max(0, 1 - s), 1 + s, n) for s in strengths] + [uniform(-r.hue, r.hue, n)], dim=1),
        gray=chance(r.gray_p),
        sigma=chance(r.blur_p) * uniform(*r.blur_sigma, n),
        # Sampled last and only if used, so that they do not change the random numbers of the other parameters.
        solarized=chance(r.solarize_p) if r.solarize_p else none,
        angle=uniform(-r.rotation, r.rotation, n) if r.rotation else torch.zeros(n),
        erased=chance(r.erase_p) if r.erase_p else none,
        erase_area=uniform(*r.erase_scale, n, ATTEMPTS) if r.erase_p else torch.zeros(n, ATTEMPTS),
        erase_log_ratio=log_ratio(ERASE_RATIO) if r.erase_p else torch.zeros(n, ATTEMPTS),
        erase_position=uniform(0, 1, n, 2) if r.erase_p else torch.zeros(n, 2),
    )


def crop_boxes(params: ViewParams, height: int, width: int) -> Tensor:
    """Crop boxes (N, 4), int64 (top, left, height, width), as computed by ``RandomResizedCrop``."""
    boxes, fits = _first_boxes(params.area, -params.log_ratio, params.position, height, width)
    centre = torch.tensor(central_crop(height, width))
    return torch.where(fits[:, None], boxes, centre)


def view_boxes(params: ViewParams, height: int, width: int) -> Tensor:
    """Where the top, left, bottom and right edges of the views lie in their images, in pixels: (N, 4) float32. A view
    that is flipped has its left edge at the right. Rotation is not included."""
    return crop_edges(crop_boxes(params, height, width), params.flip)


def crop_edges(boxes: Tensor, flips: Tensor) -> Tensor:
    """``view_boxes`` of crops (N, 4) (top, left, height, width), of which those with ``flips`` (N,) are mirrored."""
    top, left, height, width = boxes.float().unbind(dim=1)
    right = left + width
    ends = (torch.where(flips, right, left), torch.where(flips, left, right))
    return torch.stack([top, ends[0], top + height, ends[1]], dim=1)


def central_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """The crop (top, left, height, width) if no attempt fits: central, with the aspect ratio clipped to its range."""
    low, high = CROP_RATIO
    if width / height < low:
        w, h = width, round(width / low)
    elif width / height > high:
        w, h = round(height * high), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def _first_boxes(
    area: Tensor, log_ratio: Tensor, position: Tensor, height: int, width: int, inside: int = 0
) -> tuple[Tensor, Tensor]:
    """The first valid attempt of each row as boxes (N, 4), and whether there is one (N,).

    ``area`` is a fraction of the image, ``log_ratio`` the log of height / width. A box must be at least ``inside``
    pixels smaller than the image.
    """
    area, ratio = area.double() * height * width, log_ratio.double().exp()
    h, w = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width - inside) & (h > 0) & (h <= height - inside)
    first = fits.int().argmax(dim=1, keepdim=True)
    h, w = h.gather(1, first).squeeze(1), w.gather(1, first).squeeze(1)
    top = (position[:, 0] * (height - h + 1)).floor()
    left = (position[:, 1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], dim=1).long(), fits.any(dim=1)


def finish(x: Tensor, params: ViewParams, preprocessing: Preprocessing) -> Tensor:
    """Applies all steps after the crop: (N, C, S, S) in [0, 1], modified in place, to standardised (N, 3, S, S)."""
    _apply_to_rows(x, params.angle != 0, ops.rotate, params.angle.to(x.device))
    return erase(standardise(photometric(x, params), preprocessing), params)


def finish_bytes(pixels: Tensor, params: ViewParams, preprocessing: Preprocessing) -> Tensor:
    """Standardises and erases views (N, 3, S, S) uint8, on which all other operations were done."""
    size = pixels.shape[-1]
    mean, std = (255.0 * torch.tensor(one).repeat(size) for one in (preprocessing.mean, preprocessing.std))
    rows = pixels.permute(0, 2, 3, 1).flatten(2).float()  # rows of R, G, B, R, ..., as they are in memory
    return erase(rows.sub_(mean).mul_(1.0 / std).unflatten(2, (size, 3)).permute(0, 3, 1, 2), params)


def erase(x: Tensor, params: ViewParams) -> Tensor:
    """Sets the erased boxes of standardised views (N, 3, S, S) to 0, in place."""
    if not params.erased.any():
        return x
    boxes, fits = _first_boxes(
        params.erase_area, params.erase_log_ratio, params.erase_position, x.shape[2], x.shape[3], 1
    )
    _apply_to_rows(x, params.erased & fits, ops.erase, boxes.to(x.device))
    return x


def photometric(x: Tensor, params: ViewParams) -> Tensor:
    """Colour jitter, greyscale, blur and solarisation, in place: ``x`` (N, C, S, S) in [0, 1], on any device.

    ``params`` stays on the CPU, so that selecting rows does not synchronise with the device.
    """
    jitter = params.jitter.to(x.device)
    adjust = (ops.adjust_brightness, ops.adjust_contrast, ops.adjust_saturation, ops.adjust_hue)
    for position in range(4):
        for number, op in enumerate(adjust[: 2 if x.shape[1] == 1 else 4]):
            _apply_to_rows(x, params.jittered & (params.jitter_order[:, position] == number), op, jitter[:, number])
    if x.shape[1] == 3:
        _apply_to_rows(x, params.gray, lambda rows, _: ops.grayscale(rows).expand(-1, 3, -1, -1), jitter)
    _apply_to_rows(x, params.sigma > 0, ops.gaussian_blur, params.sigma.to(x.device))
    _apply_to_rows(x, params.solarized, lambda rows, _: ops.solarize(rows), jitter)
    return x


def _apply_to_rows(x: Tensor, mask: Tensor, op: Callable[[Tensor, Tensor], Tensor], parameters: Tensor) -> None:
    rows = mask.nonzero().flatten().to(x.device)
    if len(rows):
        x[rows] = op(x[rows], parameters[rows])


def standardise(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Standardises with the mean and standard deviation: (N, C, H, W) to (N, 3, H, W). Grey images get three
    channels."""
    mean, std = _statistics(preprocessing, x.device)
    return (x - mean).mul_(1.0 / std)


def to_pixels(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Standardised views (N, 3, S, S) as pixels, uint8 of the same shape; undoes ``standardise``."""
    mean, std = _statistics(preprocessing, x.device)
    return (x * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)


def _statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(one, device=device) for one in (preprocessing.mean, preprocessing.std))
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def train_view(images: Tensor, params: ViewParams, size: int, preprocessing: Preprocessing) -> Tensor:
    """One augmented view of each image, with bilinear interpolation.

    (N, C, H, W) uint8 to (N, 3, size, size) float32, on the images' device.
    """
    boxes = crop_boxes(params, *images.shape[-2:]).to(images.device)
    return finish(ops.crop_resize(images, boxes, params.flip.to(images.device), size), params, preprocessing)


def eval_view(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """The validation transform of images (N, C, H, W) uint8, which ``can_view`` must allow: (N, 3, S, S) float32."""
    if preprocessing.keeps(image_size(images)):
        return standardise(images.float() / 255.0, preprocessing)
    return standardise(ops.resize_centre(images, preprocessing.size, preprocessing.resize), preprocessing)


def can_view(images: Tensor, preprocessing: Preprocessing) -> bool:
    """Whether ``eval_view`` computes the validation transform of these images; Pillow computes any."""
    p = preprocessing
    resizes = p.interpolation == "bilinear" and not p.squash and p.resize >= p.size
    return resizes or p.keeps(image_size(images))


def image_size(images: Tensor) -> tuple[int, int]:
    """The (width, height) of images (N, C, H, W)."""
    return images.shape[-1], images.shape[-2]
