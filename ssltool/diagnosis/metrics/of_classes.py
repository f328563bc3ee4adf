"""Metrics of labelled rows: neural collapse, and the rank of each class. Each takes ``Classes``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_rows import unit_length
from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.diagnosis.metrics.shared import Detailed
from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.training.precision import widest_float


@dataclass(frozen=True)
class Classes:
    """The rows of each of C classes with at least two rows.

    Attributes:
        rows: N rows (N, d), float64, ordered by class.
        counts: number of rows (C,) of each class, at least 2.
        unlabelled: number of rows without a label, which are left out.
        single: number of classes with one row, which are left out.
    """

    rows: Tensor
    counts: Tensor
    unlabelled: int = 0
    single: int = 0

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of(cls, x: Tensor, labels: Tensor) -> Classes:
        """The classes of rows ``x`` (N, d) with ``labels`` (N,), negative for rows without a label.

        Raises:
            SSLToolError: for other shapes, or values that are not finite.
        """
        if x.dim() != 2 or labels.shape != x.shape[:1]:
            raise SSLToolError(f"rows must be (N, d) and labels (N,); found {tuple(x.shape)} and {tuple(labels.shape)}")
        refuse_nonfinite(x)
        labels = labels.to(x.device)
        known = labels >= 0
        _, number, counts = labels[known].unique(return_inverse=True, return_counts=True)
        order = number.sort(stable=True).indices
        order = order[(counts >= 2)[number[order]]]
        rows = x[known.nonzero().flatten()[order]].to(widest_float(x.device))
        return cls(rows, counts[counts >= 2], int((~known).sum()), int((counts < 2).sum()))

    def each(self) -> tuple[Tensor, ...]:
        """The rows (n, d) of each class."""
        return self.rows.split(self.counts.tolist()) if len(self) else ()

    def means(self) -> Tensor:
        """The mean (C, d) of each class."""
        # Relative to a row, equal rows have exactly the mean 0.
        origin = self.rows[:1]
        return torch.stack([(rows - origin).mean(dim=0) for rows in self.each()]) + origin

    def centred_means(self) -> Tensor:
        """The mean (C, d) of each class less the mean of these means."""
        means = self.means()
        means = means - means[:1]
        return means - means.mean(dim=0)

    def rounding(self) -> float:
        """Distances of class means below this are rounding errors of their sums."""
        largest = float((self.rows - self.rows[:1]).abs().max())
        return torch.finfo(self.rows.dtype).eps * max(self.rows.shape[1], len(self.rows)) * largest


def nc1(classes: Classes) -> float:
    """Variation within classes relative to that of their means, tr(Sw Sb^+) / C (Papyan et al., PNAS 2020,
    arXiv:2008.08186).

    At least 0: 0 if all rows of each class are equal, which is intracluster collapse if the classes are clusters, and
    neural collapse if they are labels. Sw is the mean over the C classes of the covariance within a class, Sb the
    covariance of the class means about their mean, both with 1/n, and ^+ the pseudo-inverse. Each class has the same
    weight; the paper's classes have equal numbers of rows. It does not change if all rows are mapped by an invertible
    matrix and the class means span all dimensions. Infinite if all class means are equal and the rows are not; NaN if
    all rows are equal, or for fewer than two classes with two rows.
    """
    if len(classes) < 2:
        return math.nan
    means = classes.centred_means()
    _, s, v = torch.linalg.svd(means / len(classes) ** 0.5, full_matrices=False)
    kept = (s > classes.rounding()) & (torch.arange(len(s), device=s.device) < len(classes) - 1)
    if not kept.any():
        return math.nan if bool((classes.rows == classes.rows[:1]).all()) else math.inf
    whiten = v[kept].T / s[kept]
    within = [((rows - rows[:1]) @ whiten).var(dim=0, correction=0).sum() for rows in classes.each()]
    return float(torch.stack(within).mean()) / len(classes)


def nc2(classes: Classes) -> Detailed:
    """Mean over pairs of classes of abs(cos + 1/(C-1)), cos of their means about the mean of all class means: the
    deviation from a simplex, in which all angles are equal and as large as possible (arXiv:2008.08186).

    Range [0, 2]: 0 for a simplex, and always for two classes. The details are the paper's other two: ``norms``, the
    standard deviation of the norms of the means, divided by their mean, and ``cosines``, the standard deviation of the
    cosines; both are 0 for a simplex. NaN if all class means are equal, or for fewer than two classes with two rows.
    """
    count = len(classes)
    means = classes.centred_means() if count > 1 else torch.zeros(0)
    norms = torch.linalg.vector_norm(means, dim=1) if count > 1 else means
    if count < 2 or float(norms.max()) <= classes.rounding():
        return Detailed(math.nan, norms=math.nan, cosines=math.nan)
    cosines = _pairs(means)
    value = float((cosines + 1 / (count - 1)).abs().mean())
    return Detailed(
        value, norms=float(norms.std(correction=0) / norms.mean()), cosines=float(cosines.std(correction=0))
    )


def class_cosine(classes: Classes) -> float:
    """Mean cosine over pairs of class means, not centred (centroid similarity of MONAI's EmbeddingCollapseMetric, which
    reports (cos + 1) / 2).

    Range [-1, 1]: 1 if all class means have one direction, about 0 for unrelated ones. Above 0 after a ReLU. The cosine
    of a mean that is 0 is 0. NaN for fewer than two classes with two rows.
    """
    return float(_pairs(classes.means()).mean()) if len(classes) > 1 else math.nan


def class_rank(classes: Classes) -> Detailed:
    """Mean over classes of the effective rank of the centred rows of a class.

    Range [0, d]: 0 if all rows of each class are equal, at most the number of rows per class - 1. MONAI's
    EmbeddingCollapseMetric reports 1 - rank / min(n - 1, d) of each class; its docstring defines the rank as
    sum s / max s, its code as here. The details are the ``lowest`` rank and the ``fewest`` rows of a class. NaN without
    a class with two rows.
    """
    if not len(classes):
        return Detailed(math.nan)
    # Relative to the first row, equal rows are exactly 0.
    shifted = [rows - rows[:1] for rows in classes.each()]
    ranks = [effective_rank(torch.linalg.svdvals(rows - rows.mean(dim=0))) for rows in shifted]
    return Detailed(sum(ranks) / len(ranks), lowest=min(ranks), fewest=int(classes.counts.min()))


def _pairs(means: Tensor) -> Tensor:
    """The cosines of all pairs of different ``means`` (C, d), one of (i, j) and (j, i)."""
    unit = unit_length(means)
    first, second = torch.triu_indices(len(means), len(means), 1, device=means.device)
    return (unit @ unit.T)[first, second].clamp(-1, 1)
