"""The k-nearest-neighbour stage: labelled representations vote on the classes of others.

Neighbours are found in chunks of queries and of the bank, so memory is bounded by the chunk whatever the sizes.
Votes are counted per class of the bank; ties go to the smallest label, as in the collapse paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.config import KnnConfig
from ssltool.errors import SSLToolError
from ssltool.files import Representations, write_atomically, write_json
from ssltool.numeric import widest
from ssltool.training.device import pick_device

CPU = torch.device("cpu")

BANK_CHUNK = 16384
"""Rows of the bank that one product of matrices compares with a chunk of queries."""

PAPER_MAX_K = 255
"""Largest k of the paper's ``compute_nn.py``."""


def neighbours(
    bank: Tensor,
    queries: Tensor,
    *,
    k: int,
    metric: str = "cos",
    chunk: int = 1024,
    skip: tuple[Tensor, Tensor] | None = None,
    device: torch.device = CPU,
) -> tuple[Tensor, Tensor]:
    """The ``k`` nearest rows of ``bank`` (M, d) to each of ``queries`` (N, d), as (similarity, row), each (N, k) on the
    CPU, most similar first.

    Similarity is minus half the squared Euclidean distance: of the rows as they are for ``l2``, of the rows at length 1
    for ``cos``, where it is cosine - 1. The mean of the bank is taken out first, so that the small differences of
    collapsed representations survive float32. ``skip`` = (bank ids (M,), query ids (N,)) leaves out a bank row whose id
    is the query's own. One block of the bank and one chunk of queries are on ``device`` at a time.
    """
    unit = metric == "cos"
    blocks = [slice(low, low + BANK_CHUNK) for low in range(0, len(bank), BANK_CHUNK)]
    parts = [slice(low, low + chunk) for low in range(0, len(queries), chunk)]
    origin = torch.stack([_wide(bank[block].to(device), unit).sum(dim=0) for block in blocks]).sum(dim=0) / len(bank)
    best = torch.full((len(queries), k), -torch.inf)
    rows = torch.full((len(queries), k), -1)
    for block in blocks:
        near, near_norm = _centred(bank[block].to(device), unit, origin)
        for part in parts:
            query, query_norm = _centred(queries[part].to(device), unit, origin)
            similarity = torch.addmm(-near_norm, query, near.T).sub_(query_norm[:, None]).clamp_(max=0.0)
            if skip is not None:
                own = skip[0][block] == skip[1][part, None]
                similarity.masked_fill_(own.to(device), -torch.inf)
            found, at = (x.cpu() for x in similarity.topk(min(k, similarity.shape[1]), dim=1))
            best[part], order = torch.cat([best[part], found], dim=1).topk(k, dim=1)
            rows[part] = torch.cat([rows[part], at + block.start], dim=1).gather(1, order)
    return best, rows


def _wide(x: Tensor, unit: bool) -> Tensor:
    x = x.to(widest(x.device))
    return torch.nn.functional.normalize(x, dim=1) if unit else x


