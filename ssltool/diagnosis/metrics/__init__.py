"""The registry of metrics of representation collapse.

A metric is a plain function that returns a float. Its input follows from ``Metric.at``, see ``AT``. The functions are
in ``of_spectrum``, ``of_rows`` and ``of_views``; a metric's module is imported when it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from ssltool.errors import SSLToolError, UsageError
from ssltool.registry import Registry

AT = {
    "spectrum": "singular values s (min(N, d),) of the centred rows",
    "uncentred spectrum": "singular values s (min(N, d),) of the rows, not centred",
    "directions": "sums over the L2-normalised rows, not centred: ``of_rows.Directions``",
    "pairs": "rows x (N, d), at most ``--pair-rows`` of them",
    "slices": "the same rows, of which the metric takes projections",
    "views": "views x (N, Q, d): Q views of each of N images",
}
"""The inputs of metrics. The function of a metric of a spectrum may also take the width and the number of
rows, as the keywords ``d`` and ``n``.
``--normalize`` scales the rows to length 1 for the spectra; other inputs do not change."""

SAMPLED = ("pairs", "slices")
"""The inputs that are a sample of the rows."""

ONE_PASS = ("spectrum", "uncentred spectrum", "directions")
"""The inputs that one pass over the rows gives."""

Target = str | Callable[..., float]


@dataclass(frozen=True)
class Metric:
    """A metric: its function (``target``), its input ``at`` (a key of ``AT``), whether ``healthier`` is "high", "low"
    or neither ("", where 1 is best), the ``interpretation`` of values, the ``source``, the lowest and highest
    value (``range``, "d" for the width), and whether it ``needs_gram``: the d x d Gram matrix of the directions.

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

    def __post_init__(self) -> None:
        if self.at not in AT:
            raise SSLToolError(f"unknown input of a metric: '{self.at}'; choose one of {', '.join(AT)}")
        if self.healthier not in ("high", "low", ""):
            raise SSLToolError(f"healthier must be high, low or empty; found '{self.healthier}'")

    @property
    def grows_with_width(self) -> bool:
        """Whether the metric counts dimensions, so that only representations of one width can be compared."""
        return self.range[1] == "d"


