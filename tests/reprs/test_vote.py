"""Votes and predictions: those of a loop that anyone can read, and of scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from knn_helpers import expected_labels, labels, nearest, random, ranked, winner
from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours import vote
from ssltool.reprs.neighbours.vote import knn_predict, predicted_classes


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("k", [1, 2, 5, 20, 60])
def test_majority_vote_equals_a_plain_loop(metric, k):
    bank, queries, targets = random(60, 4), random(40, 4, seed=1), labels(60, [0, 1, 2, 3])
    assert knn_predict(bank, targets, queries, k=k, metric=metric).tolist() == expected_labels(
        bank, targets, queries, k=k, metric=metric
    )


@pytest.mark.parametrize(("metric", "temperature"), [("cos", 0.07), ("cos", 0.5), ("l2", 0.1), ("l2", 2.0)])
def test_weighted_vote_equals_a_plain_loop(metric, temperature):
    bank, queries, targets = random(60, 4), random(40, 4, seed=1), labels(60, [0, 1, 2])
    choice = {"k": 15, "metric": metric, "weighted": True, "temperature": temperature}
    predicted = knn_predict(bank, targets, queries, **choice).tolist()
    assert predicted == expected_labels(bank, targets, queries, **choice)
    assert predicted != expected_labels(bank, targets, queries, k=15, metric=metric)  # so the weights mattered


def test_cosine_ignores_the_norm_of_rows_and_l2_does_not():
    bank = torch.tensor([[10.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[0.9, 0.1]])
    assert knn_predict(bank, torch.tensor([0, 1]), query, k=1, metric="cos").tolist() == [0]
    assert knn_predict(bank, torch.tensor([0, 1]), query, k=1, metric="l2").tolist() == [1]


@pytest.mark.parametrize("first", [[7, 3], [3, 7]])
def test_a_tie_goes_to_the_smallest_label_even_if_another_is_nearer(first):
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    assert knn_predict(bank, torch.tensor(first), torch.tensor([[1.0, 0.0]]), k=2).tolist() == [3]


def test_the_nearer_of_two_neighbours_wins_a_weighted_vote():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    predicted = knn_predict(bank, torch.tensor([7, 3]), torch.tensor([[1.0, 0.0]]), k=2, weighted=True)
    assert predicted.tolist() == [7]


def test_a_weighted_vote_at_a_tiny_temperature_does_not_underflow():
    bank, targets = torch.eye(3), torch.tensor([0, 1, 2])
    queries = torch.tensor([[0.1, 0.9, 0.2], [0.5, -0.3, 0.1], [-0.9, -0.5, -0.1]])
    predicted = knn_predict(bank, targets, queries, k=3, weighted=True, temperature=1e-4)
    assert predicted.tolist() == [1, 0, 2]


def test_labels_need_not_be_contiguous_or_start_at_0():
    bank, queries, targets = random(50, 3), random(20, 3, seed=1), labels(50, [5, 17, 900])
    predicted = knn_predict(bank, targets, queries, k=5)
    assert set(predicted.tolist()) <= {5, 17, 900}
    assert predicted.tolist() == expected_labels(bank, targets, queries, k=5, metric="cos")


def test_unlabelled_rows_of_the_bank_do_not_vote():
    bank, queries, targets = random(50, 3), random(20, 3, seed=1), labels(50, [-1, 0, 1])
    keep = targets >= 0
    assert 0 < keep.sum() < 50
    found = knn_predict(bank, targets, queries, k=7)
    assert torch.equal(found, knn_predict(bank[keep], targets[keep], queries, k=7))


def test_duplicated_rows_vote_as_often_as_they_occur():
    bank = torch.tensor([[1.0, 0.0]] * 3 + [[0.99, 0.1]] * 2 + [[0.0, 1.0]] * 4)
    targets = torch.tensor([2, 2, 2, 1, 1, 0, 0, 0, 0])
    predicted = [knn_predict(bank, targets, bank[:1], k=k).item() for k in (3, 5, 9)]
    assert predicted == [2, 2, 0]


def test_representations_of_half_precision_and_no_queries_are_fine():
    bank, targets = random(20, 3), labels(20, [0, 1])
    assert knn_predict(bank.half(), targets, bank.half(), k=1).tolist() == targets.tolist()
    assert knn_predict(bank, targets, bank[:0]).tolist() == []


def test_inputs_are_not_modified():
    bank, queries, targets = random(20, 3), random(5, 3), labels(20, [0, 1])
    before = [x.clone() for x in (bank, queries, targets)]
    knn_predict(bank, targets, queries, k=3)
    assert all(map(torch.equal, before, (bank, queries, targets)))


SKLEARN = {"cos": "cosine", "l2": "euclidean"}


def classes_of_sklearn(bank, targets, queries, *, k, metric, weights="uniform"):
    peer = KNeighborsClassifier(k, algorithm="brute", metric=SKLEARN[metric], weights=weights)
    return peer.fit(bank.double().numpy(), targets.numpy()).predict(queries.double().numpy()).tolist()


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("k", [1, 8, 30, 300])
def test_majority_vote_equals_scikit_learns(metric, k):
    bank, queries, targets = random(300, 8), random(200, 8, seed=1), labels(300, [3, 5, 8, 100])
    wanted = classes_of_sklearn(bank, targets, queries, k=k, metric=metric)
    assert knn_predict(bank, targets, queries, k=k, metric=metric).tolist() == wanted


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize(
    ("metric", "similarity"), [("cos", lambda distance: 1 - distance), ("l2", lambda distance: -(distance**2) / 2)]
)
def test_weighted_vote_equals_scikit_learns(metric, similarity, temperature):
    bank, queries, targets = random(300, 8), random(200, 8, seed=1), labels(300, [3, 5, 8, 100])

    def weights(distance):
        return torch.exp(torch.from_numpy(similarity(distance)) / temperature).numpy()

    wanted = classes_of_sklearn(bank, targets, queries, k=40, metric=metric, weights=weights)
    found = knn_predict(bank, targets, queries, k=40, metric=metric, weighted=True, temperature=temperature)
    assert found.tolist() == wanted
    assert wanted != classes_of_sklearn(bank, targets, queries, k=40, metric=metric)  # so the weights mattered


@pytest.mark.parametrize("weighted", [False, True])
def test_the_votes_of_every_k_are_those_of_a_count_from_the_start(weighted):
    bank, queries, targets = random(70, 3), random(50, 3, seed=1), labels(70, [0, 1, 2, 4, 7])
    lists = ranked(bank, targets, queries, metric="cos", temperature=0.5)
    rows = nearest(bank, queries, "cos", 70)
    similarity = torch.tensor([[near - 1 for near, *_ in one] for one in lists])
    known, classes = targets.unique(return_inverse=True)
    found = known[predicted_classes(similarity, classes[rows], len(known), weighted=weighted, temperature=0.5)]
    for k in range(1, 71):
        assert found[:, k - 1].tolist() == [winner(one[:k], weighted) for one in lists]


def test_a_class_with_equal_votes_wins_only_with_a_smaller_label():
    classes = torch.tensor([[2, 1, 1, 2, 0, 0, 2], [1, 2, 2, 1, 0, 0, 1]])
    assert predicted_classes(torch.zeros(2, 7), classes, 3).tolist() == [[2, 1, 1, 1, 1, 0, 2], [1, 1, 2, 1, 1, 0, 1]]


@pytest.mark.parametrize("weighted", [False, True])
def test_without_neighbours_there_is_no_prediction(weighted):
    similarity = torch.tensor([[0.0, -0.1, -torch.inf, -torch.inf], [-torch.inf] * 4])
    assert predicted_classes(similarity, torch.tensor([[2, 1, 0, 0]] * 2), 3, weighted=weighted).tolist() == [
        [2, 2, 2, 2] if weighted else [2, 1, 1, 1],
        [3] * 4,
    ]
    rows = torch.tensor([[1, 0, -1, -1], [-1] * 4])
    labels = vote.predicted_labels(similarity, rows, torch.tensor([4, 9]), weighted=weighted)
    assert labels.tolist() == [[9, 9, 9, 9] if weighted else [9, 4, 4, 4], [-1] * 4]


def test_the_votes_are_counted_for_a_bounded_number_of_queries_at_a_time(monkeypatch):
    bank, queries, targets = random(60, 4), random(40, 4, seed=1), labels(60, [0, 1, 2, 3])
    shapes = []
    monkeypatch.setattr(vote, "MAX_CELLS", 63)
    monkeypatch.setattr(
        vote,
        "predicted_classes",
        lambda s, c, n, **how: shapes.append((len(s), n)) or predicted_classes(s, c, n, **how),
    )
    found = knn_predict(bank, targets, queries, k=9)
    assert found.tolist() == expected_labels(bank, targets, queries, k=9, metric="cos")
    assert set(shapes) == {(7, 4), (5, 4)}


def test_all_labelled_rows_of_a_small_bank_vote():
    targets = torch.tensor([0, 1, -1, 1])
    bank = random(4, 2)
    assert knn_predict(bank, targets, random(3, 2, seed=1), k=50).tolist() == [1, 1, 1]
    assert knn_predict(bank[:1], torch.tensor([9]), random(1, 2), k=20).tolist() == [9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": random(2, 2)}, "width 3 .*width 2"),
        ({"labels": torch.full((9,), -1)}, "labelled"),
        ({"labels": torch.zeros(8, dtype=torch.int64)}, r" 9 rows .*\(8,\)"),
        ({"queries": torch.full((2, 3), math.nan)}, "NaN"),
        ({"bank": torch.full((9, 3), math.inf)}, "NaN"),
        ({"bank": random(9, 3, 2)}, r"\(N, d\)"),
        ({"k": 0}, "k is 0"),
        ({"metric": "dot"}, "metric .*'dot'.* cos, l2"),
        ({"precision": "fp8"}, "precision .*'fp8'"),
        ({"temperature": 0.0, "weighted": True}, r"temperature .*0\.0"),
    ],
)
def test_invalid_arguments_of_knn_predict_are_refused(change, message):
    given = {"bank": random(9, 3), "labels": torch.zeros(9, dtype=torch.int64), "queries": random(2, 3)} | change
    with pytest.raises(SSLToolError, match=message):
        knn_predict(given.pop("bank"), given.pop("labels"), given.pop("queries"), **given)
