"""Measuring representations: one pass over their rows for the spectrum, the directions and the traps; then metrics.

``measure`` gives all of it for one set of rows; ``intervals`` and ``growth`` say how far its numbers are to be trusted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.config.collapse import CollapseConfig
from ssltool.diagnosis.caveats import CaveatTracker, caveat_messages, dead_dimensions
from ssltool.diagnosis.metrics import METRICS, QUICK, check_names
from ssltool.diagnosis.metrics.of_rows import Directions
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum import Factor, unit_rows
from ssltool.errors import SSLToolError

LEVEL = 0.95
"""Confidence of an interval."""


@dataclass(frozen=True)
class OnePass:
    """What one pass over rows of width ``d`` gives: singular values ``s`` of the centred and ``uncentred`` of the plain
    rows, (min(n, d),) each, and sums over ``directions``."""

    s: Tensor
    uncentred: Tensor
    directions: Directions
    d: int

    def metric(self, name: str) -> float:
        """A metric of ``QUICK``."""
        function = METRICS.load(name)
        given = {"spectrum": self.s, "uncentred spectrum": self.uncentred, "directions": self.directions}
        width = {"d": self.d} if _takes_width(function) else {}
        value: float = function(given[METRICS[name].at], **width)
        return value


def _takes_width(function: Callable[..., float]) -> bool:
    try:
        return "d" in inspect.signature(function).parameters
    except ValueError:  # a function of torch that is written in C
        return False


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
    names: Collection[str] = QUICK,
    *,
    normalize: bool = False,
    pair_rows: int = CollapseConfig.pair_rows,
    seed: int = 0,
    each: Callable[[int], object] | None = None,
) -> Measured:
    """What there is to say of representations, (N, d) or (N, Q, d) of views.

    ``normalize`` scales the rows to length 1 for the spectrum; the other metrics look at directions, or at the rows as
    they are, and do not change. uniformity and twonn compare all pairs of ``pair_rows`` rows, drawn by ``seed`` where
    there are more. ``each`` is called with the number of rows of each block.

    Raises:
        SSLToolError: for fewer than two rows, rows that are not finite, or a metric that needs views without them.
    """
    rows = x if isinstance(x, Rows) else Rows([x])
    check_names(names)
    rows.check()
    of_views, of_pairs = ([name for name in names if METRICS[name].at == at] for at in ("views", "pairs"))
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
    one_pass = OnePass(s, uncentred, directions, rows.width)
    values = {name: one_pass.metric(name) for name in names if name in QUICK}
    said = caveat_messages(caveats, s, uncentred, deviations, len(rows), rows.width)
    if rows.skipped:
        plural = "s" if rows.skipped > 1 else ""
        said.insert(0, f"{rows.skipped:,} row{plural} with NaN or infinite values are left out")
    if of_pairs:
        sample, note = _sample(rows, pair_rows, seed, of_pairs)
        values |= {name: METRICS.load(name)(sample) for name in of_pairs}
        said += note
    if of_views:
        values |= {name: METRICS.load(name)(rows.views) for name in of_views}
    details = {f"{name}_{key}": detail for name in names for key, detail in _details(values[name]).items()}
    values = {name: float(values[name]) for name in names}
    return Measured(len(rows), rows.width, s, uncentred, deviations, values, details, said, dead_dimensions(deviations))


def _details(value: float) -> dict[str, Any]:
    """What a metric says beside its value, as ``of_spectrum.PowerLaw`` does."""
    return getattr(value, "details", {})


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
    names = [name for name in found.metrics if name in QUICK]
    drawn = []
    for number in range(resamples):
        random = np.random.RandomState(seeds.derive(seed, number) % 2**32)
        counts = np.bincount(random.randint(0, n, size=n), minlength=n).repeat(together)
        values = _of_counted(rows, counts, names, normalize)
        drawn.append([values[name] for name in names])
    low, high = np.quantile(np.array(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {name: (2 * found.metrics[name] - high[i], 2 * found.metrics[name] - low[i]) for i, name in enumerate(names)}


def growth(
    x: Tensor | Rows, sizes: Sequence[int], names: Collection[str] = QUICK, *, normalize: bool = False, seed: int = 0
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
    quick = [name for name in names if name in QUICK]
    table = []
    for size in sizes:
        chosen = np.zeros(len(rows), dtype=np.int64)
        chosen[order[:size]] = 1
        values = _of_counted(rows, chosen, quick, normalize)
        table.append({"n": size} | {name: float(values[name]) for name in quick})
    return table


def needs_gram(names: Iterable[str]) -> bool:
    """Whether any of the metrics needs the Gram matrix of the directions."""
    return any(METRICS[name].needs_gram for name in names)


def _pass(
    rows: Rows,
    names: Collection[str],
    normalize: bool,
    caveats: CaveatTracker | None = None,
    *,
    counts: Tensor | None = None,
    each: Callable[[int], object] | None = None,
) -> tuple[Factor, Directions]:
    """All rows, or each as often as ``counts`` (n,) says, through the sums that metrics are made of and ``traps``."""
    factor, directions, first = Factor(), Directions(gram=needs_gram(names)), 0
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
    s, uncentred = factor.singular_values(), factor.singular_values(center=False)
    one_pass = OnePass(s, uncentred, directions, rows.width)
    return {name: one_pass.metric(name) for name in names}


def _sample(rows: Rows, count: int, seed: int, names: Sequence[str]) -> tuple[Tensor, list[str]]:
    n = len(rows)
    if n <= count:
        return rows.take(torch.arange(n)), []
    numbers = np.sort(np.random.RandomState(seed % 2**32).permutation(n)[:count])
    compare = f"{' and '.join(names)} compare{'' if len(names) > 1 else 's'}"
    note = f"{compare} {count:,} of {n:,} rows, drawn at random; --pair-rows takes more"
    return rows.take(torch.from_numpy(numbers)), [note]
