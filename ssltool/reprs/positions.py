"""Which dimensions of a tensor of representations are images, views, positions and the width."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.settings import Record


@dataclass(frozen=True)
class Layout:
    """What is known about the dimensions: the file ``path`` and its ``meta``, whether it is this program's own
    (``ours``), and the setting ``pool``, mean or none, for several rows of an image."""

    path: object
    ours: bool
    meta: Record
    pool: str | None


@dataclass(frozen=True)
class Arranged:
    """``rows`` (N, D), or (N, Q, D) for Q views, and the labels and numbers of the images, None if there are none."""

    rows: Tensor
    targets: Tensor | None
    index: Tensor | None
    meta: Record


def arranged(x: Tensor, layout: Layout, targets: Tensor | None, index: Tensor | None) -> Arranged:
    """``x`` as rows, by the first rule that applies:

    1. (N, D): a row for each image, or with ``meta["places"]`` P for each of P positions of N / P images.
    2. (N, Q, D) with ``meta["views"]`` Q: Q views of each image.
    3. Any shape with a label for each row of the last dimension: these rows.
    4. (N, D, 1, 1) and (N, 1, D): a row for each image.
    5. (N, Q, D) with N labels, or in a file of this program: Q views of each image.
    6. With ``pool``: (N, P, D), or (N, D, H, W) with H W positions; their mean, or a row for each.

    ``pool`` mean also gives the mean of views and of positions.

    Raises:
        SSLToolError: for other shapes, no rows, metadata that do not fit, or ``pool`` without several rows per image.
    """
    if x.dim() < 2 or 0 in x.shape:
        raise SSLToolError(
            f"{layout.path}: representations have the shape {tuple(x.shape)}; expected (N, D), a row for each "
            "image, with N and D of at least 1"
        )
    views, places = (layout.meta.get(name) for name in ("views", "places"))
    labels = None if targets is None else len(targets)
    n = len(x)
    if x.dim() == 2:
        if places and n % places:
            raise _misfit(x, layout, f"{places} positions of each image")
        if layout.pool is None or (places and layout.pool == "none"):
            return Arranged(x, targets, index, layout.meta)
        if not places:
            raise SSLToolError(f"{layout.path} has one row per image, so --pool has no effect; leave it out")
        return _mean(x.unflatten(0, (-1, places)), layout, *(_each(column, n, places) for column in (targets, index)))
    if views and (x.dim() != 3 or x.shape[1] != views):
        raise _misfit(x, layout, f"{views} views of each image")
    rows = math.prod(x.shape[:-1])
    if not views and layout.pool is None and labels == rows and labels != n:
        return Arranged(x.reshape(rows, -1), targets, index, layout.meta)
    if labels is not None and labels != n:
        return Arranged(x, targets, index, layout.meta)  # which the caller refuses
    single = math.prod(x.shape[2:]) == 1 or math.prod(x.shape[1:-1]) == 1
    if single and not views and not (layout.ours and x.dim() == 3):
        return arranged(x.reshape(n, -1), layout, targets, index)
    if layout.pool == "mean":
        return _mean(x if x.dim() == 3 else x.flatten(2).transpose(1, 2), layout, targets, index)
    if x.dim() == 3 and (views or layout.ours or labels == n) and layout.pool is None:
        return Arranged(x, targets, index, layout.meta)
    if layout.pool is None:
        raise SSLToolError(
            f"{layout.path}: representations have the shape {tuple(x.shape)}, several rows per image; --pool mean "
            "averages the positions, (N, P, D) or (N, D, H, W), --pool none keeps a row for each"
        )
    x = x if x.dim() == 3 else x.flatten(2).transpose(1, 2)
    places = x.shape[1]
    targets, index = (None if column is None else column.repeat_interleave(places) for column in (targets, index))
    return Arranged(x.reshape(n * places, -1), targets, index, layout.meta | {"places": places, "views": None})


def _mean(x: Tensor, layout: Layout, targets: Tensor | None, index: Tensor | None) -> Arranged:
    """The mean over the second dimension, at least in float32."""
    x = x if x.element_size() >= 4 else x.float()
    return Arranged(x.mean(dim=1), targets, index, layout.meta | {"places": None, "views": None})


def _each(column: Tensor | None, n: int, places: int) -> Tensor | None:
    """The entry of each image among those of its positions."""
    return column if column is None or len(column) != n else column[::places]


def _misfit(x: Tensor, layout: Layout, what: str) -> SSLToolError:
    return SSLToolError(
        f"{layout.path}: its meta say {what}, but representations have the shape {tuple(x.shape)}; save the file again"
    )
