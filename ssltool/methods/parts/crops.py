"""Recipes for the views of a method: large views, symmetric or asymmetric as in BYOL, and small crops."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssltool.data.views import Recipe
from ssltool.methods.options import AsymmetricViews, MultiCrop, SeveralViews
from ssltool.models.vit import patch_size

MIN_CROP_AREA = 0.05
"""Smallest crop area as a fraction of the image, as in SwAV and DINO."""


def large_views(base: Recipe, options: Any) -> list[Recipe]:
    """The large views: ``base`` twice or ``options.n_augs`` times, or with ``options.asymmetric`` those of BYOL
    (arXiv:2006.07733, Table 6).

    Relative to ``base``, the blur probability of the first view is doubled. That of the second is a fifth, and its
    solarisation probability is at least 0.2. Both have half the saturation. For the papers' blur probability of 0.5,
    this gives 1 and 0.1.
    """
    if isinstance(options, SeveralViews):
        return [base] * options.n_augs
    if not (isinstance(options, AsymmetricViews) and options.asymmetric):
        return [base, base]
    base = _halve_saturation(base)
    blur, solar = base.blur_p, base.solarize_p
    return [
        dataclasses.replace(base, blur_p=min(1.0, 2.0 * blur)),
        dataclasses.replace(base, blur_p=0.2 * blur, solarize_p=max(0.2, solar)),
    ]


def _halve_saturation(base: Recipe) -> Recipe:
    return dataclasses.replace(base, saturation=base.saturation / 2)


def small_crops(base: Recipe, options: Any, image_size: int, patch: int | None = None) -> list[Recipe]:
    """Recipes for ``options.local_crops`` crops of ``options.local_size`` pixels, if the options have them.

    Their area is between 5 % of the image and the smallest area of ``base`` (SwAV, Sec. 3.3 of arXiv:2006.09882).
    Otherwise they equal ``base``, with half the saturation if the large views are asymmetric.
    """
    if not isinstance(options, MultiCrop):
        return []
    if isinstance(options, AsymmetricViews) and options.asymmetric:
        base = _halve_saturation(base)
    limit = base.crop_scale[0]
    side = options.local_size or default_local_size(image_size, patch)
    small = dataclasses.replace(base, crop_scale=(min(MIN_CROP_AREA, limit), limit), size=side)
    return [small] * options.local_crops


def default_local_size(image_size: int, patch: int | None = None) -> int:
    """Default side of the small crops: 96/224 of the image size, rounded to whole patches of ``patch`` pixels, which
    are by default a ViT's."""
    patch = patch or patch_size(image_size)
    return max(1, round(image_size * 96 / 224 / patch)) * patch
