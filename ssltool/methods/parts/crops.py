"""How the views of a method are made: two alike or of BYOL's two kinds, and small crops beside them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssltool.data.views import Recipe
from ssltool.methods.options import AsymmetricViews, MultiCrop
from ssltool.models.vit import patch_size

SMALLEST = 0.05
"""Area of the smallest crop as a share of the image, as in SwAV and DINO."""


def two_views(base: Recipe, options: Any) -> list[Recipe]:
    """The two large views: ``base`` twice, or with ``options.asymmetric`` BYOL's two kinds (arXiv:2006.07733, Table 6).

    Of those the first is blurred twice as often as ``base``, the second a fifth as often and at least every fifth time
    solarised; both have half the saturation. At the papers' blur of 0.5 this is 1 and 0.1.
    """
    if not (isinstance(options, AsymmetricViews) and options.asymmetric):
        return [base, base]
    base = _muted(base)
    blur, solar = base.blur_p, base.solarize_p
    return [
        dataclasses.replace(base, blur_p=min(1.0, 2.0 * blur)),
        dataclasses.replace(base, blur_p=0.2 * blur, solarize_p=max(0.2, solar)),
    ]


def _muted(base: Recipe) -> Recipe:
    return dataclasses.replace(base, saturation=base.saturation / 2)


def small_crops(base: Recipe, options: Any, image_size: int) -> list[Recipe]:
    """The recipes of ``options.local_crops`` crops of ``options.local_size`` pixels, if the options have them.

    Their area lies between 5 % of the image and the smallest of ``base`` (SwAV, Sec. 3.3 of arXiv:2006.09882);
    otherwise they are made like ``base``, with BYOL's saturation where the large ones have it.
    """
    if not isinstance(options, MultiCrop):
        return []
    if isinstance(options, AsymmetricViews) and options.asymmetric:
        base = _muted(base)
    limit = base.crop_scale[0]
    side = options.local_size or default_size(image_size)
    small = dataclasses.replace(base, crop_scale=(min(SMALLEST, limit), limit), size=side)
    return [small] * options.local_crops


def default_size(image_size: int) -> int:
    """96 for 224, in proportion for others, in whole patches of a ViT."""
    patch = patch_size(image_size)
    return max(1, round(image_size * 96 / 224 / patch)) * patch
