"""Nearest neighbours and their votes by plain loops in double precision, which anyone can read."""

from __future__ import annotations

import math
from collections import defaultdict

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, classes: list[int], seed: int = 0) -> torch.Tensor:
    return torch.tensor(classes)[torch.randint(len(classes), (n,), generator=torch.Generator().manual_seed(seed))]


def similarities(bank: torch.Tensor, queries: torch.Tensor, metric: str) -> torch.Tensor:
    """(N, M) float64: cosine - 1, 0 being the cosine of a row of zeros, or minus half the squared distance."""
    bank, queries = bank.double(), queries.double()
    if metric == "l2":
        return torch.cdist(queries, bank, compute_mode="donot_use_mm_for_euclid_dist").square() / -2
    return torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(bank).T - 1


def nearest(bank: torch.Tensor, queries: torch.Tensor, metric: str, k: int) -> torch.Tensor:
    """(N, k): the rows of the bank, the most similar first, those of one similarity in order."""
    return similarities(bank, queries, metric).sort(dim=1, descending=True, stable=True).indices[:, :k]


def ranked(bank, targets, queries, *, metric, temperature=0.07, own=None) -> list[list[tuple[float, float, int]]]:
    """For each query (nearness, weight, label) of every bank row, nearest first, by plain loops in double precision;
    ``own`` names the bank row that a query leaves out."""
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


def elected(nearest: list[tuple[float, float, int]], weighted: bool = False) -> int:
    """The label with most votes, the smallest of several."""
    votes: dict[int, float] = defaultdict(float)
    for _, weight, label in nearest:
        votes[label] += weight if weighted else 1
    return min(votes, key=lambda label: (-votes[label], label))


def by_hand(bank, targets, queries, *, k, weighted=False, **choice) -> list[int]:
    """Each query's label."""
    return [elected(nearest[:k], weighted) for nearest in ranked(bank, targets, queries, **choice)]


def share_right(predicted: list[int], truth: torch.Tensor) -> float:
    return sum(p == t for p, t in zip(predicted, truth.tolist(), strict=True)) / len(truth)
