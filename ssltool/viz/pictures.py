"""Figures of images: grids of views, and two-dimensional maps of representations."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from ssltool.viz.style import COLOURS, MARKERS, check_format, figure_style, save_figure

THUMBNAIL_SIDE = 80
"""Maximum length of the longer side, in pixels, of images embedded in HTML; larger images are scaled down."""

PALETTE_COLOURS = 96
"""Number of colours of images embedded in HTML, to keep the file small."""

OUTLIER_FRACTION = 0.01
"""Fraction of the points at either end of an axis that its limits ignore."""

MAX_CLASSES = 24
"""Maximum number of classes with their own colour and marker in a map."""

MAX_NUMBERED = 12
"""Maximum number of classes whose numbers are written into a map."""


@dataclass(frozen=True)
class Views:
    """R images and their augmented views.

    Attributes:
        originals: R images (H, W, 3) uint8.
        augmented: the V views of each image, (H, W, 3) uint8.
        titles: the titles of the V views.
        recipes: descriptions of the augmentations.
        names: the names of the R images; empty if they have none.
        epoch: the epoch, from 0, in whose first step they are.
    """

    originals: list[np.ndarray]
    augmented: list[list[np.ndarray]]
    titles: list[str]
    recipes: list[str]
    names: list[str] = field(default_factory=list)
    epoch: int = 0


@dataclass(frozen=True)
class EmbeddingMap:
    """A two-dimensional map of representations.

    Attributes:
        points: (N, 2).
        labels: (N,), -1 for unlabelled points.
        classes: the names of the classes.
        axes: labels of the two axes.
    """

    points: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    axes: tuple[str, str]

    def frame(self) -> tuple[np.ndarray, float]:
        """Centre (2,) and half the side of a square that contains all points except the outliers of each axis."""
        low, high = np.quantile(self.points, [OUTLIER_FRACTION, 1 - OUTLIER_FRACTION], axis=0)
        return (low + high) / 2, 0.62 * float(max(*(high - low), 1e-12))

    def outside(self) -> int:
        """The number of points outside the frame."""
        centre, half = self.frame()
        return int((np.abs(self.points - centre) > half).any(axis=1).sum())


def data_url(image: np.ndarray, side: int = THUMBNAIL_SIDE) -> str:
    """An image (H, W, 3) uint8 as the data URL of a PNG file, scaled down to ``side`` pixels if it is larger."""
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture)
    if (pixels == pixels[..., :1]).all():
        picture = picture.convert("L")
    else:
        picture = picture.quantize(PALETTE_COLOURS, Image.Quantize.MEDIANCUT)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def plot_views(views: Views, path: str) -> None:
    """Plots a grid with one row per image: the original on the left, then its views.

    Raises:
        SSLToolError: if the file cannot be written, or its format is unknown.
    """
    check_format(path, "--out")
    titles = ["original", *views.titles]
    with figure_style():
        size = (0.2 + 1.05 * len(titles), 0.35 + 1.05 * len(views.originals) + 0.16 * len(views.recipes))
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02))
        axes = figure.subplots(len(views.originals), len(titles), squeeze=False)
        for row, original, augmented in zip(axes, views.originals, views.augmented, strict=True):
            for axis, image in zip(row, [original, *augmented], strict=True):
                axis.imshow(image, interpolation="nearest")
                axis.axis("off")
        for axis, title in zip(axes[0], titles, strict=True):
            axis.set_title(title, fontsize=8.5, loc="center")
        figure.supxlabel("\n".join(views.recipes), fontsize=7.5, x=0.01, ha="left", wrap=True)
        save_figure(figure, path)


def shown_classes(labels: np.ndarray) -> list[int]:
    """The classes with their own colour and marker: the ``MAX_CLASSES`` largest, in ascending order."""
    numbers, counts = np.unique(labels[labels >= 0], return_counts=True)
    largest: list[int] = numbers[np.argsort(-counts, kind="stable")[:MAX_CLASSES]].tolist()
    return sorted(largest)


def class_style(place: int) -> tuple[str, str]:
    """Colour and marker of the class at index ``place`` of ``shown_classes``; unique for ``MAX_CLASSES`` classes."""
    turn, colour = divmod(place, len(COLOURS))
    return COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)]


def draw_map(axis: Axes, cloud: EmbeddingMap, classes: Sequence[int]) -> None:
    """Plots the points, with the number of each class at the median of its points.

    Points of ``classes`` have the colour and marker of their class; other points are small dots. Both axes have the
    same scale.
    """
    rest = ~np.isin(cloud.labels, classes)
    x, y = cloud.points.T
    size, alpha = (4, 0.35) if len(classes) else (12, 0.5)
    axis.scatter(x[rest], y[rest], s=size, marker="o", color="black", alpha=alpha, linewidths=0)
    for place, number in enumerate(classes):
        colour, marker = class_style(place)
        own = cloud.labels == number
        axis.scatter(x[own], y[own], s=13, marker=marker, color=colour, linewidths=0, alpha=0.75)
    for number in classes if len(classes) <= MAX_NUMBERED else ():
        own = cloud.labels == number
        if own.any():
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "boxstyle": "round,pad=0.15"}
            middle = (float(np.median(x[own])), float(np.median(y[own])))
            axis.text(*middle, str(number), fontsize=8, ha="center", va="center", weight="bold", bbox=box)
    axis.set(xlabel=cloud.axes[0], ylabel=cloud.axes[1], xticks=[], yticks=[])
    (x0, y0), half = cloud.frame()
    axis.set(xlim=(x0 - half, x0 + half), ylim=(y0 - half, y0 + half), aspect="equal")
    axis.spines[:].set_alpha(0.3)


def class_name(cloud: EmbeddingMap, number: int) -> str:
    """The number of a class, followed by its name if that is not the number."""
    name = (cloud.classes[number] if number < len(cloud.classes) else "") or str(number)
    return name if name == str(number) else f"{number} {name}"
