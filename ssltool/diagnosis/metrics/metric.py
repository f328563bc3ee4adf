"""What a metric is: a plain function that returns a float, what it takes, and how its values are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from ssltool.errors import SSLToolError
from ssltool.registry import Registry

Target = str | Callable[..., Any]


@dataclass(frozen=True)
class Input:
    """What metrics take: its ``target``, a function of a ``metric_inputs.Source``, a ``description``, whether
    ``one_pass`` over all rows gives it, or it is of ``sampled`` rows: at most ``--pair-rows``, and at most ``most``."""

    target: Target
    description: str
    one_pass: bool = False
    sampled: bool = False
    most: int | None = None


TREE_ROWS = 4096
"""Maximum number of rows of a spanning tree, whose time is limited by memory: a minute for 10,000 rows of width 512."""

PATCH_IMAGES = 512
"""Maximum number of images of metrics of patches."""

AT: Registry[Input] = Registry(
    "input of metrics",
    __package__,
    {
        "spectrum": Input(
            "..metric_inputs:spectrum",
            "singular values s of the centred rows, of the directions that the layer can have",
            one_pass=True,
        ),
        "uncentred spectrum": Input(
            "..metric_inputs:uncentred_spectrum", "singular values s (min(N, d),), not centred", one_pass=True
        ),
        "directions": Input(
            "..metric_inputs:directions", "sums over L2-normalised rows: ``of_rows.Directions``", one_pass=True
        ),
        "pairs": Input("..metric_inputs:pairs", "rows x (N, d)", sampled=True),
        "neighbours": Input(
            "..metric_inputs:neighbours", "nearest other rows: ``of_neighbours.Neighbours``", sampled=True
        ),
        "trees": Input("..metric_inputs:trees", "``of_trees.SpanningTrees``", sampled=True, most=TREE_ROWS),
        "clusters": Input("..metric_inputs:clusters", "clusters of rows: ``of_clusters.Clusters``", sampled=True),
        "classes": Input("..metric_inputs:classes", "labelled rows: ``of_classes.Classes``", sampled=True),
        "files": Input("..metric_inputs:files", "values of the metrics ``of`` of each of M files, (M,) each"),
        "reference": Input("..metric_inputs:reference", "rows of the same images in two files: ``MatchedRows``"),
        "patches": Input(
            "..metric_inputs:patches", "patches (n, P, d) of images, a block at a time", most=PATCH_IMAGES
        ),
        "class tokens": Input("..metric_inputs:class_tokens", "class tokens (n, d), and ``patches`` of their images"),
        "earlier patches": Input(
            "..metric_inputs:earlier_patches", "``patches``, and those of the same images in another file"
        ),
        "views": Input("..metric_inputs:views", "views x (N, Q, d): Q views of each of N images"),
    },
)
"""The inputs of metrics. An input of two parts is two arguments. The function of a metric of a spectrum may also take
the width and the number of rows, as the keywords ``d`` and ``n``, and one that draws at random the ``seed``.
``--normalize`` scales the rows to length 1 for the spectra; other inputs do not change."""


@dataclass(frozen=True)
class Metric:
    """A metric: its function (``target``), its input ``at`` (a key of ``AT``), whether ``healthier`` is "high", "low"
    or neither ("", where 1 is best), the ``interpretation`` of values, the ``source``, the lowest and highest
    value (``range``, "d" for the width), whether it ``needs_gram``: the d x d Gram matrix of the directions, and the
    metrics that it is a function ``of``, if it compares several files.

    Raises:
        SSLToolError: for an ``at`` or ``healthier`` that does not exist.
    """

    target: Target
    at: str
    healthier: str
    interpretation: str
    source: str
    range: tuple[float, float | str] = (-inf, inf)
    needs_gram: bool = False
    of: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.at not in AT:
            raise SSLToolError(f"unknown input of a metric: '{self.at}'; choose one of {', '.join(AT)}")
        if self.healthier not in ("high", "low", ""):
            raise SSLToolError(f"healthier must be high, low or empty; found '{self.healthier}'")

    @property
    def grows_with_width(self) -> bool:
        """Whether the metric counts dimensions, so that only representations of one width can be compared."""
        return self.range[1] == "d"
