"""Metrics of representation collapse from the literature.

``of_spectrum`` has functions of the singular values, ``of_rows`` of the representations, ``of_views`` of several views
per image. Each returns a float. ``METRICS`` lists all of them, with their interpretation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssltool.diagnosis.metrics.of_rows import (
    Directions,
    feature_std,
    feature_std_tensor,
    mean_cosine,
    rankme,
    self_cluster,
    twonn,
    uniformity,
)
from ssltool.diagnosis.metrics.of_spectrum import (
    PowerLaw,
    alpha,
    auc,
    condition_number,
    dead_directions,
    effective_rank,
    numerical_rank,
    participation_ratio,
    rankme_of_spectrum,
    stable_rank,
)
from ssltool.diagnosis.metrics.of_views import alignment, lidar
from ssltool.errors import SSLToolError, unknown


@dataclass(frozen=True)
class Metric:
    """Facts about a metric: its input ``at`` ("spectrum", "directions", "pairs" of rows, "views"), whether
    ``healthier`` is "high", "low" or neither (""), the ``reading`` (interpretation of values) and the ``source``."""

    at: str
    healthier: str
    reading: str
    source: str


METRICS = {
    "auc": Metric("spectrum", "low", "0.5 flat .. 1 collapsed", "arXiv:2209.15007, Eq. 2"),
    "effective_rank": Metric("spectrum", "high", "1 collapsed .. d flat", "Roy and Vetterli 2007"),
    "rankme": Metric("spectrum", "high", "1 collapsed .. d flat; not centred", "arXiv:2210.02885, Eq. 1"),
    "participation_ratio": Metric("spectrum", "high", "1 collapsed .. d flat; of variances", "Gao et al. 2017"),
    "stable_rank": Metric("spectrum", "high", "1 collapsed .. d flat; against the largest", "He and Ozay 2022"),
    "alpha": Metric("spectrum", "", "fall of the spectrum; about 1 in networks that transfer", "arXiv:2202.05808"),
    "dead_directions": Metric("spectrum", "low", "share of directions below 0.001 of the largest", "docs/collapse.md"),
    "numerical_rank": Metric("spectrum", "high", "dimensions above rounding, 0 .. d", "d eps s_1"),
    "condition_number": Metric("spectrum", "low", "1 flat; largest over smallest value", "s_1 / s_rank"),
    "feature_std": Metric(
        "directions", "high", "0 collapsed .. 1 spread; below 1 for outputs of a ReLU", "arXiv:2011.10566, Fig. 2"
    ),
    "mean_cosine": Metric("directions", "low", "0 spread .. 1 collapsed", "mean over pairs"),
    "self_cluster": Metric("directions", "low", "0 spread .. 1 collapsed", "arXiv:2305.16562"),
    "uniformity": Metric("pairs", "low", "-4 spread .. 0 collapsed", "arXiv:2005.10242"),
    "twonn": Metric("pairs", "high", "intrinsic dimension of the surface", "Facco et al. 2017"),
    "alignment": Metric("views", "low", "0 views agree .. 2 unrelated; collapse lowers it", "arXiv:2005.10242"),
    "lidar": Metric("views", "high", "1 collapsed .. d; needs --views", "arXiv:2312.04000"),
}
"""All metrics, in the order of tables."""

QUICK = tuple(name for name, metric in METRICS.items() if metric.at in ("spectrum", "directions"))
"""Metrics that require a single pass over the rows."""

MAIN = ("auc", "effective_rank", "rankme", "dead_directions", "alpha", "feature_std", "mean_cosine")
"""Metrics shown in tables of runs and monitored during training."""


def metric_names(wanted: str | None, *, views: bool = False) -> tuple[str, ...]:
    """Parses a comma-separated list of metrics; None means ``QUICK``, ``all`` means all metrics that apply to the file.

    Raises:
        SSLToolError: for an unknown metric, or an empty list.
    """
    if wanted is None:
        return QUICK
    if wanted == "all":
        return tuple(name for name, metric in METRICS.items() if views or metric.at != "views")
    names: Sequence[str] = [name.strip().replace("-", "_") for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    if not names:
        raise SSLToolError(f"--metrics '{wanted}' is empty; choose from {', '.join(METRICS)}, or all")
    return tuple(dict.fromkeys(names))


__all__ = [
    "MAIN",
    "METRICS",
    "QUICK",
    "Directions",
    "Metric",
    "PowerLaw",
    "alignment",
    "alpha",
    "auc",
    "condition_number",
    "dead_directions",
    "effective_rank",
    "feature_std",
    "feature_std_tensor",
    "lidar",
    "mean_cosine",
    "metric_names",
    "numerical_rank",
    "participation_ratio",
    "rankme",
    "rankme_of_spectrum",
    "self_cluster",
    "stable_rank",
    "twonn",
    "uniformity",
]
