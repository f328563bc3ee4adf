"""The registry of the kinds of collapse. Each is decided by three numbers, which the verdict names.

A kind is looked for where its numbers are known: metrics of the rows, and what ``of_reference`` and other functions
derive. Its rule is a pure function of these numbers and of the thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ssltool.config.fields import STATES
from ssltool.diagnosis.thresholds import DEFAULT, Thresholds
from ssltool.registry import Registry

Numbers = Mapping[str, float]

_, PARTIAL, COMPLETE = STATES

NEEDS = {
    "rows": "representations: ssltool save-reprs writes them",
    "labels": "the labels of the images, or --pseudo-labels K",
    "tokens": "the tokens of images, which ssltool save-reprs --tokens patch writes",
    "reference": "the untrained network: give its representations of the same images with --reference FILE",
    "networks": "the weights of a teacher and of its student, which ssltool diagnose CHECKPOINT... and pretrain have",
    "loss": "a loss whose value for uniform outputs is known (ln K), which ssltool diagnose LOG and pretrain have",
}
"""What kinds need, and where it is to be had."""


@dataclass(frozen=True)
class Kind:
    """A kind of collapse.

    Attributes:
        target: its rule: a function of the numbers and the thresholds that returns the exceeded thresholds in words,
            none if the numbers do not show this kind.
        needs: what it needs, a key of ``NEEDS``.
        numbers: the three numbers that decide it.
        sentence: a plain sentence that needs none of the terms of the field.
        state: its severity.
        implies: kinds that follow from it, so that they are not named beside it.
        metrics: metrics of the rows that its numbers take.
        thresholds: the ``Thresholds`` that its rule compares with.
        quick: whether one pass over the rows gives its metrics.
    """

    target: str | Callable[[Numbers, Thresholds], list[str]]
    needs: str
    numbers: tuple[str, str, str]
    sentence: str
    state: str = PARTIAL
    implies: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    thresholds: tuple[str, ...] = ()
    quick: bool = True


@dataclass(frozen=True)
class Shown:
    """A kind that was found, its severity ``state``, the ``numbers`` that decided it, and ``why``: the exceeded
    thresholds."""

    kind: str
    state: str
    numbers: dict[str, float]
    why: list[str]

    def __str__(self) -> str:
        return f"{self.kind} ({', '.join(f'{name} {value:.3g}' for name, value in self.numbers.items())})"

    def order(self) -> int:
        """Its place among all kinds."""
        return list(KINDS).index(self.kind)

    def as_dict(self) -> dict[str, Any]:
        """The kind as plain values, with its sentence."""
        return {"kind": self.kind, "state": self.state, "numbers": self.numbers, "why": self.why} | {
            "sentence": KINDS[self.kind].sentence
        }


def _complete(of: Numbers, t: Thresholds) -> list[str]:
    rank = of["effective_rank"] if of.get("directions", math.inf) > 2 else math.inf
    is_line = rank < t.line_rank and of["feature_std"] < t.line_std
    crossed = [
        (_is_narrow(of, t.complete_std, t), f"feature_std is below {t.complete_std:g}"),
        (rank < t.complete_rank, f"effective rank is below {t.complete_rank:g}"),
        (is_line, f"effective rank is below {t.line_rank:g} with feature_std below {t.line_std:g}"),
    ]
    return [text for holds, text in crossed if holds]


def _dimensional(of: Numbers, t: Thresholds) -> list[str]:
    share, lost = of["used_share"], of["dead_directions"]
    crossed = [
        (_is_narrow(of, t.partial_std, t), f"feature_std is below {t.partial_std:g}"),
        (share < t.partial_rank, f"{share:.1%} of the dimensions are in use, below {t.partial_rank:.0%}"),
        (lost > t.partial_dead, f"{lost:.1%} of the directions are dead, above {t.partial_dead:.0%}"),
    ]
    return [text for holds, text in crossed if holds]


def _is_narrow(of: Numbers, limit: float, t: Thresholds) -> bool:
    """Whether ``feature_std`` is below a limit. In an untrained network it may be; then training must have lowered it
    to be at fault."""
    return of["feature_std"] < limit and of.get("std_ratio", 0.0) < t.reference_std


def _scale(of: Numbers, t: Thresholds) -> list[str]:
    norm, variance = of["norm_ratio"], of["variance_ratio"]
    text = (
        f"total variance is {variance:.2g} of the untrained network's, below {t.scale_variance:g}, mean norm {norm:.2g}"
    )
    return [text] * (variance < t.scale_variance and norm < t.scale_norm)


def _stale_teacher(of: Numbers, t: Thresholds) -> list[str]:
    is_stale = of["teacher_move"] <= t.teacher_share * of["student_move"] and of["student_move"] > 0
    return ["the teacher has not changed, while the student has"] * is_stale


def _identical_teacher(of: Numbers, t: Thresholds) -> list[str]:
    is_equal = of["teacher_distance"] <= t.teacher_share * of["student_move"] and of["student_move"] > 0
    return ["the teacher is equal to its student in every weight"] * is_equal


def _uniform_output(of: Numbers, t: Thresholds) -> list[str]:
    known, times = of["uniform_loss"], of["uniform_looks"]
    is_at = relative_distance(of["loss"], known) <= t.uniform_loss and times >= t.uniform_looks
    return [f"the loss stands at {known:.4g}, that of uniform outputs, in {times:g} looks"] * is_at


def _cluster(of: Numbers, t: Thresholds) -> list[str]:
    usage, used = of["cluster_usage"], of["clusters_used"]
    text = f"{used:.3g} clusters are in use, {usage:.1%} of them, below {t.cluster_count:g} and {t.cluster_share:.0%}"
    return [text] * (usage < t.cluster_share and used < t.cluster_count)


def _intracluster(of: Numbers, t: Thresholds) -> list[str]:
    return [f"nc1 is below {t.intracluster_nc1:g}"] * (of["nc1"] < t.intracluster_nc1)


def _local(of: Numbers, t: Thresholds) -> list[str]:
    found = max(of["local_dimension"], of["twonn"])
    is_local = found < t.local_lid and of["effective_rank"] > t.local_ratio * found
    return [f"local_dimension and twonn are below {t.local_lid:g}"] * is_local


def _dense(of: Numbers, t: Thresholds) -> list[str]:
    return [f"patch_cosine is above {t.dense_cosine:g}"] * (of["patch_cosine"] > t.dense_cosine)


def relative_distance(value: float, known: float) -> float:
    """The distance of a loss to a ``known`` value, relative to max(1, abs(known))."""
    return abs(value - known) / max(1.0, abs(known))


KINDS: Registry[Kind] = Registry(
    "kind of collapse",
    __package__,
    {
        "stale-teacher": Kind(
            _stale_teacher,
            "networks",
            ("teacher_move", "student_move", "teacher_distance"),
            "The teacher is never updated.",
            thresholds=("teacher_share",),
        ),
        "identical-teacher": Kind(
            _identical_teacher,
            "networks",
            ("teacher_distance", "teacher_move", "student_move"),
            "The teacher is a copy of its student.",
            thresholds=("teacher_share",),
        ),
        "uniform-output": Kind(
            _uniform_output,
            "loss",
            ("loss", "uniform_loss", "uniform_looks"),
            "The network gives every image the same output.",
            state=COMPLETE,
            thresholds=("uniform_loss", "uniform_looks"),
        ),
        "complete": Kind(
            _complete,
            "rows",
            ("feature_std", "effective_rank", "auc"),
            "The network gives nearly the same output to every image.",
            state=COMPLETE,
            implies=("dimensional", "cluster", "intracluster", "local"),
            thresholds=("complete_std", "complete_rank", "line_std", "line_rank", "reference_std"),
        ),
        "scale": Kind(
            _scale,
            "reference",
            ("norm_ratio", "variance_ratio", "coding_rate_ratio"),
            "The outputs have shrunk towards zero.",
            metrics=("mean_norm", "total_variance", "coding_rate"),
            thresholds=("scale_variance", "scale_norm"),
        ),
        "cluster": Kind(
            _cluster,
            "rows",
            ("cluster_usage", "empty_clusters", "clusters_used"),
            "The network knows only a few kinds of images: most clusters are not used.",
            implies=("dimensional",),
            metrics=("cluster_usage", "empty_clusters"),
            thresholds=("cluster_share", "cluster_count"),
            quick=False,
        ),
        "intracluster": Kind(
            _intracluster,
            "labels",
            ("nc1", "nc2", "class_rank"),
            "All images of a class have nearly the same output.",
            implies=("dimensional",),
            metrics=("nc1", "nc2", "class_rank"),
            thresholds=("intracluster_nc1",),
            quick=False,
        ),
        "local": Kind(
            _local,
            "rows",
            ("local_dimension", "twonn", "effective_rank"),
            "Similar images differ in very few ways: around each image the outputs lie on a curve or a thin surface.",
            implies=("dimensional",),
            metrics=("local_dimension", "twonn"),
            thresholds=("local_lid", "local_ratio"),
            quick=False,
        ),
        "dense": Kind(
            _dense,
            "tokens",
            ("patch_cosine", "patch_rank", "patch_rank_over_all"),
            "All patches of an image have nearly the same output.",
            metrics=("patch_cosine", "patch_rank"),
            thresholds=("dense_cosine",),
            quick=False,
        ),
        "dimensional": Kind(
            _dimensional,
            "rows",
            ("used_share", "dead_directions", "feature_std"),
            "The network uses far fewer dimensions than it has.",
            thresholds=("partial_std", "partial_rank", "partial_dead", "reference_std"),
        ),
    },
)
"""All kinds, in the order in which a verdict names them."""

SCALE = ("mean_norm", "total_variance", "coding_rate")
RATIOS = dict(zip(("norm_ratio", "variance_ratio", "coding_rate_ratio"), SCALE, strict=True)) | {
    "std_ratio": "feature_std"
}
"""The numbers that are ratios to the untrained network's, and of which metrics."""


def ratios(metrics: Numbers, untrained: Numbers) -> dict[str, float]:
    """The ``RATIOS`` of those metrics that both have."""
    return {
        name: metrics[metric] / untrained[metric]
        for name, metric in RATIOS.items()
        if metric in metrics and untrained.get(metric)
    }


def shown(numbers: Numbers, thresholds: Thresholds = DEFAULT) -> list[Shown]:
    """The kinds of collapse that the ``numbers`` show, in the order of ``KINDS``. Kinds of which a number is missing or
    not finite are not looked for, and those that follow from another are left out."""
    found = []
    for name, kind in KINDS.items():
        if all(math.isfinite(numbers.get(number, math.nan)) for number in kind.numbers):
            why = KINDS.load(name)(numbers, thresholds)
            if why:
                found.append(Shown(name, kind.state, {number: numbers[number] for number in kind.numbers}, why))
    implied = {name for one in found for name in KINDS[one.kind].implies}
    return [one for one in found if one.kind not in implied]


def metrics_of(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics of the rows that these kinds take."""
    return tuple(dict.fromkeys(metric for name in names for metric in KINDS[name].metrics))
