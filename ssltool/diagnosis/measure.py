"""Measuring representations: one pass over their rows for the spectrum, the directions and the traps; then metrics.

``measure`` gives all of it for one set of rows; ``intervals`` and ``growth`` say how far its numbers are to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.config.collapse import CollapseConfig
from ssltool.diagnosis import metrics as m
from ssltool.diagnosis.caveats import CaveatTracker, caveat_messages, dead_dimensions
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import Factor, unit_rows
from ssltool.errors import SSLToolError, unknown

LEVEL = 0.95
"""Confidence of an interval."""

OF_SPECTRUM: dict[str, Callable[[Tensor, int], float]] = {
    "auc": lambda s, d: m.auc(s),
    "effective_rank": lambda s, d: m.effective_rank(s),
    "participation_ratio": lambda s, d: m.participation_ratio(s),
    "stable_rank": lambda s, d: m.stable_rank(s),
    "alpha": lambda s, d: m.alpha(s, d=d),
    "dead_directions": lambda s, d: m.dead_directions(s),
    "numerical_rank": lambda s, d: m.numerical_rank(s, d=d),
    "condition_number": lambda s, d: m.condition_number(s, d=d),
}
"""By name, of singular values of representations of width d."""

OF_DIRECTIONS: dict[str, Callable[[m.Directions], float]] = {
    "feature_std": lambda sums: float(sums.feature_std()),
    "mean_cosine": m.Directions.mean_cosine,
    "self_cluster": m.Directions.self_cluster,
}
OF_PAIRS = {"uniformity": m.uniformity, "twonn": m.twonn}
OF_VIEWS = {"alignment": m.alignment, "lidar": m.lidar}


@dataclass(frozen=True)
class Measured:
    """``n`` rows of width ``d``: singular values ``s`` (min(n, d),) of the centred matrix and ``uncentred`` of the
    matrix itself, ``deviations`` (d,), the ``metrics`` asked for, ``details`` of some, ``notes`` on what may mislead,
    and the numbers of ``dead`` dimensions."""

    n: int
    d: int
    s: Tensor
    uncentred: Tensor
    deviations: Tensor
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)

    def spectrum(self, kind: str) -> Tensor:
        """The spectrum of one ``--type``: singular values (``svd``), eigenvalues of the covariance (``cov``), or
        per-dimension deviations (``std``)."""
        if kind == "cov":
            return self.s.square() / max(1, self.n - 1)
        return self.s if kind == "svd" else self.deviations


def measure(
    x: Tensor | Rows,
    names: Sequence[str] = m.QUICK,
    *,
    normalize: bool = False,
    pair_rows: int = CollapseConfig.pair_rows,
    seed: int = 0,
    each: Callable[[int], object] | None = None,
) -> Measured:
    """What there is to say of representations, (N, d) or (N, Q, d) of views.

    ``normalize`` scales the rows to length 1 for the spectrum; the other metrics look at directions, or at the rows as
    they are, and do not change. uniformity and twonn compare all pairs of ``pair_rows`` rows, drawn by ``seed`` where
    there are more. ``each`` is told how many rows have passed by.

    Raises:
        SSLToolError: for fewer than two rows, rows that are not finite, or a metric that needs views without them.
    """
    rows = x if isinstance(x, Rows) else Rows([x])
    for name in names:
        if name not in m.METRICS:
            raise unknown("metric", name, m.METRICS)
    rows.check()
    of_views = [name for name in names if name in OF_VIEWS]
    if of_views and (rows.views is None or rows.skipped):
        raise SSLToolError(
            f"{of_views[0]} needs several views of each image, whole; ssltool save-reprs --views writes them"
        )
    if len(rows) < 2:
        raise SSLToolError(f"{rows.name}: {len(rows)} row(s); a spectrum needs at least 2")
    caveats = CaveatTracker()
    factor, directions = _pass(rows, names, normalize, caveats, each=each)
    s, uncentred = factor.singular_values().cpu(), factor.singular_values(center=False).cpu()
    deviations = factor.deviations().cpu()
    values = _of_sums(s, uncentred, directions, names, rows.width)
    said = caveat_messages(caveats, s, uncentred, deviations, len(rows), rows.width)
    if rows.skipped:
        plural = "s" if rows.skipped > 1 else ""
        said.insert(0, f"{rows.skipped:,} row{plural} with NaN or infinite values are left out")
    if any(name in OF_PAIRS for name in names):
        sample, note = _sample(rows, pair_rows, seed)
        values |= {name: OF_PAIRS[name](sample) for name in names if name in OF_PAIRS}
        said += note
    if rows.views is not None:
        values |= {name: OF_VIEWS[name](rows.views) for name in of_views}
    details = {}
    if isinstance(fit := values.get("alpha"), m.PowerLaw):
        details = {"alpha_ranks": [fit.first, fit.last], "alpha_r2": fit.r2}
    values = {name: float(values[name]) for name in names}
    return Measured(len(rows), rows.width, s, uncentred, deviations, values, details, said, dead_dimensions(deviations))


def intervals(
    x: Tensor | Rows, found: Measured, resamples: int, *, normalize: bool = False, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95 % confidence intervals of the metrics of ``found`` that one pass gives, by resampling rows.

    The basic bootstrap: 2 m - q, with q the quantiles of the metric over resamples and m the metric itself. A resample
    repeats rows, so its spectrum is steeper than that of the rows; reflecting the quantiles takes that bias out. Views
    of one image are drawn together.

    Raises:
        SSLToolError: for fewer than two resamples, or rows that are not finite.
    """
    if resamples < 2:
        raise SSLToolError(f"--bootstrap {resamples}: an interval takes at least 2 resamples, better some hundred")
    rows = x if isinstance(x, Rows) else Rows([x])
    rows.check()
    together = 1 if rows.views is None or rows.skipped else rows.views.shape[1]
    n = found.n // together
    names = [name for name in found.metrics if name in m.QUICK]
    drawn = []
    for number in range(resamples):
        random = np.random.RandomState(seeds.derive(seed, number) % 2**32)
        counts = np.bincount(random.randint(0, n, size=n), minlength=n).repeat(together)
        values = _of_counted(rows, counts, names, normalize)
        drawn.append([values[name] for name in names])
    low, high = np.quantile(np.array(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: (2 * found.metrics[name] - high[i], 2 * found.metrics[name] - low[i]) for i, name in enumerate(names)}


def growth(
    x: Tensor | Rows, sizes: Sequence[int], names: Sequence[str] = m.QUICK, *, normalize: bool = False, seed: int = 0
) -> list[dict[str, float]]:
    """The metrics of ``sizes`` random rows; the smaller sets lie within the larger. Each with its ``n``.

    Raises:
        SSLToolError: for a size below 2 or above the rows there are.
    """
    rows = x if isinstance(x, Rows) else Rows([x])
    rows.check()
    for size in sizes:
        if not 2 <= size <= len(rows):
            raise SSLToolError(f"--subsample {size}: {rows.name} have {len(rows):,} rows; choose from 2 to that")
    order = np.random.RandomState(seed % 2**32).permutation(len(rows))
    quick = [name for name in names if name in m.QUICK]
    table = []
    for size in sizes:
        chosen = np.zeros(len(rows), dtype=np.int64)
        chosen[order[:size]] = 1
        values = _of_counted(rows, chosen, quick, normalize)
        table.append({"n": size} | {name: float(values[name]) for name in quick})
    return table


def _pass(
    rows: Rows,
    names: Sequence[str],
    normalize: bool,
    caveats: CaveatTracker | None = None,
    *,
    counts: Tensor | None = None,
    each: Callable[[int], object] | None = None,
) -> tuple[Factor, m.Directions]:
    """All rows, or each as often as ``counts`` (n,) says, through the sums that metrics are made of and ``traps``."""
    factor, directions, first = Factor(), m.Directions(gram="self_cluster" in names), 0
    for block in rows.blocks(each=each):
        weights = None
        if counts is not None:
            weights = counts[first : first + len(block)].to(block.device)
            first += len(block)
            block, weights = block[weights > 0], weights[weights > 0]
        if not len(block):
            continue
        factor.update(unit_rows(block) if normalize else block, weights)
        directions.update(block, weights)
        if caveats is not None:
            caveats.update(block)
    return factor, directions


def _of_counted(rows: Rows, counts: np.ndarray, names: Sequence[str], normalize: bool) -> dict[str, float]:
    """Metrics of one pass, of each row as often as ``counts`` (n,) says."""
    factor, directions = _pass(rows, names, normalize, counts=torch.from_numpy(counts))
    return _of_sums(factor.singular_values(), factor.singular_values(center=False), directions, names, rows.width)


def _of_sums(s: Tensor, uncentred: Tensor, directions: m.Directions, names: Sequence[str], d: int) -> dict[str, float]:
    values = {name: OF_SPECTRUM[name](s, d) for name in names if name in OF_SPECTRUM}
    values |= {name: OF_DIRECTIONS[name](directions) for name in names if name in OF_DIRECTIONS}
    return values | ({"rankme": m.rankme_of_spectrum(uncentred)} if "rankme" in names else {})


def _sample(rows: Rows, count: int, seed: int) -> tuple[Tensor, list[str]]:
    n = len(rows)
    if n <= count:
        return rows.take(torch.arange(n)), []
    numbers = np.sort(np.random.RandomState(seed % 2**32).permutation(n)[:count])
    note = f"uniformity and twonn compare {count:,} of {n:,} rows, drawn at random; --pair-rows takes more"
    return rows.take(torch.from_numpy(numbers)), [note]