METRICS: Registry[Metric] = Registry(
    "metric",
    __name__,
    {
        "auc": Metric(
            ".of_spectrum:auc",
            "spectrum",
            "low",
            "0.5 flat .. 1 collapsed",
            "arXiv:2209.15007, Eq. 2",
            (0.5, 1),
        ),
        "effective_rank": Metric(
            ".of_spectrum:effective_rank",
            "spectrum",
            "high",
            "1 collapsed .. d flat",
            "Roy and Vetterli 2007",
            (0, "d"),
        ),
        "rankme": Metric(
            ".of_spectrum:rankme",
            "uncentred spectrum",
            "high",
            "1 collapsed .. d flat; not centred",
            "arXiv:2210.02885, Eq. 1",
            (1, "d"),
        ),
        "renyi_rank_half": Metric(
            ".of_spectrum:renyi_rank_half", "spectrum", "high", "1 collapsed .. d; order 1/2", "Renyi 1961", (0, "d")
        ),
        "matrix_entropy": Metric(
            ".of_spectrum:matrix_entropy", "spectrum", "high", "0 collapsed .. log d", "arXiv:2304.01434", (0, inf)
        ),
        "entropy_rank": Metric(
            ".of_spectrum:entropy_rank", "spectrum", "high", "1 collapsed .. d; order 1", "arXiv:2304.01434", (0, "d")
        ),
        "participation_ratio": Metric(
            ".of_spectrum:participation_ratio",
            "spectrum",
            "high",
            "1 collapsed .. d flat; of variances",
            "Gao et al. 2017",
            (0, "d"),
        ),
        "stable_rank": Metric(
            ".of_spectrum:stable_rank",
            "spectrum",
            "high",
            "1 collapsed .. d flat; relative to the largest",
            "He and Ozay 2022",
            (0, "d"),
        ),
        "alpha": Metric(
            ".of_spectrum:alpha",
            "spectrum",
            "",
            "decay of the spectrum; about 1 in networks that transfer well",
            "arXiv:2202.05808",
            (0, inf),
        ),
        "dead_directions": Metric(
            ".of_spectrum:dead_directions",
            "spectrum",
            "low",
            "fraction of the possible directions below 0.001 of the largest",
            "docs/collapse.md",
            (0, 1),
        ),
        "numerical_rank": Metric(
            ".of_spectrum:numerical_rank",
            "spectrum",
            "high",
            "dimensions above rounding noise, 0 .. d",
            "d eps s_1",
            (0, "d"),
        ),
        "condition_number": Metric(
            ".of_spectrum:condition_number",
            "spectrum",
            "low",
            "1 flat; ratio of largest to smallest value",
            "s_1 / s_rank",
            (1, inf),
        ),
        "total_variance": Metric(
            ".of_spectrum:total_variance", "spectrum", "high", "0 collapsed; square of the scale", "trace", (0, inf)
        ),
        "coding_rate": Metric(
            ".of_spectrum:coding_rate", "uncentred spectrum", "high", "0 at scale 0", "arXiv:2006.08558", (0, inf)
        ),
        "feature_std": Metric(
            ".of_rows:feature_std",
            "directions",
            "high",
            "0 collapsed .. 1 spread; below 1 for outputs of a ReLU",
            "arXiv:2011.10566, Fig. 2",
            (0, 1),
        ),
        "mean_cosine": Metric(
            ".of_rows:mean_cosine",
            "directions",
            "low",
            "0 spread .. 1 collapsed",
            "mean over pairs",
            (-1, 1),
        ),
        "self_cluster": Metric(
            ".of_rows:self_cluster",
            "directions",
            "low",
            "0 spread .. 1 collapsed",
            "arXiv:2305.16562",
            (-1, 1),
            needs_gram=True,
        ),
        "w2_uniformity": Metric(
            ".of_rows:w2_uniformity", "directions", "low", "0 .. 1.41 collapsed", "arXiv:2403.00642", (0, 2**0.5), True
        ),
        "mean_norm": Metric(
            ".of_rows:mean_norm", "directions", "high", "0 collapsed onto 0; the scale", "mean over rows", (0, inf)
        ),
        "uniformity": Metric(
            ".of_rows:uniformity",
            "pairs",
            "low",
            "-4 spread .. 0 collapsed",
            "arXiv:2005.10242",
            (-8, 0),
        ),
        "twonn": Metric(
            ".of_rows:twonn",
            "pairs",
            "high",
            "intrinsic dimension of the manifold",
            "Facco et al. 2017",
            (0, inf),
        ),
        "sigreg": Metric(
            ".of_slices:sigreg", "slices", "low", "1.05 standard normal; grows with N", "arXiv:2511.08544", (0, inf)
        ),
        "sigreg_z": Metric(
            ".of_slices:sigreg_z", "slices", "low", "0 standard normal .. above 4 not", "arXiv:2511.08544", (-13, inf)
        ),
        "sliced_w2": Metric(
            ".of_slices:sliced_w2", "slices", "low", "0 normal .. 1 equal rows", "arXiv:2606.02572", (0, 2)
        ),
        "sliced_w2_z": Metric(
            ".of_slices:sliced_w2_z", "slices", "low", "0 normal .. above 4 not", "arXiv:2606.02572", (-inf, inf)
        ),
        "alignment": Metric(
            ".of_views:alignment",
            "views",
            "low",
            "0 views agree .. 2 unrelated; collapse lowers it",
            "arXiv:2005.10242",
            (0, 4),
        ),
        "lidar": Metric(
            ".of_views:lidar",
            "views",
            "high",
            "1 collapsed .. d; needs --views",
            "arXiv:2312.04000",
            (1, "d"),
        ),
    },
)
"""All metrics, in the order of tables."""

QUICK = METRICS.where(lambda metric: metric.at in ONE_PASS)
"""The metrics that require a single pass over the rows."""

MAIN = ("auc", "effective_rank", "rankme", "dead_directions", "alpha", "feature_std", "mean_cosine")
"""Metrics shown in tables of runs and monitored during training."""


RENYI = ("renyi_rank_half", "entropy_rank", "participation_ratio", "stable_rank", "effective_rank")
"""Effective ranks of the Renyi entropies of order 1/2, 1, 2 and infinity, and, beside this curve, that of the singular
values themselves."""


def metric_names(wanted: str | None, *, views: bool = False) -> tuple[str, ...]:
    """Parses a comma-separated list of metrics; None means ``QUICK``, ``all`` means all metrics that apply to the file,
    and the name ``renyi`` the metrics of ``RENYI``.

    Raises:
        UsageError: for an unknown metric, or an empty list.
    """
    if wanted is None:
        return tuple(QUICK)
    if wanted == "all":
        return tuple(name for name, metric in METRICS.items() if views or metric.at != "views")
    asked: Sequence[str] = [name.strip().replace("-", "_") for name in wanted.split(",") if name.strip()]
    if not asked:
        raise UsageError(f"--metrics '{wanted}' is empty; choose from {', '.join(METRICS)}, renyi, or all")
    names = [name for one in asked for name in (RENYI if one == "renyi" else (one,))]
    check_names(names)
    return tuple(dict.fromkeys(names))


def check_names(names: Iterable[str]) -> None:
    """Refuses unknown metrics.

    Raises:
        UsageError: for an unknown name, with the nearest ones.
    """
    for name in names:
        METRICS[name]
