"""Augmented views, for a whole batch at once: draw parameters, one row per image, then apply them on the device.

Drawing takes an explicit generator and knows nothing of the images, so the views of a step are the same on one rank
or on many and whether or not the run was interrupted. ``PAPER`` is the recipe of MoCo v2, SimSiam and the collapse
paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssltool.data import image_ops as ops

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Channel means and deviations of ImageNet, in [0, 1] units; every input is standardised with them."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width over height of a random crop lies between these, as in every paper of the field."""

ERASE_RATIO = (0.3, 3.3)
"""Height over width of an erased box."""

ATTEMPTS = 10
"""Boxes that a random crop tries before it takes the central one, and erasing before it gives up, as in torchvision."""


@dataclass(frozen=True)
class Recipe:
    """How views are made: ranges and probabilities, in torchvision's meaning of the same words."""

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
    rotation: float = 0.0  # degrees, to either side
    erase_p: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    size: int | None = None  # side of the view in pixels; the run's image size where it is None


PAPER = Recipe()
PLAIN = Recipe(jitter_p=0.0, gray_p=0.0, blur_p=0.0)
"""A crop and a flip."""
PROBE = dataclasses.replace(PLAIN, crop_scale=(0.08, 1.0))
"""The linear probe's."""


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """How a run with these settings (``PretrainConfig``'s names, defaults filled in) makes its views."""
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


