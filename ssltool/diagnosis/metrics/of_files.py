"""Metrics that compare several files: functions of the values of other metrics for each file."""

from __future__ import annotations

import numpy as np

from ssltool.errors import SSLToolError


def clid(dimension: np.ndarray, learnability: np.ndarray) -> np.ndarray:
    """Sum of the z-scores of the intrinsic dimension and of the cluster learnability of M files, (M,) (Lu et al.,
    arXiv:2206.01251).

    Range [-2 sqrt(M), 2 sqrt(M)]: higher is healthier than in the other files; the mean is 0. It means nothing beyond
    these files. The dimension is ``twonn``, as in the paper. z-scores are those of the finite values, with 1/M; all
    equal ones are 0. NaN for a file without a finite value of both.

    Args:
        dimension, learnability: the two values of each file, (M,).

    Raises:
        SSLToolError: for fewer than two files.
    """
    if len(dimension) < 2:
        raise SSLToolError(f"clid compares several files; found {len(dimension)}")
    return _z(dimension) + _z(learnability)


def _z(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    z = np.full(len(values), np.nan)
    if known.any():
        deviations = values[known] - values[known].mean()
        spread = np.sqrt(np.square(deviations).mean())
        equal = np.ptp(values[known]) == 0
        z[known] = 0.0 if equal else deviations / spread
    return z
