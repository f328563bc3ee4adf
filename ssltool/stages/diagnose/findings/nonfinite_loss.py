"""The loss, or a term of it, is NaN or infinite."""

from __future__ import annotations

import numpy as np

from ssltool.errors import counted
from ssltool.stages.diagnose.findings.finding import COMPLETE, PARTIAL, Finding
from ssltool.stages.diagnose.series import Series
from ssltool.stages.diagnose.tested_advice import OWN_CODE

CAUSE = (
    "an overflow, often in half precision, after the loss or the gradients grew; or a logarithm or a division of 0, "
    "such as the distance of two equal rows"
)
ADVICE = (
    "use a checkpoint from before it, with a lower learning rate or a longer warm-up, clipped gradients, and bf16 or "
    "fp32 instead of fp16"
)

TESTED = f"the lower learning rate, MAE and MoCo v3 {OWN_CODE}; the rest was not tested"


def find(series: Series) -> list[Finding]:
    """The first step at which each loss is not finite."""
    return [found for name in series.losses if (found := _in(series, name)) is not None]


def _in(series: Series, name: str) -> Finding | None:
    curve = series.losses[name]
    wrong = ~np.isfinite(curve.values)
    if not wrong.any():
        return None
    first, count = int(np.argmax(wrong)), int(wrong.sum())
    since, value = float(curve.at[first]), float(curve.values[first])
    until_end = bool(wrong[first:].all())
    said = "and stays so" if until_end else f"at {counted(count, series.unit)} of {len(curve):,}"
    evidence: dict[str, float | str] = {"curve": name, "count": count, "of": len(curve), "value": repr(value)}
    if first:
        evidence["last_finite"] = float(curve.values[first - 1])
    state = COMPLETE if until_end else PARTIAL
    line = f"{name} is {value} since {series.unit} {since:g} {said}"
    return Finding("nonfinite", state, line, since, evidence, CAUSE, ADVICE, TESTED)
