"""``ssltool knn``: files in, what is said of them out."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knn_helpers import expected_labels, labels, random, ranked, share_right, similarities, winner
from ssltool.config import KnnConfig
from ssltool.data.labels import hold_out
from ssltool.errors import SSLToolError
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.reprs.representations import Representations
from ssltool.reprs.row_set import RowSet
from ssltool.stages import knn
from ssltool.stages.knn.accuracy import wilson


@pytest.fixture
def pair(write_reprs):
    """A bank of 60 rows in 3 classes, and 30 queries, in files; and what they hold."""
    bank, targets = random(60, 4), labels(60, [0, 2, 5])
    queries, truth = random(30, 4, seed=1), labels(30, [0, 2, 5], seed=1)
    files = write_reprs("train_reprs_e0.pt", bank, targets), write_reprs("val_reprs_e0.pt", queries, truth)
    return files, bank, targets, queries, truth


def run(ssltool, *args):
    """The document of ``ssltool knn ARGS --json`` on the CPU, and what it said beside."""
    ran = ssltool("knn", *args, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    return ran.json, ran.err


def test_the_commands_document_has_its_keys_and_the_accuracy_of_the_plain_loop(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    predicted = expected_labels(bank, targets, queries, k=7, metric="cos")
    accuracy = share_right(predicted, truth)
    document, said = run(ssltool, train, val, "-k", 7)
    of_class = [
        share_right([p for p, t in zip(predicted, truth, strict=True) if t == c], truth[truth == c]) for c in (0, 2, 5)
    ]
    interval = list(wilson(round(30 * accuracy), 30))
    assert said == ""
    assert document == {
        "accuracy": accuracy,
        "interval": interval,
        "balanced_accuracy": pytest.approx(sum(of_class) / 3),
        "k": 7,
        "selected_on": None,
        "accuracies": [{"k": 7, "accuracy": accuracy, "interval": interval}],
        "metric": "cos",
        "weighted": False,
        "temperature": None,
        "precision": "fp32",
        "classes": 3,
        "bank": str(train),
        "bank_size": 60,
        "queries": str(val),
        "query_size": 30,
        "self_excluded": False,
        "excluded": 0,
        "notes": [],
    }


def test_the_commands_weighted_l2_vote_is_the_plain_loops(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    flags = ["--metric", "l2", "--weighted", "--temperature", "0.5", "--chunk", "4"]
    result = ssltool("knn", train, val, "--device", "cpu", *flags, "--json").json
    wanted = expected_labels(bank, targets, queries, k=20, metric="l2", weighted=True, temperature=0.5)
    assert result["accuracy"] == share_right(wanted, truth)
    assert (result["k"], result["metric"], result["weighted"], result["temperature"]) == (20, "l2", True, 0.5)


def test_the_table_shows_the_accuracy_and_what_was_compared(ssltool, pair):
    (train, val), bank, targets, queries, truth = pair
    ran = ssltool("knn", train, val, "--device", "cpu", "-k", 3)
    accuracy = share_right(expected_labels(bank, targets, queries, k=3, metric="cos"), truth)
    assert f"{accuracy:.4f}" in ran.out
    assert "60 rows of 3 classes" in ran.out
    assert "majority" in ran.out


def test_unlabelled_queries_are_not_scored(ssltool, write_reprs, pair):
    (train, _), bank, targets, queries, truth = pair
    some = torch.where(torch.arange(30) % 3 == 0, -1, truth)
    result = ssltool("knn", train, write_reprs("q.pt", queries, some), "--device", "cpu", "--json").json
    keep = some >= 0
    assert result["query_size"] == int(keep.sum()) == 20
    wanted = expected_labels(bank, targets, queries[keep], k=20, metric="cos")
    assert result["accuracy"] == share_right(wanted, truth[keep])


def test_a_class_that_the_bank_lacks_is_never_predicted_and_counts_as_wrong(ssltool, write_reprs):
    bank = write_reprs("bank.pt", torch.eye(2), [0, 1])
    queries = write_reprs("queries.pt", torch.tensor([[1.0, 0.1], [0.1, 1.0]]), [0, 9])
    assert ssltool("knn", bank, queries, "-k", 1, "--device", "cpu", "--json").json["accuracy"] == 0.5


def test_in_one_file_no_row_is_its_own_neighbour(ssltool, pair):
    (train, _), bank, targets, _, _ = pair
    result = ssltool("knn", train, train, "-k", 5, "--device", "cpu", "--json").json
    assert result["self_excluded"] is True
    wanted = expected_labels(bank, targets, bank, k=5, metric="cos", own=list(range(60)))
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
    wanted = expected_labels(rows[keep], targets[keep], rows[keep], k=3, metric="cos", own=list(range(n)))
    assert result["accuracy"] == share_right(wanted, targets[keep])


def test_where_k_is_larger_than_what_can_vote_all_do_and_it_says_so(ssltool, write_reprs, pair):
    (train, val), bank, targets, queries, truth = pair
    document, said = run(ssltool, train, val, "-k", "1,60,61,100000000000")
    all_vote = share_right(expected_labels(bank, targets, queries, k=60, metric="cos"), truth)
    assert [one["accuracy"] for one in document["accuracies"]][1:] == [all_vote] * 3
    assert [one["k"] for one in document["accuracies"]] == [1, 60, 61, 100000000000]
    assert said.startswith("note: 60 rows can vote") and said.count("\n") == 1
    path = write_reprs("r.pt", random(6, 2), [0, 0, 1, 1, 0, 1])
    assert "5 rows can vote" not in run(ssltool, path, path, "-k", 5)[1]
    assert "5 rows can vote" in run(ssltool, path, path, "-k", 6)[1]


def test_each_query_has_all_voters_but_its_own_image(ssltool, write_reprs):
    """Queries of images 0 to 3 and 10, in a bank of images 0 to 3: of k = 4, the new image has four votes."""
    images = {"split": "train", "fingerprint": "0123456789abcdef"}
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 3.0], [1.0, 2.9]])
    bank = write_reprs("bank.pt", rows[:4], [0, 0, 1, 1], range(4), **images)
    queries = write_reprs("queries.pt", rows, [0, 0, 1, 1, 0], [0, 1, 2, 3, 10], **images)
    document, said = run(ssltool, bank, queries, "-k", "3,4")
    # Without its own, image 0 has the votes 0 1 1, 1 likewise, 2 has 0 0 1, and 3 has 1 0 0: none is right. Of the new
    # image the nearest three are 3, 2 and 1, labels 1 1 0; all four are a tie, which goes to class 0.
    assert [one["accuracy"] for one in document["accuracies"]] == [0.0, 0.2]
    assert "3 to 4 rows can vote" in said


def test_an_unlabelled_row_of_a_querys_image_is_no_missing_voter(ssltool, write_reprs):
    images = {"split": "train", "fingerprint": "0123456789abcdef"}
    bank = write_reprs("bank.pt", random(4, 2), [-1, 0, 1, 1], range(4), **images)
    queries = write_reprs("queries.pt", random(4, 2)[:1], [1], [0], **images)
    document, said = run(ssltool, bank, queries, "-k", 3)
    assert document["accuracy"] == 1.0 and document["excluded"] == 0
    assert "can vote" not in said


def test_queries_without_a_voter_are_wrong_and_counted(ssltool, write_reprs):
    images = {"split": "train", "fingerprint": "0123456789abcdef"}
    bank = write_reprs("bank.pt", random(2, 2), [1, -1], range(2), **images)
    queries = write_reprs("queries.pt", random(2, 2), [1, 1], range(2), **images)
    document, said = run(ssltool, bank, queries, "-k", 1)
    assert document["accuracy"] == 0.5
    assert "on 1 of the queries no row can vote" in said


def test_a_bank_of_one_row_cannot_classify_that_row(ssltool, write_reprs):
    path = write_reprs("r.pt", random(1, 2), [3])
    ran = ssltool("knn", path, path, "--device", "cpu")
    assert ran.code == 1 and "no row can vote" in ran.err and "r.pt" in ran.err
    assert run(ssltool, path, write_reprs("q.pt", random(2, 2), [3, 4]))[0]["accuracy"] == 0.5


def test_queries_without_labels_are_refused(ssltool, write_reprs, pair):
    (train, _), *_ = pair
    ran = ssltool("knn", train, write_reprs("q.pt", random(5, 4)), "--device", "cpu")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ") and "q.pt has no labels" in ran.err


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
    wanted = [share_right([winner(nearest[:k]) for nearest in lists], truth) for k in range(1, 61)]
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
        ({"bank": None}, "name two files"),
        ({"queries": None}, "name two files"),
        ({"source": "c.pt"}, "name two files"),
        ({"folder": "f", "source": "a.pt"}, "--folder .*--source and --target"),
        ({"folder": "f", "source": "a.pt", "target": "b.pt"}, "--folder .*two file names"),
        ({"temperature": 0.5}, "--temperature does nothing without --weighted"),
        ({"k": "7", "k_max": 9}, "--k does nothing with --k-max"),
        ({"holdout": 0.2}, "--holdout does nothing without --select-k holdout"),
        ({"k": "1,2", "select_k": "eval", "seed": 3}, "--seed does nothing without --select-k holdout"),
        ({"select_k": "eval"}, "--select-k chooses among several k"),
        ({"k": "1,5", "per_class": True}, "--per-class .*single k"),
        ({"k_max": 3, "confusion": True}, "--confusion .*single k"),
        (
            {"k_max": 3, "folder": "f", "bank": None, "queries": None, "source": "a", "target": "b"},
            "--folder .*single k",
        ),
        ({"out": "table.csv"}, r"--out table\.csv: .*\.json"),
        ({"bank": "absent.pt"}, "no such file: absent.pt"),
        ({"bank": "absent*.pt"}, r"no file matches absent\*.pt"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(SSLToolError, match=message) as refused:
        knn.run(KnnConfig(**{"device": "cpu", "bank": "a.pt", "queries": "b.pt"} | settings))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("k", ["0", "1,0", "a", "1,,2", "-3", "1.5", ""])
def test_numbers_of_neighbours_that_are_none_are_refused(k):
    with pytest.raises(SSLToolError, match="it must be a number above 0, or several as in 1,5,20,200"):
        KnnConfig(k=k)


def test_several_k_are_sorted_and_may_be_a_number():
    assert KnnConfig(k="20, 1,5,5").ks == (1, 5, 20)
    assert KnnConfig(k=7).ks == (7,) and KnnConfig().ks == (20,) and KnnConfig(k_max=3).ks == (1, 2, 3)


@pytest.mark.parametrize("flags", [["-k", "1,4,9"], ["--k-max", 12]])
def test_several_k_have_the_accuracies_that_each_has_alone(ssltool, pair, flags):
    (train, val), *_ = pair
    document, _ = run(ssltool, train, val, *flags)
    assert document["k"] is document["accuracy"] is document["interval"] is document["balanced_accuracy"] is None
    ks = [one["k"] for one in document["accuracies"]]
    assert ks == ([1, 4, 9] if flags[0] == "-k" else list(range(1, 13)))
    for one in document["accuracies"]:
        assert one == run(ssltool, train, val, "-k", one["k"])[0]["accuracies"][0]


def test_the_best_k_of_the_evaluation_labels_says_what_it_is(ssltool, pair):
    (train, val), *_ = pair
    document, said = run(ssltool, train, val, "--k-max", 60, "--select-k", "eval")
    accuracies = [one["accuracy"] for one in document["accuracies"]]
    assert document["k"] == accuracies.index(max(accuracies)) + 1
    assert document["accuracy"] == max(accuracies)
    assert document["selected_on"] == "the evaluation labels"
    assert "evaluation set" in said and "--select-k holdout" in said
    text = ssltool("knn", train, val, "--device", "cpu", "--k-max", 60, "--select-k", "eval").out
    assert f"k {document['k']}, chosen on the evaluation labels" in [
        " ".join(line.split()) for line in text.splitlines()
    ]


def test_k_is_chosen_on_held_out_rows_of_the_bank_and_used_with_all_of_it(ssltool, pair):
    (train, val), bank, targets, *_ = pair
    flags = ["-k", "1,3,8,25", "--select-k", "holdout", "--holdout", 0.4, "--seed", 3]
    document, said = run(ssltool, train, val, *flags)
    rest, held = (torch.from_numpy(rows) for rows in hold_out(targets.numpy(), 0.4, 3))
    assert len(held) == 24
    wanted = [
        share_right(expected_labels(bank[rest], targets[rest], bank[held], k=k, metric="cos"), targets[held])
        for k in (1, 3, 8, 25)
    ]
    assert [one["held_out_accuracy"] for one in document["accuracies"]] == wanted
    assert document["k"] == (1, 3, 8, 25)[wanted.index(max(wanted))]
    assert document["selected_on"] == "held-out rows of the bank"
    assert document["bank_size"] == 60 and said == ""
    alone = run(ssltool, train, val, "-k", document["k"])[0]
    assert document["accuracy"] == alone["accuracy"]


def test_the_labels_of_the_queries_do_not_choose_k_on_held_out_rows(ssltool, pair, write_reprs):
    (train, val), _, _, queries, truth = pair
    other = write_reprs("other.pt", queries, truth.flip(0))
    chosen = [run(ssltool, train, one, "--k-max", 30, "--select-k", "holdout")[0] for one in (val, other)]
    assert chosen[0]["k"] == chosen[1]["k"] and chosen[0]["accuracy"] != chosen[1]["accuracy"]


def test_classes_and_confusion_are_those_of_the_plain_loop(ssltool, pair, write_reprs, tmp_path):
    (train, _), bank, targets, queries, truth = pair
    truth = torch.where(torch.arange(30) < 3, 9, truth)  # which the bank lacks
    val = write_reprs("val.pt", queries, truth)
    predicted = expected_labels(bank, targets, queries, k=5, metric="cos")
    out = tmp_path / "knn.json"
    document, _ = run(ssltool, train, val, "-k", 5, "--per-class", "--confusion", "--out", out)
    for one in document["per_class"]:
        label = one["label"]
        mine = [p for p, t in zip(predicted, truth.tolist(), strict=True) if t == label]
        right = sum(p == label for p in mine)
        interval = list(wilson(right, len(mine)))
        counts = {"queries": len(mine), "bank": int((targets == label).sum())}
        assert (
            one == {"class": str(label), "label": label, "accuracy": right / len(mine), "interval": interval} | counts
        )
    assert [one["label"] for one in document["per_class"]] == document["confusion"]["labels"] == [0, 2, 5, 9]
    assert document["confusion"]["classes"] == ["0", "2", "5", "9"]
    wanted = [
        [
            sum(p == guess and t == true for p, t in zip(predicted, truth.tolist(), strict=True))
            for guess in (0, 2, 5, 9)
        ]
        for true in (0, 2, 5, 9)
    ]
    assert document["confusion"]["counts"] == wanted
    assert document["balanced_accuracy"] == pytest.approx(sum(one["accuracy"] for one in document["per_class"]) / 4)
    assert json.loads(out.read_text()) == document
    assert json.loads(out.read_text())["per_class"]
    text = ssltool("knn", train, val, "-k", 5, "--per-class", "--confusion", "--device", "cpu").out.splitlines()
    assert [line.split() for line in text][-4:] == [
        [str(c), *map(str, row)] for c, row in zip((0, 2, 5, 9), wanted, strict=True)
    ]
    without, _ = run(ssltool, train, val, "-k", 5, "--out", out)
    assert not {"per_class", "confusion"} & without.keys() and json.loads(out.read_text()) == document


@given(st.integers(1, 10**6).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilsons_interval_is_its_closed_form(counts):
    correct, count = counts
    share, z = correct / count, 1.959963984540054**2 / count
    middle = (share + z / 2) / (1 + z)
    reach = math.sqrt(share * (1 - share) * z + z * z / 4) / (1 + z)
    assert wilson(correct, count) == pytest.approx((max(0, middle - reach), min(1, middle + reach)), rel=0, abs=1e-12)


def test_wilsons_interval_is_the_root_of_its_equation():
    for right, count in ((0, 7), (7, 7), (3, 10), (950, 1000)):
        low, high = wilson(right, count)
        seen = right / count
        for end in {low, high} - {0.0, 1.0}:
            assert abs(seen - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), rel=1e-5)
        assert 0 <= low <= seen <= high <= 1 and low < high
    assert wilson(0, 7)[0] == 0 and wilson(7, 7)[1] == 1


def test_the_neighbours_go_into_a_file_by_row_and_by_number(ssltool, write_reprs, tmp_path):
    bank, queries = random(20, 3), random(6, 3, seed=1)
    targets = torch.where(torch.arange(20) % 4 == 0, -1, torch.arange(20) % 3)
    train = write_reprs("a.pt", bank, targets, torch.arange(20) * 10)
    val = write_reprs("b.pt", queries, [0, 1, -1, 2, 0, 1], [7, 6, 5, 4, 3, 2])
    document, _ = run(ssltool, train, val, "-k", "2,18", "--metric", "l2", "--neighbours", tmp_path / "n.pt")
    assert document["query_size"] == 5
    found = Neighbours.load(tmp_path / "n.pt")
    distance = torch.cdist(queries.double(), bank.double())
    distance[:, targets < 0] = torch.inf
    wanted = distance.sort(dim=1)
    assert found.indices.shape == (6, 15) and found.index.tolist() == [7, 6, 5, 4, 3, 2]
    assert torch.equal(found.indices, wanted.indices[:, :15])
    assert torch.equal(found.bank_index, 10 * wanted.indices[:, :15])
    torch.testing.assert_close(found.distances.double(), wanted.values[:, :15], atol=1e-5, rtol=1e-5)
    assert found.meta["metric"] == "l2" and found.meta["bank"] == [str(train)] and found.meta["k"] == 18
    assert found.meta["dataset"] == found.meta["bank_dataset"] == "made-up" and found.meta["split"] is None


def test_the_distances_of_the_file_are_1_minus_cosine_and_0_for_copies(ssltool, write_reprs, tmp_path):
    rows = random(20, 3)
    train = write_reprs("a.pt", rows, torch.arange(20) % 2)
    val = write_reprs("b.pt", 4 * rows[:5], [0] * 5)
    _, said = run(ssltool, train, val, "-k", 3, "--neighbours", tmp_path / "n.pt")
    found = Neighbours.load(tmp_path / "n.pt")
    assert found.indices[:, 0].tolist() == list(range(5)) and bool((found.distances[:, 0] == 0).all())
    wanted = -similarities(rows, rows[:5], "cos").gather(1, found.indices)
    torch.testing.assert_close(found.distances.double(), wanted, atol=1e-6, rtol=0)
    assert "5 of the queries" in said and "direction" in said


@pytest.fixture
def write_split(tmp_path):
    """Saves rows of a split of a dataset: ``write_split("a.pt", rows, targets, index, split="train") -> path``."""

    def write(name, rows, targets, index, **meta):
        meta = {"dataset": "made-up", "split": "train"} | meta
        Representations(rows, torch.as_tensor(targets), torch.as_tensor(index), meta).save(tmp_path / name)
        return tmp_path / name

    return write


def test_an_image_in_two_files_of_one_split_does_not_vote_on_itself(ssltool, write_split):
    rows, targets, numbers = random(40, 3), labels(40, [0, 1, 2]), torch.randperm(400)[:40]
    bank = write_split("bank.pt", rows[:30], targets[:30], numbers[:30])
    order = torch.randperm(20) + 20
    queries = write_split("queries.pt", rows[order], targets[order], numbers[order])
    document, said = run(ssltool, bank, queries, "-k", 3)
    own = [int(i) if i < 30 else -1 for i in order]
    wanted = expected_labels(rows[:30], targets[:30], rows[order], k=3, metric="cos", own=own)
    assert document["accuracy"] == share_right(wanted, targets[order])
    assert document["self_excluded"] is True and document["excluded"] == 10
    assert said.startswith("note: 10 of the queries are in the bank") and said.count("\n") == 1


@pytest.mark.parametrize("change", [{"split": "val"}, {"dataset": "other"}, {"split": None}])
def test_equal_numbers_in_another_set_are_other_images(ssltool, write_split, change):
    rows, targets = random(30, 3), labels(30, [0, 1])
    bank = write_split("bank.pt", rows, targets, torch.arange(30))
    queries = write_split("queries.pt", rows, targets, torch.arange(30), **change)
    document, _ = run(ssltool, bank, queries, "-k", 1)
    assert (document["accuracy"], document["excluded"], document["self_excluded"]) == (1.0, 0, False)


def test_files_that_say_one_set_but_label_a_number_differently_are_not_one(ssltool, write_split):
    rows, targets = random(30, 3), labels(30, [0, 1])
    bank = write_split("bank.pt", rows, targets, torch.arange(30))
    queries = write_split("queries.pt", rows, 1 - targets, torch.arange(30))
    assert run(ssltool, bank, queries, "-k", 1)[0]["excluded"] == 0


def test_parts_of_several_ranks_are_one_file_by_pattern_or_by_its_name(ssltool, pair, write_split, tmp_path):
    (train, val), bank, targets, *_ = pair
    for rank in range(3):
        mine = slice(20 * rank, 20 * rank + 20)
        name, meta = f"t.rank{rank}of3.pt", {"shard": [rank, 3]}
        write_split(name, bank[mine], targets[mine], torch.arange(60)[mine], **meta)
    wanted = run(ssltool, train, val, "-k", 9)[0]
    for name in (tmp_path / "t.rank*.pt", tmp_path / "t.pt"):
        found = run(ssltool, name, val, "-k", 9, "--neighbours", tmp_path / "n.pt")[0]
        assert found == wanted | {"bank": str(name)}
    one_file = run(ssltool, train, val, "-k", 9, "--neighbours", tmp_path / "m.pt")
    assert one_file and torch.equal(*(Neighbours.load(tmp_path / f"{n}.pt").indices for n in "nm"))
    ran = ssltool("knn", tmp_path / "t.rank[01]of3.pt", val, "--device", "cpu")
    assert ran.code == 1 and "lacks the rows of rank 2 of 3" in ran.err and str(tmp_path / "t.rank2of3.pt") in ran.err


def test_a_part_of_the_bank_as_queries_leaves_its_rows_out(ssltool, write_split, tmp_path):
    rows, targets = random(40, 3), labels(40, [0, 1, 2])
    parts = [
        write_split(f"p{i}.pt", rows[s], targets[s], torch.arange(40)[s])
        for i, s in enumerate((slice(25), slice(25, 40)))
    ]
    document, _ = run(ssltool, tmp_path / "p*.pt", parts[1], "-k", 3)
    wanted = expected_labels(rows, targets, rows[25:], k=3, metric="cos", own=list(range(25, 40)))
    assert document["accuracy"] == share_right(wanted, targets[25:]) and document["excluded"] == 15


def test_files_that_number_their_images_alike_cannot_tell_a_row_from_itself(ssltool, write_reprs, tmp_path):
    for i in range(2):
        write_reprs(f"p{i}.pt", random(9, 3, seed=i), [0, 1, 2] * 3)
    ran = ssltool("knn", tmp_path / "p*.pt", tmp_path / "p1.pt", "--device", "cpu")
    assert ran.code == 1 and "save-reprs" in ran.err
    assert ssltool("knn", tmp_path / "p*.pt", write_reprs("q.pt", random(3, 3), [0, 1, 2]), "--device", "cpu").code == 0


def test_parts_of_two_sets_are_refused(ssltool, write_split, tmp_path):
    write_split("a0.pt", random(3, 2), [0, 1, 2], [0, 1, 2])
    write_split("a1.pt", random(3, 2), [0, 1, 2], [0, 1, 2], split="val")
    val = write_split("q.pt", random(3, 2), [0, 1, 2], [0, 1, 2])
    ran = ssltool("knn", tmp_path / "a*.pt", val, "--device", "cpu")
    assert ran.code == 1 and len(ran.err.splitlines()) == 1
    assert "are not parts of one set: split is train and val" in ran.err


def test_files_of_two_networks_are_refused(ssltool, write_split):
    bank = write_split("a.pt", random(3, 2), [0, 1, 2], [0, 1, 2], layer="backbone")
    queries = write_split("b.pt", random(3, 2), [0, 1, 2], [0, 1, 2], layer="projector")
    ran = ssltool("knn", bank, queries, "--device", "cpu")
    assert ran.code == 1 and "come from different networks: layer is backbone and projector" in ran.err


def test_a_row_that_is_not_finite_is_named_before_anything_is_computed(ssltool, pair, write_reprs, monkeypatch):
    (train, _), *_ = pair
    rows = random(9, 4)
    rows[7, 1] = torch.nan
    monkeypatch.setattr("ssltool.stages.knn.knn.neighbours", None)
    ran = ssltool("knn", train, write_reprs("nan.pt", rows, [0] * 9), "--device", "cpu")
    assert ran.code == 1 and "nan.pt: 1 of 9 rows" in ran.err and "(rows 7)" in ran.err


@pytest.mark.parametrize("flag", ["--out", "--neighbours"])
def test_what_is_read_is_never_overwritten(ssltool, pair, flag, tmp_path):
    (train, val), *_ = pair
    link = tmp_path / "link.json"
    link.symlink_to(train)
    before = train.read_bytes()
    ran = ssltool("knn", train, val, "--device", "cpu", flag, link)
    assert ran.code == 1 and flag in ran.err and train.read_bytes() == before


def test_of_mapped_files_a_block_is_read_at_a_time(ssltool, write_reprs, monkeypatch):
    """Of one and of several, also where some rows do not vote; and nothing else is taken of them."""
    blocks = []
    block = RowSet.block
    monkeypatch.setattr(RowSet, "block", lambda self, *span: blocks.append(block(self, *span)) or blocks[-1])
    rows, targets = random(20_000, 16), labels(20_000, [-1, 0, 1])
    for i, part in enumerate((slice(10_000), slice(10_000, 20_000))):
        path = write_reprs(f"p{i}.pt", rows[part], targets[part])
    queries = write_reprs("q.pt", random(30, 16), [0, 1] * 15)
    for bank in (path, path.parent / "p*.pt"):
        blocks.clear()
        assert run(ssltool, bank, queries, "--memory", 16)[0]["bank_size"] > 6000
        assert 0 < max(map(len, blocks)) <= 4096
    stored = Representations.mapped(path).representations
    assert RowSet([stored, stored]).block(3, 4000).untyped_storage().data_ptr() == stored.untyped_storage().data_ptr()


def test_the_document_does_not_depend_on_memory_chunk_or_precision(ssltool, pair):
    (train, val), *_ = pair
    wanted = run(ssltool, train, val, "--k-max", 30)[0]
    for flags in (["--memory", 16], ["--chunk", 7], ["--precision", "bf16"]):
        assert run(ssltool, train, val, "--k-max", 30, *flags)[0] == wanted | (
            {"precision": "bf16"} if "bf16" in flags else {}
        )
