"""Stretches of a curve in which a condition holds, and robust summaries of a curve."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

WINDOW = 0.05
"""The share of a curve that its beginning and its end are summarised over."""

FEWEST = 3
WIDEST = 501


def last_stretch(holds: np.ndarray) -> tuple[int, int] | None:
    """The indices [first, last] of the stretch of True that reaches the end of ``holds`` (n,); None if it does not."""
    if not len(holds) or not holds[-1]:
        return None
    broken = np.flatnonzero(~holds)
    return (int(broken[-1]) + 1 if len(broken) else 0), len(holds) - 1


def ends(values: np.ndarray) -> tuple[float, float]:
    """The medians of the first and the last values of a curve (n,), n >= 1."""
    count = min(len(values), max(FEWEST, int(WINDOW * len(values))))
    return float(np.median(values[:count])), float(np.median(values[-count:]))


def smooth(values: np.ndarray, width: int | None = None) -> np.ndarray:
    """The running median (n,) of ``values`` (n,), over ``width`` values around each; by default 5 % of the curve."""
    width = min(WIDEST, max(FEWEST, int(WINDOW * len(values)))) if width is None else width
    median: np.ndarray = median_filter(values, size=2 * (width // 2) + 1, mode="nearest")
    return median


def spread(values: np.ndarray) -> float:
    """The robust standard deviation of ``values`` (n,): 1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
