"""Measures representations: one pass over the rows for the spectrum, the directions and the caveats, then the metrics.

``measure`` measures one set of rows. ``bootstrap_intervals`` gives confidence intervals, and ``subsample_metrics`` the
metrics of random subsets of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.config.collapse import CollapseConfig
from ssltool.diagnosis.caveats import CaveatTracker, caveat_messages, dead_dimensions
from ssltool.diagnosis.metric_inputs import Source
from ssltool.diagnosis.metrics import METRICS, QUICK, check_names
from ssltool.diagnosis.metrics.of_rows import Directions
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import Factor, possible_directions, unit_rows
from ssltool.diagnosis.token_blocks import Tokens
from ssltool.errors import SSLToolError
from ssltool.reprs.same_images import MatchedRows

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """The results for ``n`` rows of width ``d``.

    Attributes:
        bound: the largest possible rank of the layer, None if it is not known.
        s: singular values (min(n, d),) of the centred matrix, float64, descending.
        uncentred: singular values (min(n, d),) of the matrix without centring.
        deviations: standard deviations (d,) of the dimensions.
        metrics: the requested metrics.
        details: additional results of some metrics.
        notes: messages about data that make metrics misleading.
        dead: indices of the dead dimensions.
    """

    n: int
    d: int
    s: Tensor
    uncentred: Tensor
    deviations: Tensor
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    bound: int | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics with those of their details that are numbers, and ``clusters_used``, the effective number of
        clusters, if that was measured."""
        found = {key: float(value) for key, value in self.details.items() if isinstance(value, (int, float))}
        if "cluster_usage_clusters" in found:
            found["clusters_used"] = self.metrics["cluster_usage"] * found["cluster_usage_clusters"]
        return found | self.metrics

    def spectrum(self, kind: str) -> Tensor:
        """The spectrum of one ``--type``: singular values (``svd``), eigenvalues of the covariance (``cov``), or
        per-dimension standard deviations (``std``)."""
        if kind == "cov":
            return self.s.square() / max(1, self.n - 1)
        return self.s if kind == "svd" else self.deviations

    def possible(self, kind: str = "svd") -> Tensor:
        """``spectrum``, of singular values and eigenvalues only those of the directions that the layer can have."""
        count = self.d if kind == "std" else possible_directions(self.n, self.d, self.bound)
        return self.spectrum(kind)[:count]


def measure(
    x: Tensor | Rows,
    names: Collection[str] = QUICK,
    *,
    bound: int | None = None,
    normalize: bool = False,
    pair_rows: int = CollapseConfig.pair_rows,
    clusters: int | None = None,
    pseudo_labels: int | None = None,
    seed: int = 0,
    matched: MatchedRows | None = None,
    tokens: Tokens | None = None,
    each: Callable[[int], object] | None = None,
) -> Measured:
    """Computes the metrics ``names`` of representations (N, d), or (N, Q, d) with Q views of each image.

    Args:
        x: the representations; metrics of classes take the labels of ``Rows``.
        names: the metrics.
        bound: the largest possible rank of the layer, if it is known. Metrics of the centred spectrum refer to the
            directions that the layer can have, ``possible_directions``.
        normalize: scales rows to length 1 for the spectrum. Other metrics do not change.
        pair_rows: maximum number of rows for metrics that one pass does not give; of more rows, a random sample is
            used.
        clusters: number of clusters for metrics of clusters, by default that of ``of_clusters.default_count``.
        pseudo_labels: number of clusters that metrics of classes take instead of labels.
        seed: seed of samples and of k-means.
        matched: these rows and those of the same images in another file, for metrics that compare both.
        tokens: the rows as tokens of images, for metrics of patches.
        each: is called with the number of rows of each block.

    Raises:
        SSLToolError: for fewer than two rows, rows that are not finite, or a metric that requires views, labels or
            tokens if there are none.
    """
    rows = x if isinstance(x, Rows) else Rows([x])
    check_names(names)
    rows.check()
    if len(rows) < 2:
        raise SSLToolError(f"{rows.name}: a spectrum requires at least 2 rows; found {len(rows)}")
    caveats = CaveatTracker()
    sums = Directions(gram=needs_gram(names))
    source = Source(rows, Factor(), sums, bound, pair_rows, clusters, pseudo_labels, seed, matched, tokens)
    source.require(names)
    _pass(source, normalize, caveats, each=each)
    return rows.ranks.from_main(lambda: _measured(source, names, caveats))


def _measured(source: Source, names: Collection[str], caveats: CaveatTracker) -> Measured:
    """The results of one pass over all rows, and the metrics of samples of them."""
    rows, bound = source.rows, source.bound
    s, uncentred = source.singular_values, source["uncentred spectrum"]
    deviations = source.factor.deviations().cpu()
    notes = caveat_messages(caveats, s, uncentred, deviations, len(rows), rows.width, bound, rows.row_name)
    if rows.skipped:
        notes.insert(0, f"rows with NaN or infinite values, left out: {rows.skipped:,}")
    values = {name: source.metric(name) for name in names}
    notes += source.sampling_notes(names) + source.notes
    details = {f"{name}_{key}": detail for name in names for key, detail in _details(values[name]).items()}
    values = {name: float(values[name]) for name in names}
    dead = dead_dimensions(deviations)
    return Measured(len(rows), rows.width, s, uncentred, deviations, values, details, notes, dead, bound)


