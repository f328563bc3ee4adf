"""The learning rate is 0 while the training goes on. A decay to 0 at the end, as that of a cosine, is no fault."""

from __future__ import annotations

import numpy as np

from ssltool.stages.diagnose.findings.finding import PARTIAL, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.series import Series

ZERO = 1e-6
"""Rates below this share of the largest count as 0. A cosine is below it for less than 0.1 % of its length."""

LONGEST_END = 0.02
FEWEST = 3
"""A longer stretch of 0, in the share of the log and in values, is no end of a decay."""


def find(series: Series) -> list[Finding]:
    """A finding if the rate is 0 for longer than the end of a decay, or everywhere."""
    if series.rate is None or not len(rate := series.rate.finite()):
        return []
    largest = float(np.abs(rate.values).max())
    stretch = last_stretch(np.abs(rate.values) <= ZERO * largest)
    if stretch is None or stretch[1] - stretch[0] + 1 < max(FEWEST, LONGEST_END * len(rate)):
        return []
    since, count = float(rate.at[stretch[0]]), stretch[1] - stretch[0] + 1
    evidence: dict[str, float | str] = {"largest_rate": largest, "values": count, "of": len(rate)}
    line = f"the learning rate is 0 since {series.unit} {since:g}, for {count:,} of {len(rate):,} values"
    cause = "the schedule is shorter than the training, or counts epochs where it is given steps"
    if largest == 0:
        cause = "the schedule, or the group of parameters that is logged, has a rate of 0"
    advice = "give the scheduler the number of steps, or of epochs, of the whole training; nothing is learned at 0"
    return [Finding("zero-rate", PARTIAL, line, since, evidence, cause, advice)]
