"""Agreement of clusters with classes: accuracy by matching and by majority, NMI and ARI."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ssltool.settings import Record


def score(assignments: np.ndarray, labels: np.ndarray, clusters: int) -> Record:
    """The scores of ``assignments`` (N,) to K = ``clusters`` clusters, given ``labels`` (N,), -1 for unlabelled images.

    ``sizes`` (K,) and the number of ``empty`` clusters count all images. The others are computed on the labelled
    images, None if there are none:

    - ``accuracy`` in [0, 1]: each cluster predicts a class of its own, matched by the Hungarian method; images of
      unmatched clusters and classes count as errors.
    - ``majority`` in [0, 1]: each cluster predicts its most frequent class; never lower with more clusters.
    - ``nmi`` and ``ari``: see the functions.
    """
    sizes = np.bincount(assignments, minlength=clusters)
    scores: Record = {"sizes": sizes.tolist(), "empty": int((sizes == 0).sum())}
    known = labels >= 0
    if not known.any():
        return scores | dict.fromkeys(("accuracy", "majority", "nmi", "ari"))
    table = contingency(assignments[known], labels[known])
    return scores | {"accuracy": matched(table), "majority": majority(table), "nmi": nmi(table), "ari": ari(table)}


def contingency(assignments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The number of images in each cluster and class that occur, (K, C) int64."""
    clusters, rows = np.unique(assignments, return_inverse=True)
    classes, columns = np.unique(labels, return_inverse=True)
    table = np.zeros((len(clusters), len(classes)), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def matched(table: np.ndarray) -> float:
    """Clustering accuracy in [0, 1]: the best one-to-one matching of clusters and classes."""
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def majority(table: np.ndarray) -> float:
    """Purity, or many-to-one accuracy, in [0, 1]: the fraction of images in the majority class of their cluster."""
    return float(table.max(axis=1).sum() / table.sum())


def nmi(table: np.ndarray) -> float:
    """Normalised mutual information, by the mean of both entropies, in [0, 1]; 1 for one cluster and one class."""
    p = table / table.sum()
    entropies = _entropy(p.sum(axis=1)) + _entropy(p.sum(axis=0))
    return float(np.clip(2 * (entropies - _entropy(p)) / entropies, 0.0, 1.0)) if entropies > 0 else 1.0


def _entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def ari(table: np.ndarray) -> float:
    """The adjusted Rand index of Hubert and Arabie (1985): 1 for equal partitions, 0 in expectation for random ones,
    negative for less agreement than random."""
    pairs, rows, columns = (_pairs(counts) for counts in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / max(_pairs(table.sum()), 1.0)
    largest = (rows + columns) / 2
    return (pairs - expected) / (largest - expected) if largest != expected else 1.0


def _pairs(counts: np.ndarray) -> float:
    """The number of pairs of images within groups of these sizes."""
    counts = np.asarray(counts, np.float64)
    return float((counts * (counts - 1) / 2).sum())
