"""The standard deviation of the L2-normalised outputs, which some programs log, is near 0.

SimSiam's paper (2011.10566, Fig. 2) plots it: 1 / sqrt(d) for outputs that are spread evenly, 0 for equal outputs.
solo-learn logs it as ``train_z_std``.
"""

from __future__ import annotations

import re

import numpy as np

from ssltool.stages.diagnose.findings.constant_loss import MEANINGS
from ssltool.stages.diagnose.findings.finding import COMPLETE, Finding
from ssltool.stages.diagnose.findings.stretches import last_stretch
from ssltool.stages.diagnose.known_losses import CONSTANT
from ssltool.stages.diagnose.series import Series

NAME = re.compile(r"(^|[_/.])(z|output|feature|representation)_std(_step)?$")

WIDEST = 8192
LIMIT = 0.05 / WIDEST**0.5
"""Below this the outputs of no usual width are spread: ``complete_std`` of the verdict, 0.05, over sqrt(8192)."""

FEWEST = 3


def find(series: Series) -> list[Finding]:
    """A finding for each logged spread that is below ``LIMIT`` until the end of the log."""
    found = []
    for name, curve in series.others.items():
        curve = curve.finite()
        stretch = last_stretch(curve.values < LIMIT) if NAME.search(name.lower()) else None
        if stretch is None or stretch[1] - stretch[0] + 1 < FEWEST:
            continue
        since, values = float(curve.at[stretch[0]]), curve.values[stretch[0] :]
        evidence: dict[str, float | str] = {
            "curve": name,
            "median": float(np.median(values)),
            "limit": LIMIT,
            "values": len(values),
            "of": len(curve),
        }
        line = (
            f"{name} is {np.median(values):.2g} since {series.unit} {since:g}: the outputs are the same for all images "
            "(evenly spread ones have 1 / sqrt(d), 0.011 at the width 8192)"
        )
        meaning = MEANINGS[CONSTANT]
        found.append(Finding(CONSTANT, COMPLETE, line, since, evidence, meaning.cause, meaning.advice, meaning.tested))
    return found
