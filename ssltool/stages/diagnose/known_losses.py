"""Values at which a loss stands if the outputs are the same for all images. They follow from the losses' definitions.

A uniform distribution over K classes, prototypes or candidates has the cross-entropy ln K. Equal vectors have the
negative cosine -1 (SimSiam) and the distance 0 (BYOL). Outputs without variance have the largest variance term of
VICReg, and outputs without correlation between the views the largest diagonal term of Barlow Twins, D. SIGReg of N
equal outputs is least if they are 0, and the nuclear norm of N equal vectors of length 1 is sqrt(N) (MMCR).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ssltool.diagnosis.alarms import uniform_losses
from ssltool.diagnosis.kinds import relative_distance
from ssltool.diagnosis.thresholds import DEFAULT

TOLERANCE = DEFAULT.uniform_loss
"""How near a loss must be to a known value, relative to max(1, |value|), to decide a verdict by itself."""

BEST_COSINE = 5e-3
"""The tolerance of -1, which a collapsed network approaches slowly: SimSiam's own code without stop-gradient and batch
norm is at -0.999 after 80 steps. Healthy networks of docs/study.md are above -0.94 at the end."""

UNIFORM = "uniform-output"
CONSTANT = "constant-output"
NO_VARIANCE = "no-variance"
UNCORRELATED = "uncorrelated-views"

USUAL_CLASSES = (10, 100, 200, 300, 500, 1000, 3000, 10_000, 21_841)
"""Usual numbers of classes and prototypes that are no powers of two, such as the 3000 of SwAV."""

VARIANCE_WEIGHT = 25
"""The weight of the variance term in VICReg's code."""

VARIANCE_EPS = 1e-4
"""What VICReg's code adds to the variances: a constant output has the term 1 - sqrt(1e-4) = 0.99 in place of 1."""

BARLOW_SCALES = {"": 1.0, "0.1 ": 0.1, "0.025 ": 0.025, "1/32 ": 1 / 32}
"""Factors of Barlow Twins' loss: the paper's code has 1 (earlier 1/32), solo-learn 0.1 or 0.025."""

TICO_WEIGHTS = (8, 20)
"""Weights of TiCo's covariance contrast: the paper's, and one that others use. Some add 1 to the loss."""


@dataclass(frozen=True)
class KnownLoss:
    """A ``value`` of a loss with its ``formula``, which ``kind`` of collapse it shows, and the ``tolerance``."""

    value: float
    formula: str
    kind: str
    tolerance: float = TOLERANCE

    def matches(self, loss: float) -> bool:
        """Whether ``loss`` is the value, within the tolerance."""
        return self.distance(loss) <= self.tolerance

    def distance(self, loss: float) -> float:
        """The difference to ``loss``, relative to max(1, |value|)."""
        return relative_distance(loss, self.value)


def _uniform() -> Iterable[KnownLoss]:
    counts = {2**n for n in range(1, 21)} | {2**n - 1 for n in range(3, 9)} | set(USUAL_CLASSES)
    return (KnownLoss(math.log(count), f"ln {count}", UNIFORM) for count in sorted(counts))


def _uniform_of_mocov3() -> Iterable[KnownLoss]:
    """Both directions of MoCo v3's loss are cross-entropies times 2 T over the N images of a batch: 4 T ln N."""
    for temperature in (0.2, 1.0):
        for n in range(5, 15):
            value = 4 * temperature * math.log(2**n)
            yield KnownLoss(value, f"4 T ln N for T = {temperature:g}, N = {2**n}", UNIFORM)


def _of_cosine() -> Iterable[KnownLoss]:
    yield KnownLoss(-1.0, "-1", CONSTANT, BEST_COSINE)


def _of_distance() -> Iterable[KnownLoss]:
    yield KnownLoss(0.0, "0", CONSTANT)


def _of_variance() -> Iterable[KnownLoss]:
    for views in (1, 2):  # the terms of the two views are averaged, or added
        terms, text = VARIANCE_WEIGHT * views, "2 x 25" if views == 2 else "25"
        yield KnownLoss(float(terms), text, NO_VARIANCE)
        yield KnownLoss(terms * (1 - math.sqrt(VARIANCE_EPS)), f"{text} (1 - sqrt(1e-4))", NO_VARIANCE)


