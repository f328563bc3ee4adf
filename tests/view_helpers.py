"""Drawn parameters of views, and images to make views of."""

from __future__ import annotations

import numpy as np

from ssltool import seeds
from ssltool.data import views
from ssltool.data.views import PAPER, Recipe


def drawn(n: int, recipe: Recipe = PAPER, seed: int = 0) -> views.ViewParams:
    return views.sample_params(n, recipe, seeds.generator(seed))


def smooth(height: int, width: int) -> np.ndarray:
    """An image (height, width, 3) without noise, as photographs are at the size of a pixel."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    waves = [np.sin(7 * x + 3 * c) * np.cos((5 + c) * y) for c in range(3)]
    return np.rint(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
