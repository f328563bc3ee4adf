"""How well clusters agree with classes: by matching one to one, by majority, by information, and by pairs."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ssltool.files import Record


def score(assignments: np.ndarray, labels: np.ndarray, clusters: int) -> Record:
    """The scores of ``assignments`` (N,) to ``clusters`` clusters, of images with ``labels`` (N,), -1 where there is
    none.

    ``sizes`` (K,) and ``empty``, the number of empty clusters, are of all images. Of the labelled ones, None where
    there are none: ``accuracy``, a share of 1, with each cluster matched to another class by the Hungarian method, so
    that clusters and classes that are left over count as wrong; ``majority``, a share of 1, with each cluster standing
    for its most frequent class, which more clusters can only raise; ``nmi``; ``ari``.
    """
    sizes = np.bincount(assignments, minlength=clusters)
    scores: Record = {"sizes": sizes.tolist(), "empty": int((sizes == 0).sum())}
    known = labels >= 0
    if not known.any():
        return scores | dict.fromkeys(("accuracy", "majority", "nmi", "ari"))
    table = contingency(assignments[known], labels[known])
    return scores | {"accuracy": matched(table), "majority": majority(table), "nmi": nmi(table), "ari": ari(table)}


def contingency(assignments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many images are in each cluster and class, of those that occur, (K, C) int64."""
    clusters, rows = np.unique(assignments, return_inverse=True)
    classes, columns = np.unique(labels, return_inverse=True)
    table = np.zeros((len(clusters), len(classes)), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def matched(table: np.ndarray) -> float:
    """The share of images on the best one-to-one matching of clusters and classes: clustering accuracy, in [0, 1]."""
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def majority(table: np.ndarray) -> float:
    """The share of images in the most frequent class of their cluster: many-to-one accuracy, or purity, in [0, 1]."""
    return float(table.max(axis=1).sum() / table.sum())


def nmi(table: np.ndarray) -> float:
    """Mutual information over the mean of both entropies, in [0, 1]; 1 where there is one cluster and one class."""
    p = table / table.sum()
    entropies = _entropy(p.sum(axis=1)) + _entropy(p.sum(axis=0))
    return float(np.clip(2 * (entropies - _entropy(p)) / entropies, 0.0, 1.0)) if entropies > 0 else 1.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def ari(table: np.ndarray) -> float:
    """The adjusted Rand index of Hubert and Arabie (1985): 1 for equal partitions, 0 on average for random ones, less
    where they agree less than at random."""
    together, rows, columns = (_pairs(counts) for counts in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / max(_pairs(table.sum()), 1.0)
    largest = (rows + columns) / 2
    return (together - expected) / (largest - expected) if largest != expected else 1.0


def _pairs(counts: np.ndarray) -> float:
    """Pairs of images within the groups."""
    counts = np.asarray(counts, np.float64)
    return float((counts * (counts - 1) / 2).sum())
