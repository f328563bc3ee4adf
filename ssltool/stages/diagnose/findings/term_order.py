"""The smaller of two terms of the loss became the larger: a note, since it may be intended."""

from __future__ import annotations

import itertools

import numpy as np

from ssltool.stages.diagnose.findings.finding import NOTE, Finding
from ssltool.stages.diagnose.findings.stretches import ends, smooth
from ssltool.stages.diagnose.series import Series

FEWEST = 10
MOST_TERMS = 8
FACTOR = 2.0
"""By which factor one term is above the other, at the beginning and, reversed, at the end."""


def find(series: Series) -> list[Finding]:
    """A note for each pair of terms that crosses, by their absolute values."""
    terms = {name: curve.finite() for name, curve in list(series.terms.items())[:MOST_TERMS]}
    terms = {name: curve for name, curve in terms.items() if len(curve) >= FEWEST}
    return [found for a, b in itertools.combinations(terms, 2) for found in _crossing(series, a, b)]


def _crossing(series: Series, a: str, b: str) -> list[Finding]:
    first, second = series.terms[a].finite(), series.terms[b].finite()
    one, other = np.abs(first.values), np.abs(second.at_steps(first.at))
    if not (one > 0).all() or not (other > 0).all():
        return []
    ratio = smooth(np.log(one / other))
    start, end = ends(ratio)
    if min(abs(start), abs(end)) < np.log(FACTOR) or start * end > 0:
        return []
    since = float(first.at[int(np.flatnonzero(ratio * start > 0)[-1])])
    larger, smaller = (a, b) if end > 0 else (b, a)
    line = (
        f"{larger} became larger than {smaller} at about {series.unit} {since:g}: {np.exp(-abs(start)):.2g} times it "
        f"at the beginning, {np.exp(abs(end)):.2g} times at the end"
    )
    evidence: dict[str, float | str] = {
        "larger": larger,
        "smaller": smaller,
        "ratio_start": float(np.exp(-abs(start))),
        "ratio_end": float(np.exp(abs(end))),
    }
    return [Finding("terms-cross", NOTE, line, since, evidence)]
