"""k-means on representations, a baseline for SCAN."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.cluster.vq

from ssltool import seeds
from ssltool.errors import SSLToolError

RESTARTS = 10
"""Number of initialisations; the result with the smallest inertia is kept."""


def kmeans(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The centroids (K, d) of K = ``count`` clusters of ``rows`` (N, d); deterministic in the seed.

    Initialisation by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's algorithm; the best of ``RESTARTS`` runs.

    Raises:
        SSLToolError: if there are fewer rows than clusters.
    """
    if len(rows) < count:
        raise SSLToolError(f"{len(rows)} rows are too few for {count} clusters; lower --clusters")
    runs = [_single_run(rows, count, seeds.derive(seed, start, seeds.Stream.CLUSTERS)) for start in range(RESTARTS)]
    return min(runs, key=lambda run: run[0])[1]


def _single_run(rows: np.ndarray, count: int, seed: int) -> tuple[float, np.ndarray]:
    """The inertia and the centroids of one initialisation; clusters that become empty are dropped."""
    # The scores report empty clusters, so scipy's warnings about them are not needed.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)
        random = np.random.RandomState(seed % 2**32)
        start, _ = scipy.cluster.vq.kmeans2(rows, count, iter=1, minit="++", seed=random)
    centroids, _ = scipy.cluster.vq.kmeans(rows, start)
    return float(np.square(scipy.cluster.vq.vq(rows, centroids)[1], dtype=np.float64).sum()), centroids


def nearest_centroid(rows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index (N,) of the nearest centroid of each row, int64."""
    return scipy.cluster.vq.vq(rows, centroids)[0].astype(np.int64)
