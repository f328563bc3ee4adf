"""The knn stage: reads two files of representations and computes accuracies."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssltool.config import KnnConfig
from ssltool.data.labels import hold_out
from ssltool.errors import SSLToolError
from ssltool.files.overwriting import refuse_overwriting
from ssltool.files.writing import write_json
from ssltool.reprs.class_names import Matched, match_classes
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import keep_labelled, predicted_labels
from ssltool.reprs.representation_set import SPLIT_KEYS, RepresentationSet, check_same_network, transform_notes
from ssltool.reprs.row_set import RowSet
from ssltool.reprs.same_images import ImageIds, image_ids
from ssltool.settings import Record, flag
from ssltool.stages.knn import paper_files
from ssltool.stages.knn.accuracy import accuracy_with_interval, confusion_matrix, per_class_accuracy
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.progress import Progress
from ssltool.training.ranks import Ranks

IMAGES_KEYS = (*SPLIT_KEYS, "fingerprint")
"""Metadata of the images that the file of neighbours keeps."""

LONG = 2 * 10**10
"""Number of comparisons above which a search shows its progress."""


@dataclass(frozen=True)
class Classification:
    """The neighbours and predictions of some queries.

    Attributes:
        similarity: (N, k), to the neighbours.
        rows: (N, k), the neighbours, nearest first.
        predicted: (N, k), the labels that the nearest 1, 2, ..., k predict.
        correct: (k,), the numbers of labelled queries whose prediction is correct.
    """

    similarity: Tensor
    rows: Tensor
    predicted: Tensor
    correct: Tensor

    def column(self, k: int) -> int:
        """The column of ``k`` neighbours; the last one if fewer rows can vote."""
        return min(k, len(self.correct)) - 1

    def correct_at(self, k: int) -> int:
        """The number of correct predictions with ``k`` neighbours."""
        return int(self.correct[self.column(k)])

    def best(self, ks: tuple[int, ...]) -> int:
        """The smallest k with most correct predictions."""
        return max(ks, key=lambda k: (self.correct_at(k), -k))


def run(config: KnnConfig) -> Record:
    """The stage: classifies the labelled queries by the labelled rows of the bank.

    Returns:
        {"accuracy", "interval", "balanced_accuracy", "k", "accuracies": one for each requested k, ...}. The first four
        are None if several k were requested and none is to be chosen.

    Raises:
        SSLToolError: for incompatible settings, files that cannot be read or compared, a bank in which no row can vote,
            and queries without labels.
    """
    config.check()
    with distributed.measuring_ranks() as ranks:
        with ranks.same_errors():
            device = pick_device(config, local_rank=distributed.local_rank())
        bank, queries = (RepresentationSet.open(name, config.pool, ranks) for name in _file_names(config))
        with ranks.same_errors():
            inputs = _matched(config, bank, queries)
        held = _held_out(config, inputs, device, ranks) if config.select_k == "holdout" else None
        near = _search(config, inputs.voters, inputs.queries.rows, inputs.k_max, device, ranks, skip=inputs.skip)
        return ranks.from_main(lambda: _result(config, inputs, near, held))


@dataclass(frozen=True)
class _Inputs:
    """What is read: the ``bank`` with its ``voters``, the labelled rows, and their ``labels``, the ``queries`` with
    their labels in the numbers of ``classes``, the images of both that are the same (``ids``), and how many voters each
    query has (``available``)."""

    bank: RepresentationSet
    voters: RowSet
    labels: Tensor
    queries: RepresentationSet
    classes: Matched
    ids: ImageIds | None
    available: Tensor
    k_max: int

    @property
    def skip(self) -> tuple[Tensor, Tensor] | None:
        """Ids of the voters and of the queries, if an image is in both."""
        if self.ids is None or not bool(self.ids.shared.any()):
            return None
        return self.ids.bank[self.bank.targets >= 0], self.ids.queries


def _matched(config: KnnConfig, bank: RepresentationSet, queries: RepresentationSet) -> _Inputs:
    """What is compared of the rows of both files; raises as ``run``."""
    _check_outputs(config, bank, queries)
    check_same_network(bank, queries)
    for one, then in ((bank, "nothing can vote"), (queries, "there is no accuracy to measure")):
        if not bool((one.targets >= 0).any()):
            raise SSLToolError(f"{one.name} has no labels, so {then}: {one.why_unlabelled}")
    voters, labels = keep_labelled(bank.rows, bank.targets)
    classes = match_classes(bank.labels, queries.labels, config.labels_by)
    queries = dataclasses.replace(queries, targets=classes.numbers)
    if config.neighbours is None:  # the file has the neighbours of unlabelled queries, too
        queries = queries.keep(queries.targets >= 0)
    ids = image_ids(bank, queries, config.same_images)
    available = torch.full((len(queries),), len(voters))
    if ids is not None:
        available -= _occurrences(ids.queries, ids.bank[bank.targets >= 0])
    most = int(available.max())
    if most < 1:
        raise SSLToolError(
            f"the labelled rows of {bank.name} are of the same image as the query: no row can vote; "
            "name a bank with more rows"
        )
    k_max = min(max(config.ks) if config.folder is None else max(*config.ks, paper_files.MAX_K), most)
    return _Inputs(bank, voters, labels, queries, classes, ids, available, k_max)


def _occurrences(of: Tensor, among: Tensor) -> Tensor:
    """How often each number of ``of`` (n,) occurs in ``among``."""
    numbers, counts = among.unique(return_counts=True)
    place = torch.searchsorted(numbers, of).clamp(max=len(numbers) - 1)
    return torch.where(numbers[place] == of, counts[place], 0)


def _result(config: KnnConfig, inputs: _Inputs, near: tuple[Tensor, Tensor], held: _HeldOut | None) -> Record:
    """Lets the neighbours vote, writes the files and returns the document."""
    bank, queries, ids, skip = inputs.bank, inputs.queries, inputs.ids, inputs.skip
    found = _vote(config, near, inputs.labels, queries.targets)
    tried = None if held is None else _vote(config, held.near, held.labels, held.truth)
    k = _choose_k(config, found, tried)
    document = _document(config, found, tried, k, inputs)
    own = 0 if skip is None else int(torch.isin(skip[1], skip[0]).sum())
    transforms = transform_notes(bank.meta, queries.meta)
    notes = [*inputs.classes.notes, *transforms]
    notes += _notes(config, found, own, "" if ids is None else ids.why, inputs.available)
    document |= {"self_excluded": own > 0, "excluded": own, "notes": notes}
    if config.neighbours is not None:
        _save_neighbours(config, found, inputs, document)
    if config.folder is not None and k is not None:
        rows = inputs.voters.index_of(found.rows)
        accuracies = _accuracies(found, document["query_size"])
        paper_files.write(config, found.similarity, rows, accuracies, found.column(k))
    if config.out is not None:
        write_json(config.out, document)
    for name in ("per_class", "confusion"):
        if not getattr(config, name):
            document.pop(name, None)
    return document


def _file_names(config: KnnConfig) -> tuple[str, str]:
    """The files of the bank and of the queries."""
    if config.folder is not None:
        return str(Path(config.folder) / str(config.source)), str(Path(config.folder) / str(config.target))
    return str(config.bank), str(config.queries)


def _check_outputs(config: KnnConfig, *inputs: RepresentationSet) -> None:
    """Refuses outputs that are files of the inputs, such as those of ranks."""
    outputs = {flag(name): getattr(config, name) for name in ("out", "neighbours") if getattr(config, name)}
    refuse_overwriting(outputs, [str(path) for one in inputs for path in one.paths])


@dataclass(frozen=True)
class _HeldOut:
    """Held-out rows of the bank: their ``truth``, and the neighbours among the others, with ``labels``."""

    near: tuple[Tensor, Tensor]
    labels: Tensor
    truth: Tensor


def _held_out(config: KnnConfig, inputs: _Inputs, device: torch.device, ranks: Ranks) -> _HeldOut:
    """Searches the neighbours of held-out rows of the bank among the others."""
    voters, labels = inputs.voters, inputs.labels
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[torch.from_numpy(hold_out(labels.numpy(), config.holdout, config.seed)[1])] = True
    rest, k = voters.keep(~held), min(max(config.ks), int((~held).sum()))
    return _HeldOut(_search(config, rest, voters.keep(held), k, device, ranks), labels[~held], labels[held])


def _search(
    config: KnnConfig,
    rows: RowSet,
    queries: RowSet,
    k: int,
    device: torch.device,
    ranks: Ranks,
    *,
    skip: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Finds the neighbours; long searches show their progress."""
    steps = 100
    total, done = len(rows) * len(queries), 0
    progress = Progress("neighbours", steps, visible=total > LONG)

    def each(compared: int) -> None:
        nonlocal done
        done += compared * ranks.world
        while progress.done < min(steps, steps * done // total):
            progress.update(len(queries) // steps)

    with contextlib.closing(progress):
        return neighbours(
            rows,
            queries,
            k=k,
            metric=config.metric,
            skip=skip,
            device=device,
            precision=config.precision,
            memory=config.memory,
            chunk=config.chunk,
            each=each,
            ranks=ranks,
        )


def _vote(config: KnnConfig, near: tuple[Tensor, Tensor], labels: Tensor, truth: Tensor) -> Classification:
    """The predictions that follow from similarities and rows, whose ``labels`` vote."""
    similarity, rows = near
    predicted = predicted_labels(similarity, rows, labels, weighted=config.weighted, temperature=config.temperature)
    correct = ((predicted == truth[:, None]) & (truth >= 0)[:, None]).sum(dim=0)
    return Classification(similarity, rows, predicted, correct)


def _choose_k(config: KnnConfig, found: Classification, held: Classification | None) -> int | None:
    if held is not None:
        return held.best(config.ks)
    if config.select_k == "eval":
        return found.best(config.ks)
    return config.ks[0] if len(config.ks) == 1 else None


def _accuracies(found: Classification, count: int) -> list[float]:
    """The accuracies with 1, 2, ..., k neighbours."""
    return [int(correct) / count for correct in found.correct]


def _document(
    config: KnnConfig,
    found: Classification,
    held: Classification | None,
    k: int | None,
    inputs: _Inputs,
) -> Record:
    """The result, with the accuracy of each class and the confusion matrix at the chosen k."""
    bank, labels, queries, names = inputs.bank, inputs.labels, inputs.queries, inputs.classes
    scored = queries.targets >= 0
    count, truth = int(scored.sum()), queries.targets[scored]
    accuracies: list[Record] = [{"k": one} | accuracy_with_interval(found.correct_at(one), count) for one in config.ks]
    if held is not None:
        for one in accuracies:
            one["held_out_accuracy"] = held.correct_at(one["k"]) / len(held.predicted)
    document: Record = {"accuracy": None, "interval": None, "balanced_accuracy": None, "k": k}
    if k is not None:
        predicted = found.predicted[scored, found.column(k)]
        classes = per_class_accuracy(predicted, truth, labels, names.name)
        document |= accuracy_with_interval(found.correct_at(k), count)
        document["balanced_accuracy"] = sum(one["accuracy"] for one in classes) / len(classes)
        document |= {"per_class": classes, "confusion": confusion_matrix(predicted, truth, names.name)}
    return document | {
        "selected_on": {"holdout": "held-out rows of the bank", "eval": "the evaluation labels"}.get(
            str(config.select_k)
        ),
        "accuracies": accuracies,
        "metric": config.metric,
        "weighted": config.weighted,
        "temperature": config.temperature if config.weighted else None,
        "precision": config.precision,
        "classes": len(labels.unique()),
        "bank": bank.name,
        "bank_size": len(labels),
        "queries": queries.name,
        "query_size": count,
    }


def _notes(config: KnnConfig, found: Classification, own: int, why: str, available: Tensor) -> list[str]:
    """Notes for the user; ``why`` says how the ``own`` images of both files were told to be the same, and ``available``
    (N,) how many rows can vote on each query."""
    notes = []
    if own:
        notes.append(f"{own:,} of the queries are in the bank{why and f' ({why})'}; no row votes on itself")
    least, most = int(available.min()), int(available.max())
    if max(config.ks) > least:
        count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        notes.append(f"{count} rows can vote; with a larger k, all of them do")
    if least == 0:
        alone = int((available == 0).sum())
        notes.append(f"on {alone:,} of the queries no row can vote; their predictions count as wrong")
    copies = int((found.similarity[:, 0] == 0).sum())
    if copies:
        what = "has the same direction as" if config.metric == "cos" else "equals"
        notes.append(f"{copies:,} of the queries: the nearest row of the bank {what} the query (a copy, or collapse)")
    if config.select_k == "eval":
        notes.append(
            "k is chosen on the evaluation set, so the accuracy is biased upwards; --select-k holdout avoids this"
        )
    return notes


def _save_neighbours(config: KnnConfig, found: Classification, inputs: _Inputs, document: Record) -> None:
    saved, voters, queries = inputs.bank, inputs.voters, inputs.queries
    numbers = saved.index[saved.targets >= 0]
    k = max(config.ks)
    near = found.rows[:, :k]
    meta = {key: queries.meta.get(key) for key in ("checkpoint_hash", "layer", *IMAGES_KEYS)}
    meta |= {f"bank_{key}": saved.meta.get(key) for key in IMAGES_KEYS}
    meta |= {key: document[key] for key in ("metric", "precision", "self_excluded")}
    meta |= {"k": k, "bank": [str(path) for path in saved.paths], "queries": [str(path) for path in queries.paths]}
    Neighbours(
        indices=voters.index_of(near),
        distances=paper_files.distances(found.similarity[:, :k], config.metric),
        index=queries.index,
        bank_index=torch.where(near < 0, -1, numbers[near.clamp(min=0)]),
        meta=meta,
    ).save(str(config.neighbours))
