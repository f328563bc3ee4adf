"""kNN classification: the votes of the nearest 1, 2, ..., k neighbours in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.search import CPU, MEMORY, neighbours
from ssltool.reprs.row_set import RowSet

MAX_CELLS = 1 << 22
"""Largest size of a table of votes: queries times classes, or times neighbours."""


def predicted_classes(
    similarity: Tensor, classes: Tensor, count: int, *, weighted: bool = False, temperature: float = 0.07
) -> Tensor:
    """The class with most votes among the nearest 1, 2, ..., k neighbours, (n, k) int64; ties go to the smallest.

    A weighted vote counts exp(similarity / temperature): for ``cos`` that is exp(cos / temperature) of Wu et al.
    (2018) up to a constant, for ``l2`` exp(-distance^2 / (2 temperature)).

    A vote changes the count of one class, so only that class can overtake the leader: this takes n (k + count)
    operations, not n k count.

    Args:
        similarity: (n, k), of the neighbours, nearest first; -inf where there is no neighbour.
        classes: (n, k), of the neighbours, in [0, count).
        count: the number of classes. It is also the prediction where there is no vote.
        weighted: whether votes are weighted.
        temperature: that of the weights.
    """
    weights = (similarity > -torch.inf).double()
    if weighted:
        weights *= torch.exp((similarity - similarity[:, :1]).double() / temperature)
    counts = weights.new_zeros((len(classes), count))
    most, leader = weights.new_zeros(len(classes)), torch.full_like(classes[:, 0], count)
    predicted = torch.empty_like(classes)
    for j, (vote, weight) in enumerate(zip(classes.clamp(min=0).T, weights.T, strict=True)):
        counts.scatter_add_(1, vote[:, None], weight[:, None])
        now = counts.gather(1, vote[:, None])[:, 0]
        ahead = (weight > 0) & ((now > most) | ((now == most) & (vote < leader)))
        most, leader = torch.where(ahead, now, most), torch.where(ahead, vote, leader)
        predicted[:, j] = leader
    return predicted


def predicted_labels(
    similarity: Tensor, rows: Tensor, labels: Tensor, *, weighted: bool = False, temperature: float = 0.07
) -> Tensor:
    """The label with most votes among the nearest 1, 2, ..., k neighbours, (n, k) int64, in bounded memory.

    ``rows`` (n, k) are the neighbours' rows in the bank, whose ``labels`` are (M,); the rest is as in
    ``predicted_classes``. -1 where there is no vote.
    """
    known, classes = labels.unique(return_inverse=True)
    label_of_class = torch.cat([known, known.new_tensor([-1])])
    predicted = torch.empty_like(rows)
    step = max(1, MAX_CELLS // max(len(known), rows.shape[1]))
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        near = classes[rows[part].clamp(min=0)]
        found = predicted_classes(similarity[part], near, len(known), weighted=weighted, temperature=temperature)
        predicted[part] = label_of_class[found]
    return predicted


def knn_predict(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    metric: str = "cos",
    weighted: bool = False,
    temperature: float = 0.07,
    precision: str = "fp32",
    memory: float = MEMORY,
    chunk: int | None = None,
    device: torch.device = CPU,
) -> Tensor:
    """Predicts the label (N,) int64 of each of ``queries`` (N, d) by a vote of the ``k`` nearest rows of ``bank``
    (M, d) with ``labels`` (M,); ties go to the smallest label.

    Unlabelled rows of the bank (label below 0) do not vote. If the bank has fewer than ``k`` labelled rows, all vote.
    ``metric`` is "cos" or "l2"; for the weighted vote see ``predicted_classes``, for the rest ``neighbours``.

    Raises:
        SSLToolError: for different widths, a bank without labels, another number of labels than rows, NaN or infinite
            values, a k below 1, or an unknown metric or precision.
    """
    _check_arguments(k, temperature, metric, precision)
    if labels.shape != bank.shape[:1]:
        raise SSLToolError(f"a bank of {len(bank)} rows has labels of shape {tuple(labels.shape)}; give one per row")
    labels = labels.cpu()
    rows, labels = keep_labelled(RowSet.of(bank), labels)
    search = {"metric": metric, "precision": precision, "memory": memory, "chunk": chunk, "device": device}
    similarity, near = neighbours(rows, queries, k=min(k, len(rows)), **search)  # type: ignore[arg-type]
    return predicted_labels(similarity, near, labels, weighted=weighted, temperature=temperature)[:, -1]


def keep_labelled(rows: RowSet, labels: Tensor) -> tuple[RowSet, Tensor]:
    """The rows with a label of at least 0, and their labels.

    Raises:
        SSLToolError: if there are none.
    """
    keep = labels >= 0
    if not bool(keep.any()):
        raise SSLToolError(
            "the bank has no labelled rows, so nothing can vote; save representations of labelled images"
        )
    return rows.keep(keep), labels[keep]


def _check_arguments(k: int, temperature: float, metric: str, precision: str) -> None:
    if k < 1:
        raise SSLToolError(f"k is {k}; it must be at least 1")
    if not temperature > 0:
        raise SSLToolError(f"temperature is {temperature}; it must be greater than 0")
    for name, value, known in (("metric", metric, ("cos", "l2")), ("precision", precision, ("fp32", "bf16"))):
        if value not in known:
            raise SSLToolError(f"{name} is '{value}'; it must be one of {', '.join(known)}")