def _details(value: float) -> dict[str, Any]:
    """Additional results of a metric, such as those of ``of_spectrum.PowerLaw``."""
    return getattr(value, "details", {})


def bootstrap_intervals(
    x: Tensor | Rows, measured: Measured, resamples: int, *, normalize: bool = False, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of those metrics of ``measured`` that are in ``QUICK``, by resampling rows.

    The basic bootstrap: 2 m - q, with the metric m and its quantiles q over the resamples. A resample repeats rows, so
    its spectrum is steeper than that of the rows; reflecting the quantiles removes this bias. All views of an image are
    drawn together.

    Raises:
        SSLToolError: for fewer than two resamples, or rows that are not finite.
    """
    if resamples < 2:
        raise SSLToolError(f"--bootstrap {resamples}: must be at least 2, preferably several hundred")
    rows = x if isinstance(x, Rows) else Rows([x])
    rows.check()
    together = 1 if rows.views is None or rows.skipped else rows.views.shape[1]
    n = measured.n // together
    names = [name for name in measured.metrics if name in QUICK]
    drawn = []
    for number in range(resamples):
        random = np.random.RandomState(seeds.derive(seed, number) % 2**32)
        counts = np.bincount(random.randint(0, n, size=n), minlength=n).repeat(together)
        values = _of_counted(rows, counts, names, normalize, measured.bound)
        drawn.append([values[name] for name in names])
    low, high = np.quantile(np.array(drawn), [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2], axis=0)
    doubled = [2 * measured.metrics[name] for name in names]
    return {name: (doubled[i] - high[i], doubled[i] - low[i]) for i, name in enumerate(names)}


def subsample_metrics(
    x: Tensor | Rows,
    sizes: Sequence[int],
    names: Collection[str] = QUICK,
    *,
    bound: int | None = None,
    normalize: bool = False,
    seed: int = 0,
) -> list[dict[str, float]]:
    """The metrics of random subsets of each of the ``sizes``, with ``n``, the size. Smaller subsets are parts of larger
    ones. ``bound`` is the largest possible rank of the layer.

    Raises:
        SSLToolError: for a size below 2 or above the number of rows.
    """
    rows = x if isinstance(x, Rows) else Rows([x])
    rows.check()
    for size in sizes:
        if not 2 <= size <= len(rows):
            raise SSLToolError(f"--subsample {size}: it must be from 2 to {len(rows):,}, the rows of {rows.name}")
    order = np.random.RandomState(seed % 2**32).permutation(len(rows))
    quick = [name for name in names if name in QUICK]
    table = []
    for size in sizes:
        chosen = np.zeros(len(rows), dtype=np.int64)
        chosen[order[:size]] = 1
        values = _of_counted(rows, chosen, quick, normalize, bound)
        table.append({"n": size} | {name: float(values[name]) for name in quick})
    return table


def needs_gram(names: Iterable[str]) -> bool:
    """Whether any of the metrics requires the Gram matrix of the directions."""
    return any(METRICS[name].needs_gram for name in names)


def _pass(
    source: Source,
    normalize: bool,
    caveats: CaveatTracker | None = None,
    *,
    counts: Tensor | None = None,
    each: Callable[[int], object] | None = None,
) -> None:
    """One pass over the rows, each with its number of occurrences in ``counts`` (n,), by default 1. Each rank reads its
    part of the rows, and rank 0 then has the sums of all."""
    ranks = source.rows.ranks
    sums = _Sums(source.factor, source.directions, caveats)
    with ranks.same_errors():
        for first, block in source.rows.own_blocks(each):
            sums.update(block, None if counts is None else counts[first : first + len(block)], normalize)
    sums = ranks.merged(sums, _Sums.merged)
    source.factor, source.directions = sums.factor, sums.directions


@dataclass
class _Sums:
    """What one pass over rows collects."""

    factor: Factor
    directions: Directions
    caveats: CaveatTracker | None

    def update(self, block: Tensor, counts: Tensor | None, normalize: bool) -> None:
        weights = None
        if counts is not None:
            weights = counts.to(block.device)
            block, weights = block[weights > 0], weights[weights > 0]
        if not len(block):
            return
        self.factor.update(unit_rows(block) if normalize else block, weights)
        self.directions.update(block, weights)
        if self.caveats is not None:
            self.caveats.update(block)

    def merged(self, other: _Sums) -> _Sums:
        """These sums with those of the ``other`` rows, which follow these."""
        self.factor.merge(other.factor)
        self.directions.merge(other.directions)
        if self.caveats is not None and other.caveats is not None:
            self.caveats.merge(other.caveats)
        return self


def _of_counted(
    rows: Rows, counts: np.ndarray, names: Sequence[str], normalize: bool, bound: int | None
) -> dict[str, float]:
    """Metrics of one pass over the rows, each with its number of occurrences in ``counts`` (n,)."""
    source = Source(rows, Factor(), Directions(gram=needs_gram(names)), bound)
    _pass(source, normalize, counts=torch.from_numpy(counts))
    return rows.ranks.from_main(lambda: {name: float(source.metric(name)) for name in names})