def _of_correlation() -> Iterable[KnownLoss]:
    for text, scale in BARLOW_SCALES.items():
        yield from (KnownLoss(scale * 2**n, f"{text}D for D = {2**n}", UNCORRELATED) for n in range(7, 16))


def _of_slices() -> Iterable[KnownLoss]:
    from ssltool.diagnosis.slices import knots

    t, weights = knots()  # the weights include exp(-t^2 / 2)
    missing = float((weights * (1 - (-t.square() / 2).exp()).square()).sum())
    yield from (KnownLoss(2**n * missing, f"SIGReg of {2**n} zeros", NO_VARIANCE) for n in range(5, 15))


def _of_contrast() -> Iterable[KnownLoss]:
    for rho in TICO_WEIGHTS:
        yield KnownLoss(rho - 1.0, f"rho - 1 for rho = {rho}", NO_VARIANCE)
        yield KnownLoss(float(rho), f"rho = {rho}", NO_VARIANCE)


def _of_nuclear_norm() -> Iterable[KnownLoss]:
    yield from (KnownLoss(-(2 ** (n / 2)), f"-sqrt({2**n})", NO_VARIANCE) for n in range(3, 14))


def _of_frobenius_norm() -> Iterable[KnownLoss]:
    yield KnownLoss(0.0, "log 1, of one eigenvalue", NO_VARIANCE)


FAMILIES = {
    "cross-entropy": _uniform,
    "4 T ln N": _uniform_of_mocov3,
    "cosine": _of_cosine,
    "distance": _of_distance,
    "variance": _of_variance,
    "correlation": _of_correlation,
    "slices": _of_slices,
    "contrast": _of_contrast,
    "nuclear norm": _of_nuclear_norm,
    "frobenius norm": _of_frobenius_norm,
}
"""Kinds of losses, and their known values."""

UNKNOWN_LOSS = ("cross-entropy", "cosine", "distance", "variance")
"""The families of a loss of which only the values are known."""


@functools.cache
def known_losses(*families: str) -> tuple[KnownLoss, ...]:
    """The known values of these families of losses."""
    return tuple(known for family in families for known in FAMILIES[family]())


def constants(values: Iterable[float]) -> tuple[KnownLoss, ...]:
    """The ``values`` that a method, or a user, gives for constant outputs. Logarithms of whole numbers are those of
    uniform outputs; -1 and 0 are the best values that a loss can have."""
    known = list(values)
    uniform = uniform_losses(known)
    kinds = ((value, UNIFORM if value in uniform else CONSTANT if value in (-1, 0) else NO_VARIANCE) for value in known)
    return tuple(KnownLoss(x, f"{x:.4g}", kind, BEST_COSINE if x == -1 else TOLERANCE) for x, kind in kinds)


BY_NAME = {
    "neg_cos_sim|simsiam": ("cosine", "distance"),
    "byol_|byol$": ("distance",),
    "vicreg|vibcreg|variance|var_loss": ("variance",),
    "barlow.*": ("correlation",),
    "nce|simclr": ("cross-entropy",),
    "contrastive": ("cross-entropy", "4 T ln N"),
    "dino|ibot": ("cross-entropy", "distance"),
    "swav|deepcluster": ("cross-entropy",),
    "sigreg": ("slices",),
    "tico.*": ("contrast",),
    "mmcr.*": ("nuclear norm",),
    "frossl.*": ("frobenius norm",),
    "lejepa|visreg|emp_?ssl": (),
    "koleo|mae|reconstruction|class_loss|cov_loss|covariance": (),
}
"""Patterns of the names of losses in logs, such as those of solo-learn, and the families of the losses."""


def known_by_name(name: str) -> tuple[KnownLoss, ...]:
    """The known values of a loss that a log calls ``name``; of an unknown loss if nothing in the name tells."""
    families = next((found for part, found in BY_NAME.items() if re.search(part, name.lower())), UNKNOWN_LOSS)
    return known_losses(*families)
