"""Reference implementation of nearest neighbours and their votes: plain loops in double precision."""

from __future__ import annotations

import math
from collections import defaultdict

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, classes: list[int], seed: int = 0) -> torch.Tensor:
    return torch.tensor(classes)[torch.randint(len(classes), (n,), generator=torch.Generator().manual_seed(seed))]


def similarities(bank: torch.Tensor, queries: torch.Tensor, metric: str) -> torch.Tensor:
    """(N, M) float64: cosine - 1, where the cosine of a row of zeros is 0, or minus half the squared distance."""
    bank, queries = bank.double(), queries.double()
    if metric == "l2":
        return torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist").square() / -2
    return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T - 1


def nearest(bank: torch.Tensor, queries: torch.Tensor, metric: str, k: int) -> torch.Tensor:
    """(N, k): indices of rows of the bank, the most similar first; equally similar rows are in order."""
    return similarities(bank, queries, metric).sort(dim=1, descending=True, stable=True).indices[:, :k]


def ranked(bank, targets, queries, *, metric, temperature=0.07, own=None) -> list[list[tuple[float, float, int]]]:
    """For each query, (nearness, weight, label) of every row of the bank, nearest first. ``own`` is the row of the bank
    that each query excludes."""
    lists = []
    for i, query in enumerate(queries.double().tolist()):
        scored = []
        for j, row in enumerate(bank.double().tolist()):
            if own is not None and own[i] == j:
                continue
            if metric == "cos":
                dot = sum(a * b for a, b in zip(query, row, strict=True))
                near = dot / math.hypot(*query) / math.hypot(*row)
                weight = math.exp(near / temperature)
            else:
                near = -math.dist(query, row)
                weight = math.exp(-(near**2) / (2 * temperature))
            scored.append((near, weight, int(targets[j])))
        lists.append(sorted(scored, reverse=True))
    return lists


def winner(nearest: list[tuple[float, float, int]], weighted: bool = False) -> int:
    """The label with the most votes; the smallest if there are several."""
    votes: dict[int, float] = defaultdict(float)
    for _, weight, label in nearest:
        votes[label] += weight if weighted else 1
    return min(votes, key=lambda label: (-votes[label], label))


def expected_labels(bank, targets, queries, *, k, weighted=False, **choice) -> list[int]:
    """The predicted label of each query."""
    return [winner(nearest[:k], weighted) for nearest in ranked(bank, targets, queries, **choice)]


def share_right(predicted: list[int], truth: torch.Tensor) -> float:
    return sum(p == t for p, t in zip(predicted, truth.tolist(), strict=True)) / len(truth)