def _centred(x: Tensor, unit: bool, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Rows from ``origin`` in float32, and half their squared lengths."""
    x = (_wide(x, unit) - origin).float()
    return x, x.square().sum(dim=1) / 2


def votes(
    similarity: Tensor, classes: Tensor, count: int, *, weighted: bool = False, temperature: float = 0.07
) -> Tensor:
    """The class (n, k) that the nearest 1, 2, ..., k neighbours elect, as places among ``count`` classes.

    A weighted vote counts exp(similarity / temperature): for ``cos`` that is exp(cos / temperature) of Wu et al.
    (2018) up to a constant, for ``l2`` exp(-distance^2 / (2 temperature)).
    """
    weights = torch.ones_like(similarity)
    if weighted:
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
    tally = similarity.new_zeros((len(similarity), count))
    elected = []
    for j in range(similarity.shape[1]):
        tally.scatter_add_(1, classes[:, j : j + 1], weights[:, j : j + 1])
        elected.append(tally.argmax(dim=1))
    return torch.stack(elected, dim=1)


def knn_predict(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    metric: str = "cos",
    weighted: bool = False,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """The label (N,) int64 that the ``k`` nearest of ``bank`` (M, d) with ``labels`` (M,) elect for each of
    ``queries`` (N, d).

    Unlabelled rows of the bank (label below 0) do not vote.

    Raises:
        SSLToolError: for widths that differ, a bank without labels, or k larger than the labelled bank.
    """
    bank, labels, _ = _labelled(bank, labels)
    _check(bank, queries, k)
    known, classes = labels.unique(return_inverse=True)
    similarity, rows = neighbours(bank, queries, k=k, metric=metric, chunk=chunk)
    elected = votes(similarity, classes[rows], len(known), weighted=weighted, temperature=temperature)
    return known[elected[:, -1]]


def _labelled(bank: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    keep = labels >= 0
    rows = keep.nonzero().flatten()
    if not len(rows):
        raise SSLToolError(
            "the bank has no labelled rows, so nothing can vote; save representations of labelled images"
        )
    return (bank, labels, rows) if bool(keep.all()) else (bank[keep], labels[keep], rows)


def _refuse_mix(bank: dict[str, Any], queries: dict[str, Any]) -> None:
    """Files that say where they come from must come from one network."""
    for key in ("checkpoint_hash", "layer", "random", "image_size"):
        if key in bank and key in queries and bank[key] != queries[key]:
            raise SSLToolError(
                f"bank and queries come from different networks: {key} is {bank[key]} and {queries[key]}; "
                "save both with one checkpoint and --layer"
            )


def _check(bank: Tensor, queries: Tensor, k: int, *, same: bool = False) -> None:
    if bank.shape[1] != queries.shape[1]:
        raise SSLToolError(
            f"the bank's representations are {bank.shape[1]} wide and the queries' {queries.shape[1]}; "
            "save both with the same network and --layer"
        )
    voters = len(bank) - same  # in one file, a row does not vote on itself
    if k > voters:
        raise SSLToolError(f"-k {k} is more than the {voters} labelled rows of the bank that can vote; lower it")


def run(config: KnnConfig) -> dict[str, Any]:
    """The stage: reads both files and returns accuracy, k, metric, weighted, and what was compared.

    With ``--folder`` it also writes the paper's three files there.

    Raises:
        SSLToolError: as ``knn_predict``, and for queries without labels.
    """
    device = pick_device(config)
    if config.folder is not None:
        if config.bank is not None or not (config.source and config.target):
            raise SSLToolError("--folder goes with --source and --target, and instead of two file names")
        paths = [Path(config.folder) / config.source, Path(config.folder) / config.target]
    elif config.bank is None or config.queries is None or config.source or config.target:
        raise SSLToolError("name two files, the bank and the queries, or --folder with --source and --target")
    else:
        paths = [Path(config.bank), Path(config.queries)]
    if config.weighted is False and config.temperature != KnnConfig.temperature:
        raise SSLToolError("--temperature does nothing without --weighted; leave one of them out")
    bank, queries = (Representations.load(path) for path in paths)
    _refuse_mix(bank.meta, queries.meta)
    same = paths[0].resolve() == paths[1].resolve()
    result = _evaluate(config, bank, queries, same, device)
    if config.folder is not None:
        _write_paper_files(config, result)
    return {
        "accuracy": float(result["correct"][config.k - 1]),
        "k": config.k,
        "metric": config.metric,
        "weighted": config.weighted,
        "temperature": config.temperature if config.weighted else None,
        "classes": result["classes"],
        "bank": str(paths[0]),
        "bank_size": result["bank_size"],
        "queries": str(paths[1]),
        "query_size": result["query_size"],
        "self_excluded": same,
    }


def _evaluate(
    config: KnnConfig, bank: Representations, queries: Representations, same: bool, device: torch.device
) -> dict[str, Any]:
    rows, labels, places = _labelled(bank.representations, bank.targets)
    _check(rows, queries.representations, config.k, same=same)
    known, classes = labels.unique(return_inverse=True)
    scored = queries.targets >= 0
    if not bool(scored.any()):
        raise SSLToolError("the queries have no labels, so there is no accuracy to measure")
    ids = (bank.index[places], queries.index[scored]) if same else None
    truth = queries.targets[scored]
    k = config.k if config.folder is None else max(config.k, min(PAPER_MAX_K, len(rows) - same))
    similarity, nearest = neighbours(
        rows, queries.representations[scored], k=k, metric=config.metric, chunk=config.chunk, skip=ids, device=device
    )
    correct = torch.zeros(k, dtype=torch.float64)
    for low in range(0, len(truth), config.chunk):
        part = slice(low, low + config.chunk)
        elected = votes(
            similarity[part],
            classes[nearest[part]],
            len(known),
            weighted=config.weighted,
            temperature=config.temperature,
        )
        correct += (known[elected] == truth[part, None]).sum(dim=0)
    return {
        "correct": correct / len(truth),
        "similarity": similarity,
        "indices": places[nearest],
        "classes": len(known),
        "bank_size": len(rows),
        "query_size": len(truth),
    }


def _write_paper_files(config: KnnConfig, result: dict[str, Any]) -> None:
    """``knn_stats_*.pt``, ``knn_accs_*.pt`` and ``knn_summary_*.json`` of the paper's script, whose ``best_k`` is
    chosen on the evaluation labels."""
    folder, accuracies = Path(str(config.folder)), result["correct"]
    names = "_".join([config.metric, str(config.source).split("_")[0], str(config.target).split("_")[0]])
    similarity = result["similarity"]
    distances = similarity.neg() if config.metric == "cos" else (-2 * similarity).sqrt()
    stats = {"distances": distances, "indices": result["indices"]}
    write_atomically(folder / f"knn_stats_{names}.pt", lambda stream: torch.save(stats, stream))
    write_atomically(folder / f"knn_accs_{names}.pt", lambda stream: torch.save(accuracies, stream))
    best = int(accuracies.argmax())
    write_json(
        folder / f"knn_summary_{names}.json",
        {
            "acc": float(accuracies[best]),
            "best_k": best + 1,
            "best_k_chosen_on": "the evaluation labels",
            "fixed_k": config.k,
            "fixed_k_acc": float(accuracies[config.k - 1]),
        },
    )
