"""What metrics take: a ``Source`` of rows builds each input when a metric first asks for it.

The functions below build the inputs that ``metrics.AT`` lists. They take the ``Source``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.config.collapse import CollapseConfig
from ssltool.diagnosis.metrics import METRICS, OF_TOKENS
from ssltool.diagnosis.metrics.metric import AT, PATCH_IMAGES
from ssltool.diagnosis.metrics.of_classes import Classes
from ssltool.diagnosis.metrics.of_clusters import Clusters
from ssltool.diagnosis.metrics.of_neighbours import Neighbours
from ssltool.diagnosis.metrics.of_rows import Directions
from ssltool.diagnosis.metrics.of_trees import SpanningTrees
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import Factor, possible_directions
from ssltool.diagnosis.token_blocks import TokenBlocks, Tokens
from ssltool.errors import SSLToolError, counted
from ssltool.reprs.same_images import MatchedRows


@dataclass
class Source:
    """The rows of a measurement, the ``factor`` and ``directions`` of one pass over them, and how samples are taken.

    Attributes:
        bound: the largest possible rank of the layer, None if it is not known.
        pair_rows: maximum number of rows of the inputs that are ``sampled``.
        clusters: number of clusters of k-means; None for the default.
        pseudo_labels: number of clusters that replace the labels; None to use the labels.
        seed: seed of samples and of k-means.
        matched: these rows and those of the same images in another file.
        tokens: the rows as tokens of images with places, and those of another file; None for one row per image.
        notes: messages about the inputs built so far.
    """

    rows: Rows
    factor: Factor
    directions: Directions
    bound: int | None = None
    pair_rows: int = CollapseConfig.pair_rows
    clusters: int | None = None
    pseudo_labels: int | None = None
    seed: int = 0
    matched: MatchedRows | None = None
    tokens: Tokens | None = None
    notes: list[str] = field(default_factory=list)
    _built: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, at: str) -> Any:
        """The input ``at``, a key of ``AT``."""
        if at not in self._built:
            self._built[at] = AT.load(at)(self)
        return self._built[at]

    def metric(self, name: str) -> float:
        """The value of a metric."""
        function = METRICS.load(name)
        taken = _keywords(function)
        given = (("n", self.factor.rows), ("d", self.rows.width), ("seed", self.seed))
        found = self[METRICS[name].at]
        value: float = function(
            *(found if isinstance(found, tuple) else (found,)), **{key: one for key, one in given if key in taken}
        )
        return value

    @cached_property
    def singular_values(self) -> Tensor:
        """All singular values (min(N, d),) of the centred rows."""
        return self.factor.singular_values().cpu()

    def require(self, names: Iterable[str]) -> None:
        """Checks that the rows have what the metrics take.

        Raises:
            SSLToolError: if they lack views, labels or tokens, or the metric compares several files.
        """
        lacking = {"files": "compares several files; ssltool rank --by computes it", **self._lacking_tokens()}
        if self.matched is None:
            lacking["reference"] = "compares with another file of the same images; --reference names it"
        if self.rows.views is None or self.rows.skipped:
            lacking["views"] = "requires all views of each image; ssltool save-reprs --views saves them"
        if self.rows.labels is None and self.pseudo_labels is None:
            lacking["classes"] = (
                f"requires labels; found none in {self.rows.name}; --pseudo-labels K takes k-means clusters as classes"
            )
        for name in names:
            if METRICS[name].at in lacking:
                raise SSLToolError(f"{name} {lacking[METRICS[name].at]}")

    def _lacking_tokens(self) -> dict[str, str]:
        """What the rows lack as tokens, by input."""
        tokens, name = self.tokens, self.rows.name
        if tokens is None:
            need = (
                f"requires the tokens of images; {name} holds none; ssltool save-reprs --tokens patch or all saves them"
            )
            return dict.fromkeys(OF_TOKENS, need)
        if self.rows.skipped:
            return dict.fromkeys(OF_TOKENS, f"requires all tokens of an image; some of {name} are not finite")
        lacking = {}
        if not tokens.count("patch"):
            lacking = dict.fromkeys(OF_TOKENS, f"requires patches; {name} holds none; ssltool save-reprs --tokens all")
        if not tokens.count("cls"):
            lacking["class tokens"] = f"requires class tokens; {name} holds none; ssltool save-reprs --tokens all"
        if tokens.before is None:
            lacking["earlier patches"] = "compares the tokens of two files; --reference names the other one"
        return lacking

    @cached_property
    def image_sample(self) -> Tensor:
        """The positions (n,) of the images of metrics of patches: at most ``pair_rows`` and ``PATCH_IMAGES``."""
        tokens, count = _tokens(self), min(self.pair_rows, PATCH_IMAGES)
        if len(tokens.now) > count:
            self.notes.append(
                f"metrics of patches: computed on {count:,} of {len(tokens.now):,} images, drawn at random"
            )
        return tokens.sample(count, self.seed)

    def sample(self, most: int | None = None) -> tuple[Tensor, Tensor]:
        """At most ``pair_rows`` rows (n, d), or ``most`` if that is less, and their numbers (n,), drawn at random."""
        count, n = min(self.pair_rows, most or self.pair_rows), len(self.rows)
        numbers = np.arange(n)
        if n > count:
            numbers = np.sort(np.random.RandomState(self.seed % 2**32).permutation(n)[:count])
        key = f"sample of {count}"
        if key not in self._built:
            self._built[key] = self.rows.take(torch.from_numpy(numbers))
        return self._built[key], torch.from_numpy(numbers)

    def sampling_notes(self, names: Iterable[str]) -> list[str]:
        """Which of the metrics were computed on a sample of the rows, one message for each size of the sample."""
        of_size: dict[int, list[str]] = {}
        for name in names:
            taken = AT[METRICS[name].at]
            count = min(self.pair_rows, taken.most or self.pair_rows)
            if taken.sampled and count < len(self.rows):
                of_size.setdefault(count, []).append(name)
        return [
            f"{' and '.join(some)}: computed on {count:,} of {len(self.rows):,} rows, drawn at random; "
            + (f"at most {count:,} are used" if count < self.pair_rows else "--pair-rows sets the number")
            for count, some in of_size.items()
        ]


def _keywords(function: Callable[..., float]) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # a built-in function of torch without a signature
        return ()


def spectrum(source: Source) -> Tensor:
    """Singular values of the centred rows, of the directions that the layer can have (``possible_directions``)."""
    return source.singular_values[: possible_directions(source.factor.rows, source.rows.width, source.bound)]


def uncentred_spectrum(source: Source) -> Tensor:
    """Singular values (min(N, d),) of the rows, not centred."""
    return source.factor.singular_values(center=False).cpu()


def directions(source: Source) -> Directions:
    """Sums over the L2-normalised rows."""
    return source.directions


def pairs(source: Source) -> Tensor:
    """The sampled rows (n, d)."""
    return source.sample()[0]


def views(source: Source) -> Tensor:
    """The views (N, Q, d)."""
    if source.rows.views is None:
        raise SSLToolError(f"{source.rows.name} has no views")
    return source.rows.views


def files(source: Source) -> None:
    """Values of several files, which one set of rows does not give."""
    raise SSLToolError(f"{source.rows.name} is one file; ssltool rank compares several")


def reference(source: Source) -> MatchedRows:
    """The rows with those of the same images in another file."""
    if source.matched is None:
        raise SSLToolError(f"{source.rows.name} is not compared with another file")
    source.notes.extend(f"cka: {note}" for note in source.matched.notes)
    return source.matched


def patches(source: Source) -> TokenBlocks:
    """The patches of the sampled images."""
    return _tokens(source).patches(source.image_sample)


def class_tokens(source: Source) -> tuple[Tensor, TokenBlocks]:
    """The class tokens (n, d) and the patches of the sampled images."""
    return _tokens(source).class_tokens(source.image_sample), source["patches"]


def earlier_patches(source: Source) -> tuple[TokenBlocks, TokenBlocks]:
    """The patches of the sampled images, and those of the same images in the other file."""
    return source["patches"], _tokens(source).earlier_patches(source.image_sample)


def _tokens(source: Source) -> Tokens:
    if source.tokens is None:
        raise SSLToolError(f"{source.rows.name} holds no tokens")
    return source.tokens


def neighbours(source: Source) -> Neighbours:
    """The nearest neighbours of the sampled rows."""
    return Neighbours.of(source.sample()[0])


def trees(source: Source) -> SpanningTrees:
    """Minimum spanning trees of the sampled rows."""
    return SpanningTrees.of(source.sample(AT["trees"].most)[0], source.seed)


def clusters(source: Source) -> Clusters:
    """Clusters of the sampled rows."""
    return Clusters.of(source.sample()[0], source.clusters, source.seed)


def classes(source: Source) -> Classes:
    """The classes of the sampled rows."""
    rows, numbers = source.sample()
    count, labels = source.pseudo_labels, source.rows.labels
    if count is not None:
        labels = Clusters.of(rows, count, source.seed).assigned
        source.notes.append(f"classes: {count:,} clusters of k-means (--pseudo-labels), not labels")
    elif labels is None:
        raise SSLToolError(f"{source.rows.name} has no labels")
    else:
        labels = labels[numbers]
    found = Classes.of(rows, labels)
    if found.unlabelled:
        source.notes.append(f"classes: {counted(found.unlabelled, 'row')} without a label left out")
    if found.single:
        source.notes.append(f"classes: {found.single:,} with a single row left out")
    fewest, width = int(found.counts.min()) if len(found) else 0, rows.shape[1]
    if len(found) and fewest <= width:
        source.notes.append(
            f"classes: the smallest of {len(found):,} has {fewest:,} rows of width {width:,}, which bounds class_rank "
            "and lowers nc1"
        )
    return found
