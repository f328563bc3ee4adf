"""The loss, or a term of it, stands at a value that it has if the outputs are the same for all images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssltool.stages.diagnose.findings.finding import COMPLETE, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.known_losses import (
    CONSTANT,
    NO_VARIANCE,
    UNCORRELATED,
    UNIFORM,
    KnownLoss,
)
from ssltool.stages.diagnose.series import Curve, Series
from ssltool.stages.diagnose.tested_advice import OWN_CODE, TRAININGS

FEWEST_EPOCHS = 5
FEWEST_STEPS = 20
"""Fewest values of a stretch, of a log of epochs and one of steps: a loss that passes a value does not stand there, and
the loss of the first steps of a training with prototypes is near ln K."""

FEWEST_OF_HALF = 10
"""Fewest values of a stretch that has half of a log of steps, such as that of a few short epochs."""

FEWEST_OF_OURS = 2
"""Fewest epochs of a run of ssltool, whose settings tell which values its loss can stand at."""

SHORTEST = 0.1
"""The share of the log that a stretch must have at least."""

DECAYED = 0.05
"""Below this share of the largest learning rate the loss is flat anyway, so that a stretch shows nothing."""

LARGE = 100
"""Values above it are compared as they are in the log, with fewer digits."""


@dataclass(frozen=True)
class _Meaning:
    """What a kind of value means: in the report, its probable cause, advice, and on what that was tested."""

    says: str
    cause: str
    advice: str
    tested: str = ""


MEANINGS = {
    UNIFORM: _Meaning(
        "the value of outputs that are uniform over all classes, prototypes or candidates",
        "self-distillation and clustering: the teacher's outputs are not sharp enough (its temperature is too high, or "
        "the centring outweighs it), or the learning rate is too high; contrastive losses: all embeddings are equal",
        "lower the teacher's temperature (DINO's is 0.04) and the learning rate, and begin again",
        f"DINO {OWN_CODE}: with a teacher temperature of 1 the loss stands at ln K, with 0.04 it does not; not the "
        "learning rate",
    ),
    CONSTANT: _Meaning(
        "the best value that the loss can have, which equal outputs for all images reach",
        "what prevents equal outputs is missing: stop-gradient or predictor (SimSiam, BYOL), centring (DINO), the "
        "variance term (VICReg)",
        "check that the targets get no gradient, that the predictor is trained at a constant learning rate, and that "
        "no term of the loss has the weight 0",
        f"stop-gradient, predictor and variance term of SimSiam, BYOL and VICReg, {TRAININGS}; DINO's centring did not "
        "help there",
    ),
    NO_VARIANCE: _Meaning(
        "the value of outputs that are the same for all images, which the loss is meant to prevent",
        "the projector's output has no variance, so that what should spread it has no gradient either",
        "begin again with a lower learning rate or a longer warm-up, and check that the projector gets gradients",
    ),
    UNCORRELATED: _Meaning(
        "the diagonal term of outputs that are not correlated between the views at all",
        "the projector's output is the same for all images: batch norm turns it into zeros",
        "begin again with a lower learning rate or a longer warm-up, and check that the projector gets gradients",
    ),
}


def find(series: Series) -> list[Finding]:
    """A finding for each loss or term that stands at one of its known values until the end of the log."""
    found = (_in(series, name, curve.finite()) for name, curve in series.losses.items() if not _is_off(series, name))
    return [finding for finding in found if finding is not None]


def _is_off(series: Series, name: str) -> bool:
    """Whether it is a term that another program logs with the weight 0: it is 0 from the first value on."""
    return not series.is_ours and name != series.loss_name and not series.losses[name].values.any()


def _in(series: Series, name: str, curve: Curve) -> Finding | None:
    if not len(curve) or not curve.known:
        return None
    last = float(np.median(curve.values[-FEWEST_EPOCHS:]))
    known = min(curve.known, key=lambda known: known.distance(last))
    stretch = last_stretch(np.array([known.matches(value) for value in curve.values]))
    if stretch is None or not _is_long(series, curve, stretch) or _rate_had_decayed(series, curve, stretch[0]):
        return None
    first, until = stretch
    return _finding(series, name, curve, known, first, until)


def _is_long(series: Series, curve: Curve, stretch: tuple[int, int]) -> bool:
    count = stretch[1] - stretch[0] + 1
    steps = FEWEST_OF_HALF if 2 * count >= len(curve) else FEWEST_STEPS
    fewest = FEWEST_EPOCHS if series.unit == "epoch" else steps
    fewest = FEWEST_OF_OURS if series.is_ours else fewest
    return count >= max(fewest, SHORTEST * len(curve))


def _rate_had_decayed(series: Series, curve: Curve, first: int) -> bool:
    """Whether the learning rate was past its maximum and low when the stretch began."""
    if series.rate is None or not len(rate := series.rate.finite()):
        return False
    peak = int(np.argmax(rate.values))
    now = float(rate.at_steps(curve.at[first : first + 1])[0])
    return bool(curve.at[first] > rate.at[peak] and now < DECAYED * rate.values[peak])


def _finding(series: Series, name: str, curve: Curve, known: KnownLoss, first: int, until: int) -> Finding:
    values, since, meaning = curve.values[first : until + 1], float(curve.at[first]), MEANINGS[known.kind]
    median = float(np.median(values))
    formula = known.formula
    is_number = formula.lstrip("-").isdecimal()
    shown = f"{median:.4f}" if abs(median) < LARGE else f"{median:.5g}"
    evidence: dict[str, float | str] = {
        "curve": name,
        "median": median,
        "known": known.value,
        "formula": formula,
        "values": len(values),
        "of": len(curve),
        "largest_deviation": float(np.abs(values - known.value).max()),
        "tolerance": known.tolerance * max(1.0, abs(known.value)),
        "until": float(curve.at[until]),
    }
    equal = f"near {formula}" if is_number else f"= {formula}"
    line = (
        f"{name} stands at {shown} {equal} since {series.unit} {since:g}, for {len(values):,} of {len(curve):,} "
        f"values: {meaning.says}"
    )
    return Finding(known.kind, COMPLETE, line, since, evidence, meaning.cause, meaning.advice, meaning.tested)
