"""k-means on representations: the baseline that SCAN is compared with."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.cluster.vq

from ssltool import seeds
from ssltool.errors import SSLToolError

RESTARTS = 10
"""Beginnings, of which the one with the smallest distances is kept."""


def kmeans(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The ``count`` centroids (K, d) of ``rows`` (N, d) by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's turns,
    the best of ``RESTARTS``; a function of the seed.

    Raises:
        SSLToolError: if there are fewer rows than clusters.
    """
    if len(rows) < count:
        raise SSLToolError(f"{len(rows)} rows cannot make {count} clusters; ask for fewer")
    runs = [_once(rows, count, seeds.derive(seed, start, seeds.Stream.CLUSTERS)) for start in range(RESTARTS)]
    return min(runs, key=lambda run: run[0])[1]


def _once(rows: np.ndarray, count: int, seed: int) -> tuple[float, np.ndarray]:
    """The sum of squared distances to the centroids, and these; a cluster that runs empty is left out."""
    # Clusters that are empty, or must be where too few rows differ, are counted with the results: no warnings of them.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        random = np.random.RandomState(seed % 2**32)
        start, _ = scipy.cluster.vq.kmeans2(rows, count, iter=1, minit="++", seed=random)
    centroids, _ = scipy.cluster.vq.kmeans(rows, start)
    return float(np.square(scipy.cluster.vq.vq(rows, centroids)[1], dtype=np.float64).sum()), centroids


def nearest(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The number (N,) of the centroid that each row is nearest to."""
    return scipy.cluster.vq.vq(rows, centroids)[0].astype(np.int64)
