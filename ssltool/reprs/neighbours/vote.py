"""Labels from neighbours: the votes of the nearest 1, 2, ..., k in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.search import CPU, MEMORY, neighbours
from ssltool.reprs.row_set import RowSet

TALLY = 1 << 22
"""Most numbers that are counted with at a time: queries times classes or neighbours."""


def votes(
    similarity: Tensor, classes: Tensor, count: int, *, weighted: bool = False, temperature: float = 0.07
) -> Tensor:
    """The class (n, k) that the nearest 1, 2, ..., k neighbours elect, as places among ``count`` classes; ties go to
    the smallest. ``similarity`` and ``classes`` (n, k) are those of the neighbours, the nearest first; where similarity
    is -inf there is none, and nobody votes. Where nobody has voted it is ``count``.

    A weighted vote counts exp(similarity / temperature): for ``cos`` that is exp(cos / temperature) of Wu et al.
    (2018) up to a constant, for ``l2`` exp(-distance^2 / (2 temperature)).

    A vote changes one tally, so only its class can overtake the leader: n (k + count) steps, not n k count.
    """
    weights = (similarity > -torch.inf).double()
    if weighted:
        weights *= torch.exp((similarity - similarity[:, :1]).double() / temperature)
    tally = weights.new_zeros((len(classes), count))
    most, leader = weights.new_zeros(len(classes)), torch.full_like(classes[:, 0], count)
    elected = torch.empty_like(classes)
    for j, (vote, weight) in enumerate(zip(classes.clamp(min=0).T, weights.T, strict=True)):
        tally.scatter_add_(1, vote[:, None], weight[:, None])
        now = tally.gather(1, vote[:, None])[:, 0]
        ahead = (weight > 0) & ((now > most) | ((now == most) & (vote < leader)))
        most, leader = torch.where(ahead, now, most), torch.where(ahead, vote, leader)
        elected[:, j] = leader
    return elected


def elect(
    similarity: Tensor, rows: Tensor, labels: Tensor, *, weighted: bool = False, temperature: float = 0.07
) -> Tensor:
    """The label (n, k) int64 that the nearest 1, 2, ..., k of the neighbours ``rows`` (n, k) elect by their ``labels``
    (M,), in bounded memory; -1 where there are none."""
    known, classes = labels.unique(return_inverse=True)
    names = torch.cat([known, known.new_tensor([-1])])
    elected = torch.empty_like(rows)
    step = max(1, TALLY // max(len(known), rows.shape[1]))
    for low in range(0, len(rows), step):
        part = slice(low, low + step)
        near = classes[rows[part].clamp(min=0)]
        elected[part] = names[votes(similarity[part], near, len(known), weighted=weighted, temperature=temperature)]
    return elected


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
    """The label (N,) int64 that the ``k`` nearest of ``bank`` (M, d) with ``labels`` (M,) elect for each of
    ``queries`` (N, d); ties go to the smallest label.

    Unlabelled rows of the bank (label below 0) do not vote. Of a bank with fewer than ``k`` labelled rows all vote.
    ``metric`` is "cos" or "l2"; a weighted vote counts exp(similarity / temperature), as ``votes`` says. The rest is as
    in ``neighbours``.

    Raises:
        SSLToolError: for widths that differ, a bank without labels, labels that are not one a row, NaN or infinite
            values, a k below 1, or a metric or precision that is not known.
    """
    _refuse(k, temperature, metric, precision)
    if labels.shape != bank.shape[:1]:
        raise SSLToolError(f"a bank of {len(bank)} rows has labels of shape {tuple(labels.shape)}; give one a row")
    labels = labels.cpu()
    rows, labels = labelled(RowSet.of(bank), labels)
    how = {"metric": metric, "precision": precision, "memory": memory, "chunk": chunk, "device": device}
    similarity, near = neighbours(rows, queries, k=min(k, len(rows)), **how)  # type: ignore[arg-type]
    return elect(similarity, near, labels, weighted=weighted, temperature=temperature)[:, -1]


def labelled(rows: RowSet, labels: Tensor) -> tuple[RowSet, Tensor]:
    """The rows that have a label, and their labels.

    Raises:
        SSLToolError: if there are none.
    """
    keep = labels >= 0
    if not bool(keep.any()):
        raise SSLToolError(
            "the bank has no labelled rows, so nothing can vote; save representations of labelled images"
        )
    return rows.keep(keep), labels[keep]


def _refuse(k: int, temperature: float, metric: str, precision: str) -> None:
    """What the command line's settings check by themselves."""
    if k < 1:
        raise SSLToolError(f"k is {k}; it must be at least 1")
    if not temperature > 0:
        raise SSLToolError(f"temperature is {temperature}; it must be greater than 0")
    for name, value, known in (("metric", metric, ("cos", "l2")), ("precision", precision, ("fp32", "bf16"))):
        if value not in known:
            raise SSLToolError(f"{name} is '{value}'; it must be one of {', '.join(known)}")
