"""Nearest neighbours: the same votes as a loop that anyone can read, whatever the chunks."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pytest
import torch

from ssltool import knn
from ssltool.config import KnnConfig
from ssltool.errors import SSLToolError
from ssltool.knn import knn_predict, neighbours


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(n: int, classes: list[int], seed: int = 0) -> torch.Tensor:
    return torch.tensor(classes)[torch.randint(len(classes), (n,), generator=torch.Generator().manual_seed(seed))]


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


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("k", [1, 2, 5, 20, 60])
def test_majority_vote_equals_a_plain_loop(metric, k):
    bank, queries, targets = random(60, 4), random(40, 4, seed=1), labels(60, [0, 1, 2, 3])
    assert knn_predict(bank, targets, queries, k=k, metric=metric).tolist() == by_hand(
        bank, targets, queries, k=k, metric=metric
    )


@pytest.mark.parametrize(("metric", "temperature"), [("cos", 0.07), ("cos", 0.5), ("l2", 0.1), ("l2", 2.0)])
def test_weighted_vote_equals_a_plain_loop(metric, temperature):
    bank, queries, targets = random(60, 4), random(40, 4, seed=1), labels(60, [0, 1, 2])
    choice = {"k": 15, "metric": metric, "weighted": True, "temperature": temperature}
    predicted = knn_predict(bank, targets, queries, **choice).tolist()
    assert predicted == by_hand(bank, targets, queries, **choice)
    assert predicted != by_hand(bank, targets, queries, k=15, metric=metric)  # so the weights mattered


def test_cosine_does_not_see_the_length_of_rows_and_l2_does():
    bank = torch.tensor([[10.0, 0.0], [0.6, 0.8]])
    query = torch.tensor([[0.9, 0.1]])
    assert knn_predict(bank, torch.tensor([0, 1]), query, k=1, metric="cos").tolist() == [0]
    assert knn_predict(bank, torch.tensor([0, 1]), query, k=1, metric="l2").tolist() == [1]


@pytest.mark.parametrize("first", [[7, 3], [3, 7]])
def test_a_tie_goes_to_the_smallest_label_even_if_another_is_nearer(first):
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    assert knn_predict(bank, torch.tensor(first), torch.tensor([[1.0, 0.0]]), k=2).tolist() == [3]


def test_a_weighted_vote_lets_the_nearer_of_two_win():
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    predicted = knn_predict(bank, torch.tensor([7, 3]), torch.tensor([[1.0, 0.0]]), k=2, weighted=True)
    assert predicted.tolist() == [7]


def test_a_weighted_vote_at_a_tiny_temperature_does_not_underflow():
    bank, targets = torch.eye(3), torch.tensor([0, 1, 2])
    queries = torch.tensor([[0.1, 0.9, 0.2], [0.5, -0.3, 0.1], [-0.9, -0.5, -0.1]])
    predicted = knn_predict(bank, targets, queries, k=3, weighted=True, temperature=1e-4)
    assert predicted.tolist() == [1, 0, 2]


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("bank_chunk", [1, 7, 50, 64])
@pytest.mark.parametrize("chunk", [1, 13, 1000])
def test_the_neighbours_do_not_depend_on_the_chunks(monkeypatch, metric, bank_chunk, chunk):
    bank, queries = random(50, 6), random(30, 6, seed=1)
    distance = torch.cdist(queries.double(), bank.double())
    cosine = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(bank.double()).T
    wanted = (cosine - 1 if metric == "cos" else -(distance**2) / 2).topk(9, dim=1)
    monkeypatch.setattr(knn, "BANK_CHUNK", bank_chunk)
    similarity, rows = neighbours(bank, queries, k=9, metric=metric, chunk=chunk)
    assert torch.equal(rows, wanted.indices)
    # Products of float32 numbers below 10 or so in magnitude, in a handful of operations.
    torch.testing.assert_close(similarity.double(), wanted.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("metric", ["cos", "l2"])
def test_neighbours_of_collapsed_rows_are_those_of_double_precision(metric):
    constant = 10 * random(1, 32, seed=2)
    bank, queries = (constant + 1e-3 * random(n, 32, seed=n) for n in (400, 50))
    unit = torch.nn.functional.normalize if metric == "cos" else torch.Tensor.double
    wanted = torch.cdist(unit(queries.double()), unit(bank.double()), compute_mode="donot_use_mm_for_euclid_dist")
    rows = neighbours(bank, queries, k=10, metric=metric)[1]
    assert torch.equal(rows, wanted.topk(10, dim=1, largest=False).indices)


def test_no_matrix_is_larger_than_chunk_times_bank_chunk(monkeypatch):
    shapes = []
    centred = knn._centred
    monkeypatch.setattr(knn, "BANK_CHUNK", 16)
    monkeypatch.setattr(knn, "_centred", lambda x, *rest: shapes.append(len(x)) or centred(x, *rest))
    neighbours(random(100, 3), random(90, 3), k=5, chunk=8)
    assert sorted(set(shapes)) == [2, 4, 8, 16]  # chunks of 8 of 90 queries, blocks of 16 of 100 rows


def test_labels_that_are_neither_contiguous_nor_from_0_come_back_as_they_are():
    bank, queries, targets = random(50, 3), random(20, 3, seed=1), labels(50, [5, 17, 900])
    predicted = knn_predict(bank, targets, queries, k=5)
    assert set(predicted.tolist()) <= {5, 17, 900}
    assert predicted.tolist() == by_hand(bank, targets, queries, k=5, metric="cos")


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


def test_inputs_are_left_as_they_were():
    bank, queries, targets = random(20, 3), random(5, 3), labels(20, [0, 1])
    before = [x.clone() for x in (bank, queries, targets)]
    knn_predict(bank, targets, queries, k=3)
    assert all(map(torch.equal, before, (bank, queries, targets)))


def test_more_neighbours_than_labelled_rows_are_refused():
    targets = torch.tensor([0, 1, -1, 1])
    assert knn_predict(random(4, 2), targets, random(1, 2), k=3).tolist() == [1]
    with pytest.raises(SSLToolError, match="-k 4 is more than the 3 labelled rows of the bank"):
        knn_predict(random(4, 2), targets, random(1, 2), k=4)


def test_different_widths_are_refused():
    with pytest.raises(SSLToolError, match="bank's representations are 3 wide and the queries' 2"):
        knn_predict(random(9, 3), torch.zeros(9, dtype=torch.int64), random(2, 2), k=1)


def test_a_bank_without_labels_is_refused():
    with pytest.raises(SSLToolError, match="the bank has no labelled rows"):
        knn_predict(random(9, 3), torch.full((9,), -1), random(2, 3), k=1)


@pytest.fixture
def pair(write_reprs):
    """A bank of 60 rows in 3 classes, and 30 queries, in files; and what they hold."""
    bank, targets = random(60, 4), labels(60, [0, 2, 5])
    queries, truth = random(30, 4, seed=1), labels(30, [0, 2, 5], seed=1)
    files = write_reprs("train_reprs_e0.pt", bank, targets), write_reprs("val_reprs_e0.pt", queries, truth)
    return files, bank, targets, queries, truth


def share_right(predicted: list[int], truth: torch.Tensor) -> float:
    return sum(p == t for p, t in zip(predicted, truth.tolist(), strict=True)) / len(truth)


def test_the_commands_document_has_its_keys_and_the_accuracy_of_the_plain_loop(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    ran = ssltool("knn", train, val, "--device", "cpu", "-k", 7, "--json")
    assert ran.code == 0
    assert ran.json == {
        "accuracy": share_right(by_hand(bank, targets, queries, k=7, metric="cos"), truth),
        "k": 7,
        "metric": "cos",
        "weighted": False,
        "temperature": None,
        "classes": 3,
        "bank": str(train),
        "bank_size": 60,
        "queries": str(val),
        "query_size": 30,
        "self_excluded": False,
    }


def test_the_commands_weighted_l2_vote_is_the_plain_loops(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    flags = ["--metric", "l2", "--weighted", "--temperature", "0.5", "--chunk", "4"]
    result = ssltool("knn", train, val, "--device", "cpu", *flags, "--json").json
    wanted = by_hand(bank, targets, queries, k=20, metric="l2", weighted=True, temperature=0.5)
    assert result["accuracy"] == share_right(wanted, truth)
    assert (result["k"], result["metric"], result["weighted"], result["temperature"]) == (20, "l2", True, 0.5)


def test_the_table_shows_the_accuracy_and_what_was_compared(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    ran = ssltool("knn", train, val, "--device", "cpu", "-k", 3)
    accuracy = share_right(by_hand(bank, targets, queries, k=3, metric="cos"), truth)
    assert f"{accuracy:.4f}" in ran.out
    assert "60 rows of 3 classes" in ran.out
    assert "majority" in ran.out


def test_unlabelled_queries_are_not_scored(ssltool, write_reprs, pair):
    (train, _), bank, targets, queries, truth = pair
    some = torch.where(torch.arange(30) % 3 == 0, -1, truth)
    result = ssltool("knn", train, write_reprs("q.pt", queries, some), "--device", "cpu", "--json").json
    keep = some >= 0
    assert result["query_size"] == int(keep.sum()) == 20
    wanted = by_hand(bank, targets, queries[keep], k=20, metric="cos")
    assert result["accuracy"] == share_right(wanted, truth[keep])


def test_a_class_that_the_bank_lacks_is_never_predicted_and_counts_as_wrong(ssltool, write_reprs):
    bank = write_reprs("bank.pt", torch.eye(2), [0, 1])
    queries = write_reprs("queries.pt", torch.tensor([[1.0, 0.1], [0.1, 1.0]]), [0, 9])
    assert ssltool("knn", bank, queries, "-k", 1, "--device", "cpu", "--json").json["accuracy"] == 0.5


def test_in_one_file_no_row_is_its_own_neighbour(ssltool, pair):
    (train, _), bank, targets, _, _ = pair
    result = ssltool("knn", train, train, "-k", 5, "--device", "cpu", "--json").json
    assert result["self_excluded"] is True
    wanted = by_hand(bank, targets, bank, k=5, metric="cos", own=list(range(60)))
    assert result["accuracy"] == share_right(wanted, targets)


def test_one_file_reached_by_two_names_is_one_file(ssltool, pair, tmp_path):
    (train, _), *_ = pair
    (tmp_path / "link.pt").symlink_to(train)
    result = ssltool("knn", train, tmp_path / "link.pt", "-k", 1, "--device", "cpu", "--json").json
    assert result["self_excluded"] is True


def test_of_duplicated_rows_only_the_row_itself_is_left_out(ssltool, write_reprs):
    # Each row has one twin. Of the first two each is told the other's label, which is wrong; of the last two, the same.
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(2, dim=0)
    path = write_reprs("r.pt", rows, [0, 1, 4, 4], [50, 30, 10, 70])
    assert ssltool("knn", path, path, "-k", 1, "--device", "cpu", "--json").json["accuracy"] == 0.5


def test_the_unlabelled_rows_of_one_file_neither_vote_nor_are_scored(ssltool, write_reprs):
    rows, targets = random(40, 3), labels(40, [-1, 0, 1])
    path, keep = write_reprs("r.pt", rows, targets, torch.randperm(40)), targets >= 0
    result = ssltool("knn", path, path, "-k", 3, "--device", "cpu", "--json").json
    n = int(keep.sum())
    wanted = by_hand(rows[keep], targets[keep], rows[keep], k=3, metric="cos", own=list(range(n)))
    assert result["accuracy"] == share_right(wanted, targets[keep])


def test_in_one_file_there_is_one_neighbour_less_to_ask_for(ssltool, write_reprs):
    path = write_reprs("r.pt", random(6, 2), [0, 0, 1, 1, 0, 1])
    assert ssltool("knn", path, path, "-k", 5, "--device", "cpu").code == 0
    ran = ssltool("knn", path, path, "-k", 6, "--device", "cpu")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert "-k 6 is more than the 5 labelled rows" in ran.err


def test_queries_without_labels_are_refused(ssltool, write_reprs, pair):
    (train, _), *_ = pair
    ran = ssltool("knn", train, write_reprs("q.pt", random(5, 4)), "--device", "cpu")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: the queries have no labels")


def test_the_papers_flags_write_the_papers_three_files(ssltool, pair, tmp_path):
    _, bank, targets, queries, truth = pair
    flags = ["--folder", tmp_path, "--source", "train_reprs_e0.pt", "--target", "val_reprs_e0.pt"]
    result = ssltool("knn", *flags, "--metric", "cos", "--device", "cpu", "--json").json

    unit = [torch.nn.functional.normalize(x.double()) for x in (queries, bank)]
    distances, order = (1 - unit[0] @ unit[1].T).sort(dim=1)
    stats = torch.load(tmp_path / "knn_stats_cos_train_val.pt", weights_only=True)
    assert torch.equal(stats["indices"], order)
    torch.testing.assert_close(stats["distances"].double(), distances, atol=1e-6, rtol=0)

    accuracies = torch.load(tmp_path / "knn_accs_cos_train_val.pt", weights_only=True)
    lists = ranked(bank, targets, queries, metric="cos")
    wanted = [share_right([elected(nearest[:k]) for nearest in lists], truth) for k in range(1, 61)]
    assert accuracies.tolist() == pytest.approx(wanted)

    summary = json.loads((tmp_path / "knn_summary_cos_train_val.json").read_text())
    assert summary == {
        "acc": pytest.approx(max(wanted)),
        "best_k": wanted.index(max(wanted)) + 1,
        "best_k_chosen_on": "the evaluation labels",
        "fixed_k": 20,
        "fixed_k_acc": pytest.approx(wanted[19]),
    }
    assert result["accuracy"] == pytest.approx(wanted[19])
    assert result["k"] == 20


def test_the_papers_l2_distances_are_distances_and_not_their_squares(ssltool, pair, tmp_path):
    _, bank, _, queries, _ = pair
    flags = ["--folder", tmp_path, "--source", "train_reprs_e0.pt", "--target", "val_reprs_e0.pt"]
    assert ssltool("knn", *flags, "--metric", "l2", "--device", "cpu").code == 0
    stats = torch.load(tmp_path / "knn_stats_l2_train_val.pt", weights_only=True)
    distances, order = torch.cdist(queries.double(), bank.double()).sort(dim=1)
    assert torch.equal(stats["indices"], order)
    torch.testing.assert_close(stats["distances"].double(), distances, atol=1e-5, rtol=1e-5)


def test_indices_in_the_papers_files_count_the_unlabelled_rows_of_the_bank_too(ssltool, write_reprs, tmp_path):
    write_reprs("train_a.pt", torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]]), [0, -1, 1])
    write_reprs("val_a.pt", torch.tensor([[1.0, 0.0]]), [1])
    flags = ["--folder", tmp_path, "--source", "train_a.pt", "--target", "val_a.pt", "-k", 1, "--device", "cpu"]
    assert ssltool("knn", *flags).code == 0
    stats = torch.load(tmp_path / "knn_stats_cos_train_val.pt", weights_only=True)
    assert stats["indices"].tolist() == [[2, 0]]


def test_without_folder_no_file_is_written(ssltool, pair, tmp_path):
    (train, val), *_ = pair
    before = sorted(tmp_path.iterdir())
    assert ssltool("knn", train, val, "--device", "cpu").code == 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "name two files"),
        ({"bank": "a.pt"}, "name two files"),
        ({"bank": "a.pt", "queries": "b.pt", "source": "c.pt"}, "name two files"),
        ({"folder": "f", "source": "a.pt"}, "--folder goes with --source and --target"),
        ({"folder": "f", "source": "a.pt", "target": "b.pt", "bank": "c.pt"}, "instead of two file names"),
        ({"bank": "a.pt", "queries": "b.pt", "temperature": 0.5}, "--temperature does nothing without --weighted"),
        ({"bank": "absent.pt", "queries": "b.pt"}, "no such file: absent.pt"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(SSLToolError, match=message):
        knn.run(KnnConfig(device="cpu", **settings))
