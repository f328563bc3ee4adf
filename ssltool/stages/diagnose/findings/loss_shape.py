"""The shape of the loss over the training: divergence, spikes, a loss that does not change, and an early plateau."""

from __future__ import annotations

import numpy as np

from ssltool.errors import counted
from ssltool.stages.diagnose.findings.constant_loss import find as at_known_value
from ssltool.stages.diagnose.findings.finding import COMPLETE, NOTE, PARTIAL, Finding
from ssltool.stages.diagnose.findings.stretches import ends, smooth, spread
from ssltool.stages.diagnose.series import Series

FEWEST = 10
"""Fewest values of a loss whose shape means something."""

FEWEST_OF_PLATEAU = 40

RISE = 0.5
"""A loss has diverged if it ends this share above its beginning."""

NOISE = 10
"""A loss has diverged, or a spike is one, if it rises by this many standard deviations of the noise."""

UNCHANGED = 1e-3
"""The range of a loss that does not change, relative to max(1, |loss|)."""

FALLEN = 0.95
EARLY = 0.05
"""An early plateau: this share of the whole fall is in this share of the log."""


def divergence(series: Series) -> list[Finding]:
    """A loss that ends far above its beginning and its best value."""
    curve = series.loss.finite()
    if len(curve) < FEWEST:
        return []
    level = smooth(curve.values)
    start, end = ends(curve.values)
    best = int(np.argmin(level))
    noise = spread(curve.values - level)
    margin = max(RISE * abs(start), NOISE * noise, UNCHANGED)
    if end <= start + margin or end - level[best] <= margin:
        return []
    above = np.flatnonzero(level[best:] > start + margin)
    since = float(curve.at[best + int(above[0])]) if len(above) else float(curve.at[best])
    line = (
        f"the loss diverges: {end:.4g} at the end, {start:.4g} at the beginning, at best {level[best]:.4g} at "
        f"{series.unit} {curve.at[best]:g}"
    )
    evidence: dict[str, float | str] = {
        "start": start,
        "end": end,
        "best": float(level[best]),
        "best_at": float(curve.at[best]),
        "noise": noise,
    }
    cause = "the learning rate is too high for the batch, or the warm-up too short"
    advice = f"use a checkpoint from about {series.unit} {curve.at[best]:g}, and begin again with a lower learning rate"
    return [Finding("divergence", COMPLETE, line, since, evidence, cause, advice)]


def spikes(series: Series) -> list[Finding]:
    """Values far above their neighbours, from which the loss returned: a note."""
    curve = series.loss.finite()
    if len(curve) < FEWEST:
        return []
    level = smooth(curve.values)
    excess = curve.values - level
    fall = max(0.0, float(level[0] - level.min()))
    high = excess > max(NOISE * spread(excess), 0.5 * fall, UNCHANGED * max(1.0, float(np.abs(level).max())))
    high[-1] = False  # it has not returned yet
    if not high.any():
        return []
    first, worst = int(np.argmax(high)), int(np.argmax(excess))
    line = (
        f"the loss has {counted(int(high.sum()), 'spike')}, the first at {series.unit} {curve.at[first]:g}, the "
        f"highest {curve.values[worst]:.4g} at {series.unit} {curve.at[worst]:g}, and returned each time"
    )
    evidence: dict[str, float | str] = {"count": int(high.sum()), "highest": float(curve.values[worst])}
    return [Finding("spike", NOTE, line, float(curve.at[first]), evidence)]


def unchanged(series: Series) -> list[Finding]:
    """A loss that is the same over the whole log, at no value that is known to mean a constant output."""
    curve = series.loss.finite()
    if len(curve) < FEWEST or any(found.evidence["curve"] == series.loss_name for found in at_known_value(series)):
        return []
    median, size = float(np.median(curve.values)), float(np.ptp(curve.values))
    if size > UNCHANGED * max(1.0, abs(median)):
        return []
    line = f"the loss does not change: {median:.6g} over {len(curve):,} values, within {size:.2g}"
    evidence: dict[str, float | str] = {"median": median, "range": size, "values": len(curve)}
    cause = "the parameters are not updated (frozen, no gradient, a learning rate of 0), or the outputs are constant"
    advice = "check that a parameter of the backbone changes in a step; measure a checkpoint"
    return [Finding("unchanged-loss", PARTIAL, line, float(curve.at[0]), evidence, cause, advice)]


def early_plateau(series: Series) -> list[Finding]:
    """A loss that reached its final level in the first steps: a note, because healthy losses do so too."""
    curve = series.loss.finite()
    if len(curve) < FEWEST_OF_PLATEAU:
        return []
    level = smooth(curve.values, width=5)
    start, best = float(curve.values[0]), float(level.min())
    fall = start - best
    if fall <= max(NOISE * spread(curve.values - level), UNCHANGED * max(1.0, abs(start))):
        return []
    reached = int(np.argmax(level <= start - FALLEN * fall))
    if reached >= EARLY * len(curve):
        return []
    line = (
        f"the loss fell from {start:.4g} to {level[reached]:.4g} by {series.unit} {curve.at[reached]:g} and hardly "
        f"since ({best:.4g} at best); networks that collapse fall as fast, but healthy ones may too"
    )
    evidence: dict[str, float | str] = {"start": start, "level": float(level[reached]), "best": best}
    return [Finding("early-plateau", NOTE, line, float(curve.at[reached]), evidence)]
