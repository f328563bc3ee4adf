"""The stage behind ``ssltool knn``: files in, accuracies out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssltool.config import KnnConfig
from ssltool.data.labels import hold_out
from ssltool.errors import SSLToolError
from ssltool.files import write_json
from ssltool.reprs.group import ONE_SET, Saved, of_one_set, refuse_mix
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import elect, labelled
from ssltool.reprs.row_set import RowSet
from ssltool.settings import flag
from ssltool.stages.knn import paper_files
from ssltool.stages.knn.accuracy import confusion, of_classes, share
from ssltool.training.device import pick_device
from ssltool.training.progress import Progress

LONG = 2 * 10**10
"""Comparisons beyond which a search says how far it is."""


@dataclass(frozen=True)
class Found:
    """The nearest ``rows`` (N, k) of a bank to some queries, what they ``elect`` (N, k), and how many of the labelled
    queries are ``right`` (k,) by the nearest 1, 2, ..., k."""

    similarity: Tensor
    rows: Tensor
    elected: Tensor
    right: Tensor

    def column(self, k: int) -> int:
        """Where the ``k`` nearest stand: of fewer rows that can vote all do."""
        return min(k, len(self.right)) - 1

    def right_of(self, k: int) -> int:
        """How many queries the ``k`` nearest classify rightly."""
        return int(self.right[self.column(k)])

    def best(self, ks: tuple[int, ...]) -> int:
        """The k with most queries right, the smallest of several."""
        return max(ks, key=lambda k: (self.right_of(k), -k))


def run(config: KnnConfig) -> dict[str, Any]:
    """The stage: reads the files and returns ``accuracy``, ``interval``, ``balanced_accuracy`` and ``k``, what was
    compared and how, and ``accuracies``, one for each k that was asked for.

    Where several k were asked for and none was to be chosen, the first four are None.

    Raises:
        SSLToolError: for settings that do not go together, files that cannot be read or compared, a bank without
            labels or whose rows cannot vote, and queries without labels.
    """
    device = pick_device(config)
    config.check()
    bank, queries = (Saved.open(name) for name in _names(config))
    _refuse_overwriting(config, bank, queries)
    refuse_mix(bank, queries)
    voters, labels = labelled(bank.rows, bank.targets)
    if not bool((queries.targets >= 0).any()):
        raise SSLToolError("the queries have no labels, so there is no accuracy to measure")
    if config.neighbours is None:  # which has those of unlabelled rows, too
        queries = queries.keep(queries.targets >= 0)
    numbers = bank.index[bank.targets >= 0]
    same = of_one_set(bank, queries)
    most = len(voters) - same
    if most < 1:
        raise SSLToolError(f"{bank.name} has one labelled row, and the query is that row; nothing can vote")
    k_max = min(max(config.ks) if config.folder is None else max(*config.ks, paper_files.MAX_K), most)
    held = _held_out(config, voters, labels, device) if config.select_k == "holdout" else None
    skip = (numbers, queries.index) if same else None
    found = _classify(config, (voters, labels), (queries.rows, queries.targets), k_max, skip, device)
    k = _chosen(config, found, held)
    document = _document(config, found, held, k, (bank, labels), queries)
    own = int(torch.isin(queries.index, numbers).sum()) if same else 0
    document |= {"self_excluded": own > 0, "excluded": own, "notes": _notes(config, found, own, most)}
    if config.neighbours is not None:
        _save_neighbours(config, found, (bank, voters, numbers), queries, document)
    if config.folder is not None and k is not None:
        paper_files.write(
            config, found.similarity, voters.number(found.rows), _shares(found, document["query_size"]), found.column(k)
        )
    if config.out is not None:
        write_json(config.out, document)
    for name in ("per_class", "confusion"):
        if not getattr(config, name):
            document.pop(name, None)
    return document


def _names(config: KnnConfig) -> tuple[str, str]:
    """The files of the bank and of the queries."""
    if config.folder is not None:
        return str(Path(config.folder) / str(config.source)), str(Path(config.folder) / str(config.target))
    return str(config.bank), str(config.queries)


def _refuse_overwriting(config: KnnConfig, *inputs: Saved) -> None:
    read = {path.resolve() for one in inputs for path in one.paths}
    for name in ("out", "neighbours"):
        path = getattr(config, name)
        if path is not None and Path(path).resolve() in read:
            raise SSLToolError(f"{flag(name)} {path} is what is read; give another name")


def _held_out(config: KnnConfig, voters: RowSet, labels: Tensor, device: torch.device) -> Found:
    """How held-out rows of the bank are classified by the others."""
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.from_numpy(hold_out(labels.numpy(), config.holdout, config.seed)[1])] = True
    rest = (voters.keep(~held), labels[~held])
    return _classify(config, rest, (voters.keep(held), labels[held]), min(max(config.ks), len(rest[0])), None, device)


def _classify(
    config: KnnConfig,
    bank: tuple[RowSet, Tensor],
    queries: tuple[RowSet, Tensor],
    k: int,
    skip: tuple[Tensor, Tensor] | None,
    device: torch.device,
) -> Found:
    """Searches and votes; long searches say how far they are."""
    (rows, labels), (asked, truth) = bank, queries
    steps = 100
    total, done = len(rows) * len(asked), 0
    progress = Progress("neighbours", steps, visible=total > LONG)

    def each(compared: int) -> None:
        nonlocal done
        done += compared
        while progress.done < steps * done // total:
            progress.update(len(asked) // steps)

    with contextlib.closing(progress):
        similarity, near = neighbours(
            rows,
            asked,
            k=k,
            metric=config.metric,
            skip=skip,
            device=device,
            precision=config.precision,
            memory=config.memory,
            chunk=config.chunk,
            each=each,
        )
    elected = elect(similarity, near, labels, weighted=config.weighted, temperature=config.temperature)
    return Found(similarity, near, elected, ((elected == truth[:, None]) & (truth >= 0)[:, None]).sum(dim=0))


def _chosen(config: KnnConfig, found: Found, held: Found | None) -> int | None:
    if held is not None:
        return held.best(config.ks)
    if config.select_k == "eval":
        return found.best(config.ks)
    return config.ks[0] if len(config.ks) == 1 else None


def _shares(found: Found, count: int) -> list[float]:
    return [int(right) / count for right in found.right]


def _document(
    config: KnnConfig, found: Found, held: Found | None, k: int | None, bank: tuple[Saved, Tensor], queries: Saved
) -> dict[str, Any]:
    """What the command prints, with the classes and the confusion of the chosen k."""
    scored = queries.targets >= 0
    count, truth = int(scored.sum()), queries.targets[scored]
    accuracies = [{"k": one} | share(found.right_of(one), count) for one in config.ks]
    if held is not None:
        for one in accuracies:
            one["held_out_accuracy"] = held.right_of(one["k"]) / len(held.elected)
    document: dict[str, Any] = {"accuracy": None, "interval": None, "balanced_accuracy": None, "k": k}
    if k is not None:
        predicted = found.elected[scored, found.column(k)]
        classes = of_classes(predicted, truth, bank[1])
        document |= share(found.right_of(k), count)
        document["balanced_accuracy"] = sum(one["accuracy"] for one in classes) / len(classes)
        document |= {"per_class": classes, "confusion": confusion(predicted, truth)}
    return document | {
        "selected_on": {"holdout": "held-out rows of the bank", "eval": "the evaluation labels"}.get(
            str(config.select_k)
        ),
        "accuracies": accuracies,
        "metric": config.metric,
        "weighted": config.weighted,
        "temperature": config.temperature if config.weighted else None,
        "precision": config.precision,
        "classes": len(bank[1].unique()),
        "bank": bank[0].name,
        "bank_size": len(bank[1]),
        "queries": queries.name,
        "query_size": count,
    }


def _notes(config: KnnConfig, found: Found, own: int, most: int) -> list[str]:
    """What a reader of the accuracy should know."""
    notes = []
    if own:
        notes.append(f"{own:,} of the queries are in the bank; none votes on itself")
    if max(config.ks) > most:
        notes.append(f"{most:,} rows can vote; where k is larger, all do")
    copies = int((found.similarity[:, 0] == 0).sum())
    if copies:
        what = "direction" if config.metric == "cos" else "place"
        notes.append(f"{copies:,} of the queries are in exactly the {what} of a row of the bank: copies, or collapse")
    if config.select_k == "eval":
        notes.append("k is tuned on the evaluation set: the accuracy flatters; --select-k holdout does not")
    return notes


def _save_neighbours(
    config: KnnConfig, found: Found, bank: tuple[Saved, RowSet, Tensor], queries: Saved, document: dict[str, Any]
) -> None:
    saved, voters, numbers = bank
    k = max(config.ks)
    near = found.rows[:, :k]
    meta = {key: queries.meta.get(key) for key in ("checkpoint_hash", "layer", *ONE_SET)}
    meta |= {f"bank_{key}": saved.meta.get(key) for key in ONE_SET}
    meta |= {key: document[key] for key in ("metric", "precision", "self_excluded")}
    meta |= {"k": k, "bank": [str(path) for path in saved.paths], "queries": [str(path) for path in queries.paths]}
    Neighbours(
        indices=voters.number(near),
        distances=paper_files.distances(found.similarity[:, :k], config.metric),
        index=queries.index,
        bank_index=torch.where(near < 0, -1, numbers[near.clamp(min=0)]),
        meta=meta,
    ).save(str(config.neighbours))
