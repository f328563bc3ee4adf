"""Pictures of the patches of images: principal components as colours, cosines to one patch, and norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ssltool.errors import SSLToolError
from ssltool.files.text import one_line
from ssltool.viz.style import check_format, figure_style, save_figure

COLOUR_MAP = "viridis"
"""Colours of cosines and norms: distinguishable for colour-blind readers and in greyscale."""

OUTLIERS = 0.01
"""Fraction of the patches at either end of a principal component that its colours ignore."""

LEAST_RANGE = 0.1
"""Least range of a colour scale, as a fraction of its largest value: less is not to look like structure."""

MAX_NAME = 22
"""Characters of the name of an image."""


@dataclass(frozen=True)
class PatchPicture:
    """An image and maps of its patches, rows x columns.

    Attributes:
        image: (H, W, 3) uint8, as the network sees it.
        name: the name of the image.
        colours: (R, C, 3) uint8, the first three principal components of the patches of all images shown.
        cosines: (R, C), the cosine of each patch with one of them.
        norms: (R, C), the length of each patch.
        patch: row and column of the patch to which the cosines are.

    Places without a patch are NaN, and white in ``colours``.
    """

    image: np.ndarray
    name: str
    colours: np.ndarray
    cosines: np.ndarray
    norms: np.ndarray
    patch: tuple[int, int]


def patch_pictures(
    grids: np.ndarray, images: Sequence[np.ndarray], names: Sequence[str], patch: tuple[int, int] | None = None
) -> list[PatchPicture]:
    """The pictures of N images.

    Args:
        grids: the patches (N, R, C, d); NaN for places without one.
        images: N images (H, W, 3) uint8.
        names: their names.
        patch: row and column, from 0 at the top left, of the patch to which cosines are computed; by default the one in
            the middle.

    Raises:
        SSLToolError: if ``patch`` is not in the grid, or an image has none there.
    """
    rows, columns = grids.shape[1:3]
    at = (rows // 2, columns // 2) if patch is None else patch
    if not (0 <= at[0] < rows and 0 <= at[1] < columns):
        raise SSLToolError(f"--patch {at[0]},{at[1]}: the grid has rows 0 to {rows - 1} and columns 0 to {columns - 1}")
    if np.isnan(grids[:, at[0], at[1]]).any():
        raise SSLToolError(f"--patch {at[0]},{at[1]}: a file of sampled patches lacks it for an image; name another")
    colours = component_colours(grids)
    norms = np.linalg.norm(grids.astype(np.float64), axis=-1)
    return [
        PatchPicture(image, name, colours[i], cosine_map(grids[i], at), norms[i], at)
        for i, (image, name) in enumerate(zip(images, names, strict=True))
    ]


def component_colours(grids: np.ndarray) -> np.ndarray:
    """The first three principal components of the patches (..., d) as red, green and blue, (..., 3) uint8.

    Each component is scaled from its 1 % to its 99 % quantile; its sign is such that the largest weight is positive.
    A component without variance is grey, a place without a patch (NaN) white.
    """
    shape, x = grids.shape[:-1], grids.reshape(-1, grids.shape[-1]).astype(np.float64)
    known = ~np.isnan(x).any(axis=1)
    rows = x[known] - x[known].mean(axis=0)
    _, s, v = np.linalg.svd(rows, full_matrices=False)
    v = v[:3] * np.sign(np.take_along_axis(v[:3], np.abs(v[:3]).argmax(axis=1)[:, None], axis=1))
    values = np.zeros((len(rows), 3))
    values[:, : len(v)] = rows @ v.T * (s[: len(v)] > 1e-9 * max(float(np.abs(x[known]).max()), 1e-300))
    low, high = np.quantile(values, [OUTLIERS, 1 - OUTLIERS], axis=0)
    flat = high <= low
    scaled = np.where(flat, 0.5, (values - low) / np.where(flat, 1, high - low)).clip(0, 1)
    colours = np.full((len(x), 3), 255, dtype=np.uint8)
    colours[known] = np.round(255 * scaled).astype(np.uint8)
    return colours.reshape(*shape, 3)


def cosine_map(grid: np.ndarray, at: tuple[int, int]) -> np.ndarray:
    """The cosine (R, C) of each patch of ``grid`` (R, C, d) with that at row and column ``at``; 0 for zeros."""
    x = grid.astype(np.float64)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True).clip(min=1e-300)
    return (unit @ unit[at]).clip(-1, 1)


def painted(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """A map (R, C) as an image (R, C, 3) uint8, in the colours of figures between ``limits``; NaN is white."""
    low, high = limits
    scaled = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    colours = matplotlib.colormaps[COLOUR_MAP](np.nan_to_num(scaled), bytes=True)[..., :3]
    return np.where(np.isnan(values)[..., None], np.uint8(255), colours)


def limits_of(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The colour scale of ``maps``: from their smallest value to their largest, or from a little below if they are
    nearly equal."""
    low, high = min(float(np.nanmin(one)) for one in maps), max(float(np.nanmax(one)) for one in maps)
    return min(low, high - LEAST_RANGE * max(abs(low), abs(high))), high


def plot_patches(pictures: Sequence[PatchPicture], path: str) -> None:
    """Plots a row for each image: the image, the components, the cosines and the norms, with common colour scales.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path, "--out")
    row, column = pictures[0].patch
    titles = ("image", "principal components", f"cosine to patch {row},{column}", "norm")
    scales = {2: limits_of([one.cosines for one in pictures]), 3: limits_of([one.norms for one in pictures])}
    with figure_style():
        figure = Figure(figsize=(8.4, 0.9 + 2.05 * len(pictures)), layout="constrained")
        axes = figure.subplots(len(pictures), len(titles), squeeze=False)
        for line, one in zip(axes, pictures, strict=True):
            _show(line[0], one.image, extent=_extent(one.norms))
            line[0].set_xlabel(one_line(one.name, MAX_NAME), fontsize=8)
            _show(line[1], one.colours)
            for place, values in ((2, one.cosines), (3, one.norms)):
                low, high = scales[place]
                _show(line[place], values, cmap=COLOUR_MAP, vmin=low, vmax=high)
            for axis in (line[0], line[2]):
                _mark(axis, one.patch)
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=9, loc="center")
        for place in scales:
            shown = axes[-1, place].images[0]
            figure.colorbar(shown, ax=axes[:, place], location="bottom", shrink=0.9, aspect=18, pad=0.02)
        save_figure(figure, path)


def _show(axis: Axes, image: np.ndarray, **settings: Any) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.imshow(image, interpolation="nearest", **settings)


def _extent(grid: np.ndarray) -> tuple[float, float, float, float]:
    """The sides of an image in the coordinates of the grid of its patches: left, right, bottom, top."""
    return -0.5, grid.shape[1] - 0.5, grid.shape[0] - 0.5, -0.5


def _mark(axis: Axes, at: tuple[int, int]) -> None:
    """A frame around the patch at row and column ``at``."""
    axis.add_patch(Rectangle((at[1] - 0.5, at[0] - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=1.8))