@dataclass(frozen=True)
class Draws:
    """The parameters of N views, independent of the images' size.

    ``area`` and ``log_ratio`` (N, 10) are the crop's attempts, ``place`` (N, 2) in [0, 1) its position;
    ``jitter_order`` (N, 4) a permutation of brightness, contrast, saturation, hue and ``jitter`` (N, 4) their
    parameters in that fixed order; ``sigma`` (N,) in pixels, 0 for no blur; ``angle`` (N,) in degrees,
    counter-clockwise; ``erase_area``, ``erase_log_ratio`` (N, 10) and ``erase_place`` (N, 2) the erased box's;
    ``flip``, ``jittered``, ``gray``, ``solarized``, ``erased`` (N,) bool.
    """

    area: Tensor
    log_ratio: Tensor
    place: Tensor
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
    erase_place: Tensor

    def crops(self) -> np.ndarray:
        """What cropping needs, (N, 2 * ATTEMPTS + 3) float32: light to send to the workers that decode."""
        columns = [self.area, self.log_ratio, self.place, self.flip[:, None].float()]
        return torch.cat(columns, dim=1).numpy()

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    @staticmethod
    def concatenate(parts: list[Draws]) -> Draws:
        """The rows of several draws, one after the other."""
        names = [f.name for f in dataclasses.fields(Draws)]
        return Draws(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def draw(n: int, recipe: Recipe, generator: torch.Generator) -> Draws:
    """Parameters for ``n`` views."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    def chance(p: float) -> Tensor:
        return torch.rand(n, generator=generator) < p

    def log_ratio(bounds: tuple[float, float]) -> Tensor:
        return uniform(math.log(bounds[0]), math.log(bounds[1]), n, ATTEMPTS)

    r = recipe
    none = torch.zeros(n, dtype=torch.bool)
    strengths = (r.brightness, r.contrast, r.saturation)
    return Draws(
        area=uniform(*r.crop_scale, n, ATTEMPTS),
        log_ratio=log_ratio(CROP_RATIO),
        place=uniform(0, 1, n, 2),
        flip=chance(r.flip_p),
        jittered=chance(r.jitter_p),
        jitter_order=torch.rand(n, 4, generator=generator).argsort(dim=1),
        jitter=torch.stack([uniform(max(0, 1 - s), 1 + s, n) for s in strengths] + [uniform(-r.hue, r.hue, n)], dim=1),
        gray=chance(r.gray_p),
        sigma=chance(r.blur_p) * uniform(*r.blur_sigma, n),
        # What few recipes use is drawn for them only, and last.
        solarized=chance(r.solarize_p) if r.solarize_p else none,
        angle=uniform(-r.rotation, r.rotation, n) if r.rotation else torch.zeros(n),
        erased=chance(r.erase_p) if r.erase_p else none,
        erase_area=uniform(*r.erase_scale, n, ATTEMPTS) if r.erase_p else torch.zeros(n, ATTEMPTS),
        erase_log_ratio=log_ratio(ERASE_RATIO) if r.erase_p else torch.zeros(n, ATTEMPTS),
        erase_place=uniform(0, 1, n, 2) if r.erase_p else torch.zeros(n, 2),
    )


class Crop(NamedTuple):
    """The part of ``Draws`` that cropping needs."""

    area: Tensor
    log_ratio: Tensor
    place: Tensor
    flip: Tensor

    @classmethod
    def of_row(cls, row: np.ndarray) -> Crop:
        """One row of ``Draws.crops``, as draws for one image."""
        area, log_ratio, place, flip = torch.from_numpy(row)[None].split([ATTEMPTS, ATTEMPTS, 2, 1], dim=1)
        return cls(area, log_ratio, place, flip[:, 0] > 0)


def crop_boxes(draws: Draws | Crop, height: int, width: int) -> Tensor:
    """The crops as boxes (N, 4), int64 (top, left, height, width), by the rule of ``RandomResizedCrop``."""
    boxes, fits = _first_boxes(draws.area, -draws.log_ratio, draws.place, height, width)
    # No attempt fits: the central crop, with the aspect ratio clipped to the allowed range.
    low, high = CROP_RATIO
    if width / height < low:
        w_c, h_c = width, round(width / low)
    elif width / height > high:
        w_c, h_c = round(height * high), height
    else:
        w_c, h_c = width, height
    centre = torch.tensor([(height - h_c) // 2, (width - w_c) // 2, h_c, w_c])
    return torch.where(fits[:, None], boxes, centre)


def _first_boxes(
    area: Tensor, log_ratio: Tensor, place: Tensor, height: int, width: int, inside: int = 0
) -> tuple[Tensor, Tensor]:
    """The first attempt of each row that fits, as boxes (N, 4), and whether (N,) there is one.

    ``area`` as a share of the image, ``log_ratio`` of height over width; a box is at least ``inside`` pixels smaller
    than the image.
    """
    area, ratio = area.double() * height * width, log_ratio.double().exp()
    h, w = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (w > 0) & (w <= width - inside) & (h > 0) & (h <= height - inside)
    first = fits.int().argmax(dim=1, keepdim=True)
    h, w = h.gather(1, first).squeeze(1), w.gather(1, first).squeeze(1)
    top = (place[:, 0] * (height - h + 1)).floor()
    left = (place[:, 1] * (width - w + 1)).floor()
    return torch.stack([top, left, h, w], dim=1).long(), fits.any(dim=1)


def finish(x: Tensor, draws: Draws) -> Tensor:
    """What comes after the crop: (N, C, S, S) in [0, 1], overwritten, to a standardised view (N, 3, S, S)."""
    _on_rows(x, draws.angle != 0, ops.rotate, draws.angle.to(x.device))
    x = standardise(photometric(x, draws))
    boxes, fits = _first_boxes(draws.erase_area, draws.erase_log_ratio, draws.erase_place, x.shape[2], x.shape[3], 1)
    _on_rows(x, draws.erased & fits, ops.erase, boxes.to(x.device))
    return x


def photometric(x: Tensor, draws: Draws) -> Tensor:
    """Colour jitter, greying, blur and solarising, in place: ``x`` (N, C, S, S) in [0, 1], on any device.

    ``draws`` stays on the CPU, so no step waits for the device to say which rows are meant.
    """
    jitter = draws.jitter.to(x.device)
    adjust = (ops.adjust_brightness, ops.adjust_contrast, ops.adjust_saturation, ops.adjust_hue)
    for position in range(4):
        for number, op in enumerate(adjust[: 2 if x.shape[1] == 1 else 4]):
            _on_rows(x, draws.jittered & (draws.jitter_order[:, position] == number), op, jitter[:, number])
    if x.shape[1] == 3:
        _on_rows(x, draws.gray, lambda rows, _: ops.grayscale(rows).expand(-1, 3, -1, -1), jitter)
    _on_rows(x, draws.sigma > 0, ops.gaussian_blur, draws.sigma.to(x.device))
    _on_rows(x, draws.solarized, lambda rows, _: ops.solarize(rows), jitter)
    return x


def _on_rows(x: Tensor, mask: Tensor, op: Callable[[Tensor, Tensor], Tensor], parameters: Tensor) -> None:
    rows = mask.nonzero().flatten().to(x.device)
    if len(rows):
        x[rows] = op(x[rows], parameters[rows])


def standardise(x: Tensor) -> Tensor:
    """Three channels with ImageNet's means and deviations taken out; grey images become three channels here."""
    mean = torch.tensor(MEAN, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=x.device).view(1, 3, 1, 1)
    return (x - mean).mul_(1.0 / std)


def to_pixels(x: Tensor) -> Tensor:
    """Standardised views (N, 3, S, S) as pixels, uint8 of the same shape; undoes ``standardise``."""
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (x * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)


def train_view(images: Tensor, draws: Draws, size: int) -> Tensor:
    """One augmented view of each image: (N, C, H, W) uint8 to (N, 3, size, size) float32, on the images' device."""
    boxes = crop_boxes(draws, *images.shape[-2:]).to(images.device)
    return finish(ops.crop_resize(images, boxes, draws.flip.to(images.device), size), draws)


def eval_view(images: Tensor, size: int) -> Tensor:
    """The validation transform: as is where the images have that size, else scale by 256/224 of ``size`` and cut the
    centre."""
    if images.shape[-1] == images.shape[-2] == size:
        return standardise(images.float() / 255.0)
    return standardise(ops.resize_centre(images, size, eval_resize(size)))


def eval_resize(size: int) -> int:
    """Length that the shorter side is scaled to before the central crop: 256 for 224."""
    return round(size * 256 / 224)
