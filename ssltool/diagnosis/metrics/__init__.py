"""The registry of metrics of representation collapse.

A metric is a plain function that returns a float. Its input follows from ``Metric.at``, see ``AT``. The functions are
in the modules ``of_*``; a metric's module is imported when it is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf

from ssltool.diagnosis.metrics.metric import AT as AT
from ssltool.diagnosis.metrics.metric import Input as Input
from ssltool.diagnosis.metrics.metric import Metric as Metric
from ssltool.errors import UsageError
from ssltool.registry import Registry

METRICS: Registry[Metric] = Registry(
    "metric",
    __name__,
    {
        "auc": Metric(
            ".of_spectrum:auc", "spectrum", "low", "0.5 flat .. 1 collapsed", "arXiv:2209.15007, Eq. 2", (0.5, 1)
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
        "pseudo_condition_number": Metric(
            ".of_spectrum:condition_number",
            "uncentred spectrum",
            "low",
            "1 flat; ratio of largest to smallest value; not centred",
            "arXiv:2305.16562",
            (1, inf),
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
            "0 spread, or rows of zeros .. 1 collapsed",
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
            ".of_rows:w2_uniformity",
            "directions",
            "low",
            "0 .. 1.41 collapsed",
            "arXiv:2403.00642",
            (0, 2**0.5),
            needs_gram=True,
        ),
        "mean_norm": Metric(
            ".of_rows:mean_norm", "directions", "high", "0 collapsed onto 0; the scale", "mean over rows", (0, inf)
        ),
        "uniformity": Metric(
            ".of_rows:uniformity", "pairs", "low", "-4 spread .. 0 collapsed", "arXiv:2005.10242", (-8, 0)
        ),
        "twonn": Metric(
            ".of_rows:twonn", "neighbours", "high", "intrinsic dimension of the manifold", "Facco et al. 2017", (0, inf)
        ),
        "sigreg": Metric(
            ".of_slices:sigreg", "pairs", "low", "1.05 standard normal; grows with N", "arXiv:2511.08544", (0, inf)
        ),
        "sigreg_z": Metric(
            ".of_slices:sigreg_z", "pairs", "low", "0 standard normal .. above 4 not", "arXiv:2511.08544", (-13, inf)
        ),
        "sliced_w2": Metric(
            ".of_slices:sliced_w2", "pairs", "low", "0 normal .. 1 equal rows", "arXiv:2606.02572", (0, 2)
        ),
        "sliced_w2_z": Metric(
            ".of_slices:sliced_w2_z", "pairs", "low", "0 normal .. above 4 not", "arXiv:2606.02572", (-inf, inf)
        ),
        "coherence": Metric(
            ".of_rows:coherence",
            "pairs",
            "low",
            "1 all rows weigh the same .. N/r one row has a direction of its own",
            "arXiv:2305.16562",
            (1, inf),
        ),
        "local_dimension": Metric(
            ".of_neighbours:local_dimension",
            "neighbours",
            "high",
            "intrinsic dimension of the 20 nearest rows; low: local collapse",
            "arXiv:2401.10474",
            (0, inf),
        ),
        "hubness": Metric(
            ".of_neighbours:hubness",
            "neighbours",
            "low",
            "0 none; large if few rows are neighbours of most",
            "Radovanovic et al. 2010",
        ),
        "mst_dimension": Metric(
            ".of_trees:mst_dimension",
            "trees",
            "high",
            "intrinsic dimension by spanning trees; low: collapsed",
            "arXiv:2606.03338",
            (0, inf),
        ),
        "persistence": Metric(
            ".of_trees:persistence",
            "trees",
            "high",
            "0 tight clusters .. 1 equal distances; falls with N",
            "arXiv:2512.15285",
            (0, 1),
        ),
        "cluster_usage": Metric(
            ".of_clusters:cluster_usage",
            "clusters",
            "high",
            "1/K one cluster used .. 1 all used equally",
            "arXiv:2410.04959",
            (0, 1),
        ),
        "empty_clusters": Metric(
            ".of_clusters:empty_clusters",
            "clusters",
            "low",
            "fraction of clusters without a row",
            "arXiv:2410.04959",
            (0, 1),
        ),
        "cluster_learnability": Metric(
            ".of_clusters:cluster_learnability",
            "clusters",
            "high",
            "accuracy of predicting clusters by nearest rows; also 1 if all rows are equal",
            "arXiv:2206.01251",
            (0, 1),
        ),
        "clid": Metric(
            ".of_files:clid",
            "files",
            "high",
            "sum of the z-scores of twonn and cluster_learnability among these files",
            "arXiv:2206.01251",
            of=("twonn", "cluster_learnability"),
        ),
        "nc1": Metric(
            ".of_classes:nc1",
            "classes",
            "high",
            "variation within classes by that of their means; 0: each class is a point",
            "arXiv:2008.08186",
            (0, inf),
        ),
        "nc2": Metric(
            ".of_classes:nc2", "classes", "low", "0 if the class means are a simplex", "arXiv:2008.08186", (0, 2)
        ),
        "class_cosine": Metric(
            ".of_classes:class_cosine",
            "classes",
            "low",
            "0 unrelated .. 1 all class means have one direction",
            "MONAI, EmbeddingCollapseMetric",
            (-1, 1),
        ),
        "class_rank": Metric(
            ".of_classes:class_rank",
            "classes",
            "high",
            "mean effective rank of the rows of a class",
            "MONAI, EmbeddingCollapseMetric",
            (0, "d"),
        ),
        "cka": Metric(
            ".of_two_files:cka",
            "reference",
            "",
            "similarity to --reference: 0 unrelated .. 1 equal up to rotation and scale",
            "arXiv:1905.00414",
            (0, 1),
        ),
        "patch_cosine": Metric(
            ".of_tokens:patch_cosine",
            "patches",
            "low",
            "cosine of the patches of an image: 1 all equal (oversmoothing)",
            "mean over pairs",
            (-1, 1),
        ),
        "patch_rank": Metric(
            ".of_tokens:patch_rank",
            "patches",
            "high",
            "mean effective rank of the patches of an image",
            "Roy and Vetterli 2007",
            (0, "d"),
        ),
        "high_norm_tokens": Metric(
            ".of_tokens:high_norm_tokens",
            "patches",
            "low",
            "share of patches with an outlying norm; 0 none",
            "arXiv:2309.16588",
            (0, 0.5),
        ),
        "cls_patch_cosine": Metric(
            ".of_tokens:cls_patch_cosine",
            "class tokens",
            "low",
            "cosine of class token and patches: 1 patches repeat it",
            "mean over patches",
            (-1, 1),
        ),
        "gram_drift": Metric(
            ".of_tokens:gram_drift",
            "earlier patches",
            "low",
            "change of the cosines of patches from --reference; 0 none",
            "arXiv:2508.10104",
            (0, 4),
        ),
        "dse": Metric(
            ".of_patch_clusters:dse",
            "patches",
            "high",
            "separate, tight clusters of patches; also high if patches of an image are equal",
            "arXiv:2510.17299",
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
            ".of_views:lidar", "views", "high", "1 collapsed .. d; needs --views", "arXiv:2312.04000", (1, "d")
        ),
    },
)
"""All metrics, in the order of tables."""

QUICK = METRICS.where(lambda metric: AT[metric.at].one_pass)
"""The metrics that require a single pass over the rows."""

MAIN = ("auc", "effective_rank", "rankme", "dead_directions", "alpha", "feature_std", "mean_cosine")
"""Metrics shown in tables of runs and monitored during training."""


OF_TOKENS = ("patches", "class tokens", "earlier patches")
"""Inputs that are tokens of images with places."""

OF_TWO_FILES = ("reference", "earlier patches")
"""Inputs that compare a file with another one."""

RENYI = ("renyi_rank_half", "entropy_rank", "participation_ratio", "stable_rank", "effective_rank")
"""Effective ranks of the Renyi entropies of order 1/2, 1, 2 and infinity, and, beside this curve, that of the singular
values themselves."""


def metric_names(
    wanted: str | None,
    *,
    views: bool = False,
    labels: bool = False,
    reference: bool = False,
    patches: bool = False,
    class_tokens: bool = False,
) -> tuple[str, ...]:
    """Parses a comma-separated list of metrics; None means ``QUICK``, ``all`` means all metrics that apply to a file
    with or without ``views``, ``labels``, a ``reference`` file, ``patches`` and ``class_tokens``, and the name
    ``renyi`` the metrics of ``RENYI``.

    Raises:
        UsageError: for an unknown metric, or an empty list.
    """
    if wanted is None:
        return tuple(QUICK)
    if wanted == "all":
        given = {"views": views, "classes": labels, "reference": reference, "files": False, "patches": patches}
        given |= {"class tokens": class_tokens and patches, "earlier patches": reference and patches}
        return tuple(name for name, metric in METRICS.items() if given.get(metric.at, True))
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
