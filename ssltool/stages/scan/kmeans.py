"""k-means on representations, a baseline for SCAN."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.cluster.vq
import torch

from ssltool import seeds
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.errors import SSLToolError
from ssltool.training import distributed

RESTARTS = 10
"""Number of initialisations; the result with the smallest inertia is kept."""


def kmeans(rows: np.ndarray, count: int, seed: int, shard: Shard = ONE_PROCESS) -> np.ndarray:
    """The centroids (K, d) of K = ``count`` clusters of ``rows`` (N, d); deterministic in the seed.

    Initialisation by k-means++ (Arthur and Vassilvitskii 2007), then Lloyd's algorithm; the best of ``RESTARTS`` runs,
    which the ranks share.

    Raises:
        SSLToolError: if there are fewer rows than clusters.
    """
    if len(rows) < count:
        raise SSLToolError(f"{len(rows)} rows are too few for {count} clusters; lower --clusters")
    inertias, found = torch.zeros(RESTARTS, dtype=torch.float64), {}
    for start in range(shard.rank, RESTARTS, shard.world):
        inertias[start], found[start] = _single_run(rows, count, seeds.derive(seed, start, seeds.Stream.CLUSTERS))
    distributed.all_reduce_sum(inertias)
    best = min(range(RESTARTS), key=inertias.tolist().__getitem__)
    size = distributed.all_reduce_max(len(found.get(best, ())))
    centroids = torch.zeros(size, rows.shape[1], dtype=torch.from_numpy(rows).dtype)
    if best in found:
        centroids.copy_(torch.from_numpy(found[best]))
    distributed.all_reduce_sum(centroids)  # the others have zeros
    return centroids.numpy()


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
