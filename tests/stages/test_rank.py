"""Orders without labels, their agreement with accuracy, and forecasts, against closed forms and scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.probe import Probe
from ssltool.config import RankConfig
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.metrics.of_spectrum import auc
from ssltool.diagnosis.metrics.of_views import lidar
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.reprs.representations import Representations
from ssltool.runs.folder import RunFolder
from ssltool.stages.rank.forecast import Forecast, feature_keys, fit, kendall, spearman
from ssltool.stages.rank.rank import run

KEYS = [("backbone", "auc"), ("backbone", "feature_std")]


@pytest.fixture
def write_run(tmp_path):
    """Writes a run folder of pretrain: ``write_run("a", [{"backbone_auc": 0.6}, {}]) -> path``, a dict an epoch."""

    def write(name, epochs, *, kept=(), newest=True, **config):
        folder = RunFolder(tmp_path / name)
        folder.claim({"method": "simsiam", "arch": "resnet18", "strategy": "iid", "dataset": "made-up"} | config)
        for epoch, record in enumerate(epochs):
            folder.log({"epoch": epoch, "loss": -0.9} | record)
        for epoch in range(len(epochs)) if newest else ():
            seed = sum(map(ord, name)) * 100 + epoch
            weights = {"w": torch.rand(3, generator=torch.Generator().manual_seed(seed))}
            progress = {"epochs": [], "epoch_step": 0, "sums": {}}
            state = Checkpoint("simsiam", "resnet18", epoch + 1, 0, config, weights, {}, None, progress)
            folder.save(state, keep_epoch=epoch if epoch in kept else None)
        return folder.path

    return write


@pytest.fixture
def write_probe(tmp_path):
    """Writes a run folder of lincls: ``write_probe("p", checkpoint, 0.7) -> path``."""

    def write(name, checkpoint, accuracy, *, finished=True, **changes):
        origin = {"checkpoint": str(checkpoint), "checkpoint_hash": file_hash(checkpoint), "random": False}
        metrics = {"acc1": accuracy, "optimizer": "sgd", "epochs": 10} | (origin if finished else {}) | changes
        folder = RunFolder(tmp_path / name, "lincls")
        folder.claim({"lr": 0.1, "origin": origin})
        Probe(torch.zeros(2, 3), torch.zeros(2), {}, metrics).save(folder.path / "probe.pt")
        return folder.path

    return write


@pytest.fixture
def several(write_run):
    """Six runs with given aucs, feature stds and kNN accuracies."""

    def write(aucs=(0.9, 0.6, 0.8, 0.7, 0.95, 0.65), accuracies=(0.3, 0.6, 0.4, 0.5, 0.2, 0.55)):
        stds = (0.5, 0.9, 0.3, 0.8, 0.1, 0.7)
        return [
            write_run(f"r{i}", [{"backbone_auc": a, "backbone_feature_std": s, "backbone_knn": y}])
            for i, (a, s, y) in enumerate(zip(aucs, stds, accuracies, strict=False))
        ]

    return write


def rank(*items, **settings):
    return run(RankConfig(items=tuple(map(str, items)), **settings))


def order(result):
    return [row["run"] for row in result["rows"]]


# The order


@pytest.mark.parametrize("metric", ["auc", "effective_rank", "feature_std", "mean_cosine", "rankme"])
def test_the_healthier_end_of_a_metric_is_first(write_run, metric):
    values = {"low": 0.2, "high": 0.9, "middle": 0.5}
    result = rank(*(write_run(name, [{f"backbone_{metric}": value}]) for name, value in values.items()), by=metric)
    expected = ["low", "middle", "high"]
    assert order(result) == (expected if METRICS[metric].healthier == "low" else expected[::-1])
    assert [row["rank"] for row in result["rows"]] == [1, 2, 3]


def test_alpha_nearest_to_1_is_first_and_the_order_is_reported(write_run, ssltool):
    runs = [write_run(f"a{i}", [{"backbone_alpha": alpha}]) for i, alpha in enumerate((2.0, 0.9, 0.2, 1.3))]
    ran = ssltool("rank", *runs, "--by", "alpha")
    assert [line.split()[1] for line in ran.out.splitlines()[1:5]] == ["a1", "a3", "a2", "a0"]
    assert "nearest to 1 first" in ran.out


def test_equal_metrics_share_a_rank_and_keep_the_order_given(write_run):
    runs = [write_run(name, [{"backbone_auc": a}]) for name, a in (("x", 0.7), ("b", 0.6), ("a", 0.6), ("y", 0.8))]
    result = rank(*runs)
    assert [(row["rank"], row["run"]) for row in result["rows"]] == [(1, "b"), (1, "a"), (3, "x"), (4, "y")]


def test_what_could_not_be_measured_is_last_and_has_no_rank(write_run):
    runs = [write_run(name, [{"backbone_auc": a}]) for name, a in (("nan", None), ("b", 0.9), ("a", 0.6))]
    result = rank(*runs)
    assert [(row["rank"], row["run"], row["auc"]) for row in result["rows"]] == [
        (1, "a", 0.6),
        (2, "b", 0.9),
        (None, "nan", None),
    ]


def test_an_infinite_metric_is_last_and_has_no_rank(write_reprs):
    """nc1 of classes with equal means, 1 and -1 in each, is the variance within over one of 0 between."""
    both = torch.tensor([1.0, -1.0]).repeat(8)[:, None] * torch.eye(16)[0]
    targets = torch.arange(2).repeat_interleave(8)
    same = write_reprs("same.pt", both + torch.eye(16)[1], targets)
    near = write_reprs("near.pt", both + torch.nn.functional.one_hot(targets, 16), targets)
    far = write_reprs("far.pt", both + 9 * torch.nn.functional.one_hot(targets, 16), targets)
    result = rank(same, near, far, by="nc1")
    assert [(row["rank"], row["run"]) for row in result["rows"]][2] == (None, "same")
    assert [row["rank"] for row in result["rows"]] == [1, 2, None]


def test_the_last_monitored_epoch_speaks_for_a_run(write_run):
    run = write_run("a", [{"backbone_auc": 0.9}, {"backbone_auc": 0.7, "verdict": "partial"}, {}], strategy="last")
    (row,) = rank(run)["rows"]
    assert (row["epoch"], row["auc"], row["verdict"], row["strategy"]) == (1, 0.7, "partial", "last")
    assert (row["method"], row["arch"], row["run"]) == ("simsiam", "resnet18", "a")


def test_the_layer_picks_the_metric(write_run):
    run = write_run("a", [{"backbone_auc": 0.9, "projector_auc": 0.6}])
    assert rank(run, layer="projector")["rows"][0]["auc"] == 0.6


def test_each_kept_and_monitored_checkpoint_is_a_row(write_run):
    aucs = (0.9, 0.6, 0.8, 0.7)
    run = write_run("a", [{"backbone_auc": x} if i != 3 else {} for i, x in enumerate(aucs)], kept=(0, 1, 3))
    result = rank(run, checkpoints=True)
    assert [(row["run"], row["epoch"]) for row in result["rows"]] == [
        ("checkpoint_0001", 1),
        ("checkpoint_0000", 0),
    ]
    assert result["rows"][0]["path"] == str(run / "checkpoint_0001.pt")
    assert any("1 kept checkpoints were not monitored" in note for note in result["notes"])


def test_checkpoints_of_several_runs_are_told_apart(write_run):
    runs = [write_run(name, [{"backbone_auc": a}], kept=(0,)) for name, a in (("a", 0.7), ("b", 0.6))]
    assert order(rank(*runs, checkpoints=True)) == ["b", "a"]


def test_checkpoints_are_compared_with_accuracy_with_a_warning(write_run):
    epochs = [{"backbone_auc": 0.9 - i / 10, "backbone_knn": i / 10} for i in range(4)]
    result = rank(write_run("a", epochs, kept=range(4)), checkpoints=True)
    assert result["agreement"]["rows"] == 4 and result["agreement"]["kendall"]["value"] == pytest.approx(1)
    (note,) = [note for note in result["notes"] if "untrained" not in note]  # these weights are of no network
    assert "checkpoints of one run" in note and "intervals" in note


def test_folders_that_differ_behind_a_dot_are_told_apart(write_run):
    runs = [write_run(name, [{"backbone_auc": a}]) for name, a in (("lr0.1", 0.7), ("lr0.2", 0.6))]
    assert order(rank(*runs)) == ["lr0.2", "lr0.1"]


def test_rows_of_files_whose_names_agree_are_named_differently(write_reprs, tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    for name in ("x/x.pt", "x.pt"):
        write_reprs(name, torch.randn(30, 3))
    monkeypatch.chdir(tmp_path)
    assert {row["path"]: row["run"] for row in rank("x/x.pt", "x.pt")["rows"]} == {"x/x.pt": "x/x", "x.pt": "x"}


def test_representations_are_measured_now_by_any_metric(write_reprs):
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    flat, steep = write_reprs("flat.pt", x), write_reprs("steep.pt", x * torch.tensor([1, 1e-1, 1e-2, 1e-2, 1e-2]))
    assert rank(steep, flat)["rows"][0]["auc"] == pytest.approx(auc(singular_values(x)), rel=1e-9)
    for metric in ("participation_ratio", "twonn", "condition_number", "self_cluster"):
        assert order(rank(steep, flat, by=metric)) == ["flat", "steep"]


def test_clid_is_the_sum_of_two_z_scores_over_the_files(write_reprs):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    paths = [write_reprs(f"{d}.pt", x * (torch.arange(8) < d) + 3 * (x > 2)) for d in (2, 5, 8)]
    parts = {metric: rank(*paths, by=metric)["rows"] for metric in ("twonn", "cluster_learnability")}
    wanted = np.zeros(3)
    for metric, rows in parts.items():
        values = np.array([next(row[metric] for row in rows if row["path"] == str(path)) for path in paths])
        wanted += (values - values.mean()) / values.std()
    found = {row["path"]: row["clid"] for row in rank(*paths, by="clid")["rows"]}
    assert [found[str(path)] for path in paths] == pytest.approx(wanted)


def test_clid_needs_several_files(write_reprs, write_run):
    with pytest.raises(SSLToolError, match="several files; found 1"):
        rank(write_reprs("a.pt", torch.randn(60, 5)), by="clid")
    with pytest.raises(SSLToolError, match="backbone_twonn"):
        rank(write_run("a", [{"backbone_auc": 0.7}]), write_reprs("b.pt", torch.randn(60, 5)), by="clid")


def test_views_are_measured_by_the_metrics_that_need_them(tmp_path):
    x = torch.randn(40, 6, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    x += torch.randn(40, 1, 4, generator=torch.Generator().manual_seed(1))
    Representations(x, torch.full((40,), -1), torch.arange(40)).save(tmp_path / "views.pt")
    assert rank(tmp_path / "views.pt", by="lidar")["rows"][0]["lidar"] == pytest.approx(lidar(x), rel=1e-9)


@pytest.mark.parametrize(("untrained", "counted"), [(0.1, None), (0.3, "1 of 3"), (0.5, "2 of 3"), (0.9, "3 of 3")])
def test_checkpoints_that_are_not_above_the_untrained_network_are_counted(write_run, monkeypatch, untrained, counted):
    from ssltool.stages.rank import items

    monkeypatch.setattr(items, "untrained_record", lambda *_: {"backbone_auc": 0.8, "backbone_knn": untrained})
    monkeypatch.setattr(items, "read_runs", lambda paths: [SimpleNamespace(path=Path(paths[0]), settings={})])
    epochs = [{"backbone_auc": 0.6, "backbone_knn": knn} for knn in (0.2, 0.5, 0.7)]
    notes = [
        note for note in rank(write_run("a", epochs, kept=range(3)), checkpoints=True)["notes"] if "not above" in note
    ]
    assert [note.split(": ")[1].split(" have")[0] for note in notes] == ([f"{counted} checkpoints"] if counted else [])


def test_the_untrained_network_may_lack_the_metric_that_orders_the_checkpoints(write_run, write_probe, monkeypatch):
    from ssltool.stages.rank import items

    monkeypatch.setattr(items, "untrained_record", lambda *_: {"backbone_auc": 0.8})
    monkeypatch.setattr(items, "read_runs", lambda paths: [SimpleNamespace(path=Path(paths[0]), settings={})])
    run = write_run("a", [{"backbone_auc": 0.6, "backbone_local_dimension": d} for d in (2.0, 3.0)], kept=range(2))
    probe = write_probe("p", run / "checkpoint_0001.pt", 0.7)
    result = rank(run, probe, checkpoints=True, by="local_dimension", accuracy="linear")
    assert [(row["local_dimension"], row["accuracy"]) for row in result["rows"]] == [
        (3.0, 0.7),
        (2.0, None),
        (None, None),
    ]
    assert not any("untrained" in note for note in result["notes"])  # that of the probe is not looked for


@pytest.mark.parametrize(
    ("verdicts", "change", "noted"),
    [
        (["healthy"] * 3, {}, True),
        (["healthy", "healthy", "partial"], {}, False),
        (["healthy", "healthy", None], {}, False),
        (["healthy"] * 3, {"backbone_knn": 0.5}, False),
        (["healthy"], {}, False),
    ],
)
def test_checkpoints_that_are_all_healthy_are_said_not_to_be_ordered_by_quality(write_run, verdicts, change, noted):
    epochs = [{"backbone_auc": 0.6 + i / 10, "verdict": verdict} | change for i, verdict in enumerate(verdicts)]
    notes = rank(write_run("a", epochs, kept=range(len(epochs))), checkpoints=True)["notes"]
    assert any("ssltool diagnose" in note for note in notes) == noted


def test_representations_say_where_they_come_from(tmp_path):
    x = torch.randn(30, 3)
    meta = {"method": "byol", "arch": "resnet50", "strategy": "current", "epoch": 10, "layer": "backbone"}
    for name, more in (("a.pt", {}), ("b.pt", {"random": True, "epoch": 0})):
        Representations(x, torch.full((30,), -1), torch.arange(30), meta | more).save(tmp_path / name)
    a, b = (rank(tmp_path / name)["rows"][0] for name in ("a.pt", "b.pt"))
    assert (a["method"], a["arch"], a["strategy"], a["epoch"]) == ("byol", "resnet50", "current", 9)
    assert (b["method"], b["epoch"]) == ("untrained", None)


def test_items_that_cannot_be_compared_are_reported(write_run, write_reprs):
    a = write_run("a", [{"backbone_effective_rank": 9.0}])
    b = write_run("b", [{"backbone_effective_rank": 9.5}], arch="resnet50", dataset="other")
    notes = " ".join(rank(a, b, write_reprs("c.pt", torch.randn(30, 3)), by="effective_rank")["notes"])
    assert "grows with the width" in notes and "resnet18, resnet50" in notes
    assert "made-up, other" in notes
    assert "run folders are measured on the monitor's images" in notes


def test_rows_of_different_stems_are_named(write_run):
    stems = {"a": "small", "b": "imagenet", "c": "small"}
    a, b, c = (write_run(name, [{"backbone_auc": 0.6}], stem=stem) for name, stem in stems.items())
    assert any("small" in note and "imagenet" in note for note in rank(a, b)["notes"])
    assert not any("stem" in note for note in rank(a, c)["notes"])


# Agreement


@pytest.mark.parametrize("measure", [spearman, kendall])
def test_perfect_agreement_is_1_and_the_reverse_minus_1_but_never_certain(measure):
    x = [0.1, 0.5, 0.7, 0.9, 1.5, 2.0]
    same, reverse = measure(x, [v**3 for v in x]), measure(x, [-v for v in x])
    assert (same.value, same.high) == (pytest.approx(1), pytest.approx(1)) and -1 < same.low < 1
    assert (reverse.value, reverse.low) == (pytest.approx(-1), pytest.approx(-1)) and -1 < reverse.high < 1


def test_coefficients_with_ties_are_those_of_scipy():
    x, y = [1, 2, 2, 3, 4, 4, 4, 5], [2, 1, 3, 3, 5, 4, 4, 9]
    ranks = [stats.rankdata(v) for v in (x, y)]
    assert spearman(x, y).value == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i in range(8) for j in range(i)]
    by_hand = sum(a * b for a, b in pairs) / math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
    assert kendall(x, y).value == pytest.approx(by_hand, abs=1e-12)


def test_intervals_are_fishers_with_the_published_variances():
    x, y = [1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 6, 8, 5, 7]
    for found, variance in ((spearman(x, y), (1 + spearman(x, y).value ** 2 / 2) / 5), (kendall(x, y), 0.437 / 4)):
        z = [math.atanh(v) for v in (found.low, found.value, found.high)]
        assert z[2] - z[1] == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
        assert z[1] - z[0] == pytest.approx(z[2] - z[1], rel=1e-9)


def test_kendalls_interval_of_four_rows_says_nothing():
    found = kendall([1, 2, 3, 4], [1, 2, 4, 3])
    assert (found.low, found.high) == (-1, 1)


@pytest.mark.parametrize(
    ("measure", "truth"), [(spearman, lambda r: 6 * math.asin(r / 2)), (kendall, lambda r: 2 * math.asin(r))]
)
@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_intervals_cover_the_truth_of_a_normal_sample(measure, truth, r):
    rng, inside, repeats = np.random.default_rng(0), 0, 400
    for _ in range(repeats):
        x = rng.standard_normal(30)
        found = measure(x, r * x + math.sqrt(1 - r * r) * rng.standard_normal(30))
        inside += found.low <= truth(r) / math.pi <= found.high
    assert 0.91 <= inside / repeats <= 0.99


@pytest.mark.parametrize("by", ["auc", "feature_std"])
def test_agreement_is_plus_1_where_the_metric_orders_as_the_accuracy_does(write_run, by):
    sign = -1 if METRICS[by].healthier == "low" else 1
    runs = [
        write_run(f"r{i}", [{f"backbone_{by}": 0.7 + sign * 0.1 * y, "backbone_knn": y}])
        for i, y in enumerate((0.3, 0.9, 0.5, 0.7, 0.1))
    ]
    agreement = rank(*runs, by=by)["agreement"]
    assert agreement["rows"] == 5
    assert agreement["spearman"]["value"] == pytest.approx(1)
    assert agreement["kendall"]["value"] == pytest.approx(1)


def test_agreement_is_minus_1_where_the_order_is_the_reverse(several):
    aucs = (0.9, 0.6, 0.8, 0.7, 0.95, 0.65)
    found = rank(*several(aucs, aucs))["agreement"]
    assert found["spearman"]["value"] == pytest.approx(-1)
    assert found["kendall"]["value"] == pytest.approx(-1)


def test_rows_without_an_accuracy_are_ranked_and_not_compared(several, write_run):
    more = [
        write_run("without", [{"backbone_auc": 0.5}]),
        write_run("nan", [{"backbone_auc": None, "backbone_knn": 0.1}]),
    ]
    result = rank(*several(), *more)
    assert order(result)[0] == "without" and result["rows"][0]["accuracy"] is None
    assert result["agreement"]["rows"] == 6 and len(result["rows"]) == 8
    assert any(note.startswith("1 of 8 rows have no accuracy") for note in result["notes"])


def test_too_few_or_equal_accuracies_are_not_compared(several, tmp_path):
    runs = several()
    result = rank(*runs[:3])
    assert result["agreement"] is None and any("at least 4 are needed" in note for note in result["notes"])
    equal = rank(*several(accuracies=(0.5,) * 6))
    assert equal["agreement"] is None and any("all accuracies are equal" in note for note in equal["notes"])


def test_without_accuracies_there_is_an_order_and_nothing_else(write_run, ssltool):
    runs = [write_run(f"r{i}", [{"backbone_auc": 0.6 + i / 10}]) for i in range(5)]
    ran = ssltool("rank", *runs)
    assert ran.code == 0 and "accuracy" not in ran.out and "agreement" not in ran.out and ran.err == ""


# Where accuracies come from


def test_probes_belong_to_the_checkpoint_they_were_trained_on(write_run, write_probe):
    runs = [
        write_run(f"r{i}", [{"backbone_auc": 0.6 + i / 10, "backbone_knn": 0.1}] * 2, kept=(0, 1)) for i in range(3)
    ]
    probes = [write_probe(f"p{i}", path / "checkpoint.pt", 0.9 - i / 10) for i, path in enumerate(runs[:2])]
    result = rank(*runs, accuracy="linear", probes=tuple(map(str, probes[::-1])))
    assert [row["accuracy"] for row in result["rows"]] == [0.9, 0.8, None]
    assert result["accuracy"] == "linear"
    early = write_probe("early", runs[0] / "checkpoint_0000.pt", 0.5)
    rows = rank(runs[0], accuracy="linear", probes=(str(early), str(probes[0])), checkpoints=True)["rows"]
    assert {row["epoch"]: row["accuracy"] for row in rows} == {0: 0.5, 1: 0.9}


def test_folders_of_lincls_among_the_items_are_its_probes(write_run, write_probe):
    run = write_run("a", [{"backbone_auc": 0.6}])
    probe = write_probe("p", run / "checkpoint.pt", 0.75)
    result = rank(probe, run)
    assert order(result) == ["a"] and any("--accuracy linear" in note for note in result["notes"])
    assert rank(probe, run, accuracy="linear")["rows"][0]["accuracy"] == 0.75
    assert rank(probe, run, accuracy="linear", probes=(f"{probe}/",))["rows"][0]["accuracy"] == 0.75


def test_a_probe_belongs_to_representations_of_its_checkpoint(write_run, write_probe, tmp_path):
    run = write_run("a", [{"backbone_auc": 0.6}])
    meta = {"checkpoint_hash": file_hash(run / "checkpoint.pt"), "random": False}
    x, targets = torch.randn(30, 3), torch.full((30,), -1)
    Representations(x, targets, torch.arange(30), meta).save(tmp_path / "a.pt")
    Representations(x, targets, torch.arange(30), meta | {"random": True}).save(tmp_path / "untrained.pt")
    probe = write_probe("p", run / "checkpoint.pt", 0.75)
    rows = rank(tmp_path / "a.pt", tmp_path / "untrained.pt", accuracy="linear", probes=(str(probe),))["rows"]
    assert {row["run"]: row["accuracy"] for row in rows} == {"a": 0.75, "untrained": None}


def test_a_probe_of_an_epoch_that_is_not_ranked_is_not_used(write_run, write_probe):
    run = write_run("a", [{"backbone_auc": 0.6}, {}], kept=())
    with pytest.raises(SSLToolError, match="none of 1 probe"):
        rank(run, accuracy="linear", probes=(str(write_probe("p", run / "checkpoint.pt", 0.7)),))


def test_probes_of_other_protocols_or_of_no_row_are_named(write_run, write_probe):
    runs = [write_run(f"r{i}", [{"backbone_auc": 0.6 + i / 10}]) for i in range(3)]
    probes = [write_probe(f"p{i}", path / "checkpoint.pt", 0.5, epochs=10 + i) for i, path in enumerate(runs)]
    probes.append(write_probe("random", runs[2] / "checkpoint.pt", 0.1, random=True))
    notes = " ".join(rank(*runs[:2], accuracy="linear", probes=tuple(map(str, probes)))["notes"])
    assert "differ in epochs" in notes and "1 of 3 probes belong to none" in notes and "untrained network" in notes


def test_two_probes_of_one_checkpoint_or_an_unfinished_one_are_refused(write_run, write_probe):
    run = write_run("a", [{"backbone_auc": 0.6}])
    first, second = (str(write_probe(name, run / "checkpoint.pt", 0.7)) for name in "pq")
    with pytest.raises(SSLToolError, match=r"p and .*q are probes of one checkpoint"):
        rank(run, accuracy="linear", probes=(first, second))
    with pytest.raises(SSLToolError, match="not trained to the end"):
        rank(run, accuracy="linear", probes=(str(write_probe("r", run / "checkpoint.pt", 0.7, finished=False)),))


def test_a_table_gives_accuracies_by_path_or_by_its_last_part(several, tmp_path):
    runs = several()
    path = tmp_path / "accuracies.csv"
    path.write_text(f"run,accuracy,comment\n{runs[0]}/,0.11,x\nr1,0.22,\n r2 ,\nother,0.5,\n")
    result = rank(*runs, accuracy=str(path))
    assert {row["run"]: row["accuracy"] for row in result["rows"] if row["accuracy"]} == {"r0": 0.11, "r1": 0.22}
    assert result["accuracy"] == "file"
    assert any("1 of 4 runs" in note for note in result["notes"])


def test_a_name_that_several_items_go_by_must_be_written_out(write_run, tmp_path):
    runs = [write_run(name, [{"backbone_auc": 0.6}]) for name in ("x/run", "y/run")]
    path = tmp_path / "a.csv"
    path.write_text("run,accuracy\nrun,0.5\n")
    with pytest.raises(SSLToolError, match="several of the ITEMs are called run"):
        rank(*runs, accuracy=str(path))
    path.write_text(f"run,accuracy\n{runs[0]},0.5\ny,0.6\n")
    assert {row["run"]: row["accuracy"] for row in rank(*runs, accuracy=str(path))["rows"]} == {"x": 0.5, "y": 0.6}


def test_a_name_that_is_one_items_path_is_that_items(write_run, tmp_path, monkeypatch):
    for name in ("run", "x/run"):
        write_run(name, [{"backbone_auc": 0.6}])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("run,accuracy\nrun,0.5\n")
    rows = rank("run", "x/run/", accuracy="a.csv")["rows"]
    assert {row["path"]: row["accuracy"] for row in rows} == {"run": 0.5, "x/run": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,acc\nr0,0.5\n", "no column accuracy; it has run, acc"),
        ("run,accuracy\nr0,good\n", "the accuracy of r0 is 'good'"),
        ("run,accuracy\nr0,inf\n", "the accuracy of r0 is 'inf'"),
        ("run,accuracy\nr0,0.1\nr0/,0.2\n", "has r0 twice"),
        ("run,accuracy\nother,0.5\n", "has none of these runs"),
        ("", "cannot read"),
        ("\udcff", "cannot read"),
    ],
)
def test_a_table_that_does_not_say_is_refused(several, tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(SSLToolError, match=message):
        rank(*several(), accuracy=str(path))


# Forecasts


@pytest.fixture
def sample():
    """Features (9, 2) on very different scales, noisy accuracies (9,), and names."""
    rng = np.random.default_rng(3)
    values = np.column_stack([0.7 + 0.1 * rng.random(9), 1e4 * rng.random(9)])
    return values, 1.2 - values[:, 0] + 1e-5 * values[:, 1] + 0.02 * rng.standard_normal(9), [f"r{i}" for i in range(9)]


def test_an_exact_linear_relation_is_recovered(sample):
    values, _, names = sample
    found = fit(KEYS, values, 0.3 - 2 * values[:, 0] + 5e-5 * values[:, 1], accuracy="knn", runs=names)
    assert found.intercept == pytest.approx(0.3, abs=1e-9)
    assert [feature.coefficient for feature in found.features] == [
        pytest.approx(-2, rel=1e-9),
        pytest.approx(5e-5, rel=1e-9),
    ]
    assert found.r2 == pytest.approx(1) and found.loo_error == pytest.approx(0, abs=1e-9)
    assert [feature.mean for feature in found.features] == pytest.approx(values.mean(axis=0))
    assert (found.rows, found.accuracy) == (9, "knn")


def test_a_fit_is_that_of_numpys_least_squares(sample):
    values, y, names = sample
    found = fit(KEYS, values, y, accuracy="knn", runs=names)
    weights = np.linalg.lstsq(np.column_stack([np.ones(9), values]), y, rcond=None)[0]
    assert [found.intercept, *(f.coefficient for f in found.features)] == pytest.approx(weights, rel=1e-8)
    assert found.r2 == pytest.approx(np.corrcoef(found.predict(values), y)[0, 1] ** 2, rel=1e-9)


def test_the_leave_one_out_error_is_that_of_fitting_again_without_each_row(sample):
    values, y, names = sample
    found = fit(KEYS, values, y, accuracy="knn", runs=names)
    errors, means = [], []
    for i in range(9):
        rest = np.arange(9) != i
        without = fit(KEYS, values[rest], y[rest], accuracy="knn", runs=names)
        errors.append(float(without.predict(values[i : i + 1])[0]) - y[i])
        means.append(y[rest].mean() - y[i])
    assert found.loo_error == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)
    assert found.loo_error_of_mean == pytest.approx(np.sqrt(np.mean(np.square(means))), rel=1e-9)


def test_the_error_for_another_architecture_is_that_of_fitting_again_without_it(sample):
    values, y, names = sample
    archs = np.array(["a", "a", "b", "c", "b", "c", "a", "b", "b"])
    found = fit(KEYS, values, y, accuracy="knn", runs=names, origins=[{"arch": arch, "method": "m"} for arch in archs])
    errors = np.empty(9)
    for arch in "abc":
        group = archs == arch
        without = fit(KEYS, values[~group], y[~group], accuracy="knn", runs=names)
        errors[group] = without.predict(values[group]) - y[group]
    assert found.group_errors == {"arch": pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-9)}


def test_there_is_no_error_for_another_architecture_if_the_others_do_not_determine_the_forecast(sample):
    values, y, names = sample
    origins = [{"arch": "a" if row < 7 else "b"} for row in range(9)]  # two rows are fewer than three coefficients
    found = fit(KEYS, values, y, accuracy="knn", runs=names, origins=origins)
    assert found.domain == {"arch": ["a", "b"]} and found.group_errors == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, y: (v[:3], y[:3]), "needs at least 4 rows with an accuracy, and there are 3"),
        (lambda v, y: (v, np.full(9, 0.5)), "all 9 accuracies are 0.5"),
        (lambda v, y: (v * [1, 0], y), "backbone_feature_std: the same in all 9 rows"),
        (
            lambda v, y: (np.column_stack([v[:, 0], 3 - 2 * v[:, 0]]), y),
            "backbone_auc, backbone_feature_std are collinear",
        ),
        (lambda v, y: (np.column_stack([v[:, 0], np.eye(9)[4]]), y), "r4 alone"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(sample, change, message):
    values, y, names = sample
    with pytest.raises(SSLToolError, match=message):
        fit(KEYS, *change(values, y), accuracy="knn", runs=names)


def test_a_table_of_empty_accuracies_has_too_few_rows(several, tmp_path):
    runs, table = several(), tmp_path / "accuracies.csv"
    table.write_text("run,accuracy\n" + "".join(f"{run.name},\n" for run in runs))
    with pytest.raises(SSLToolError, match="needs at least 3 rows with an accuracy, and there are 0"):
        rank(*runs, accuracy=str(table), fit=str(tmp_path / "forecast.json"), features="auc")


def test_a_probe_of_a_step_after_the_ranked_epoch_is_not_its_accuracy(write_run, write_probe):
    run = write_run("a", [{"backbone_auc": 0.7}, {"backbone_auc": 0.6}])
    assert rank(run, write_probe("p", run / "checkpoint.pt", 0.7), accuracy="linear")["rows"][0]["accuracy"] == 0.7
    later = Checkpoint.load(run / "checkpoint.pt")
    later.metrics["epoch_step"] = 77  # as a signal or --save-steps leaves it
    later.save(run / "checkpoint.pt")
    probe = write_probe("q", run / "checkpoint.pt", 0.8)
    with pytest.raises(SSLToolError, match="was trained on a ranked checkpoint"):
        rank(run, probe, accuracy="linear")


def test_as_many_rows_as_features_and_two_more_are_enough(sample):
    values, y, names = sample
    assert fit(KEYS, values[:4], y[:4], accuracy="knn", runs=names).rows == 4


def test_features_may_name_a_layer():
    assert feature_keys("auc, projector_auc,feature-std,auc", "backbone") == [
        ("backbone", "auc"),
        ("projector", "auc"),
        ("backbone", "feature_std"),
    ]
    assert feature_keys(None, "projector") == [("projector", "auc"), ("projector", "feature_std")]
    for wrong in ("aucc", "projector_", "head_auc", ""):
        with pytest.raises(SSLToolError, match=f"unknown feature '{wrong}'"):
            feature_keys(wrong, "backbone")


def test_a_forecast_is_learned_written_and_applied(several, write_run, tmp_path, ssltool):
    path = tmp_path / "forecast.json"
    aucs = (0.9, 0.6, 0.8, 0.7, 0.95, 0.65)
    stds = (0.5, 0.9, 0.3, 0.8, 0.1, 0.7)
    accuracies = [1.4 - a + 0.1 * s for a, s in zip(aucs, stds, strict=True)]
    ran = ssltool("rank", *several(aucs, accuracies), "--fit", path)
    assert ran.code == 0 and "backbone_feature_std" in ran.out and str(path) in ran.out
    document = json.loads(path.read_text())
    assert document["format"] == "ssltool/forecast/1"
    assert document["accuracy"] == "knn" and document["rows"] == 6 and document["r2"] == pytest.approx(1)
    assert [(f["layer"], f["metric"]) for f in document["features"]] == KEYS
    new = write_run("new", [{"backbone_auc": 0.75, "backbone_feature_std": 0.4, "backbone_knn": 0.6}])
    result = rank(new, predict=str(path))
    assert result["rows"][0]["forecast"] == pytest.approx(1.4 - 0.75 + 0.04)
    assert result["rows"][0]["error"] == pytest.approx(0.09) and result["forecast_error"] == pytest.approx(0.09)
    assert Forecast.load(path).as_dict() == document


def test_a_forecast_of_one_accuracy_has_no_errors_against_another(several, tmp_path):
    path, runs = tmp_path / "forecast.json", several()
    rank(*runs, fit=str(path), features="auc")
    path.write_text(path.read_text().replace('"accuracy": "knn"', '"accuracy": "linear"'))
    result = rank(*runs, predict=str(path))
    assert all(row["forecast"] is not None and row["error"] is None for row in result["rows"])
    assert result["forecast_error"] is None and any("no errors" in note for note in result["notes"])


def test_a_forecast_for_training_rows_or_outside_their_range_is_reported(several, write_run, tmp_path):
    path = tmp_path / "forecast.json"
    rank(*several(), fit=str(path), features="auc")
    inside, outside = write_run("in", [{"backbone_auc": 0.75}]), write_run("out", [{"backbone_auc": 0.99}])
    assert rank(inside, predict=str(path))["notes"] == []
    no_accuracy, too_few, training = rank(tmp_path / "r1", inside, predict=str(path))["notes"]
    assert (no_accuracy[:7], too_few[:6], training[:7]) == ("1 of 2 ", "1 row ", "1 of 2 ")
    (beyond,) = rank(outside, inside, predict=str(path))["notes"]
    assert beyond.startswith("1 of 2 rows lie outside")


def test_the_loss_may_be_a_feature(write_run, write_reprs, tmp_path):
    path, points = tmp_path / "forecast.json", [(0.9, -0.5), (0.6, -0.9), (0.8, -0.7), (0.7, -0.95), (0.65, -0.6)]
    runs = [
        write_run(f"l{i}", [{"backbone_auc": auc, "loss": loss, "backbone_knn": 1 - auc / 2 - loss / 10}])
        for i, (auc, loss) in enumerate(points)
    ]
    rank(*runs, fit=str(path), features="auc,loss")
    (auc, loss), saved = json.loads(path.read_text())["features"], Forecast.load(path)
    assert auc["coefficient"] == pytest.approx(-0.5) and loss["coefficient"] == pytest.approx(-0.1)
    assert (loss["metric"], loss["lowest"], loss["highest"]) == ("loss", -0.95, -0.5)
    assert saved.features[1].key == "loss" and saved.domain["method"] == ["simsiam"]
    found = rank(write_run("new", [{"backbone_auc": 0.7, "loss": -0.8}]), predict=str(path))
    assert found["rows"][0]["forecast"] == pytest.approx(1 - 0.35 + 0.08)
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(SSLToolError, match="has no loss; give a run folder"):
        rank(write_reprs("x.pt", x), predict=str(path))


def test_losses_of_several_methods_are_not_comparable(several, write_run, tmp_path):
    other = write_run("b", [{"backbone_auc": 0.7, "loss": 5.0, "backbone_knn": 0.4}], method="byol")
    varied = [write_run(f"v{i}", [{"backbone_auc": 0.6, "loss": -i / 9, "backbone_knn": 0.5}]) for i in range(3)]
    settings = {"fit": str(tmp_path / "forecast.json")}
    runs = [*several(), *varied, other]
    noted = {name: " ".join(rank(*runs, features=name, **settings)["notes"]) for name in ("loss", "auc")}
    assert "byol and simsiam" in noted["loss"] and "byol" not in noted["auc"]
    with pytest.raises(SSLToolError, match="needs at least 3 rows with an accuracy, and there are 0"):
        rank(
            *(write_run(f"n{i}", [{"backbone_auc": 0.7, "loss": None, "backbone_knn": i / 9}]) for i in range(3)),
            features="loss",
            **settings,
        )


def test_a_forecast_for_runs_of_another_kind_is_reported(several, write_run, tmp_path):
    path = tmp_path / "forecast.json"
    rank(*several(), fit=str(path), features="auc")
    assert json.loads(path.read_text())["domain"] == {
        "method": ["simsiam"],
        "arch": ["resnet18"],
        "dataset": ["made-up"],
    }
    other = write_run("other", [{"backbone_auc": 0.75}], method="byol", dataset="elsewhere")
    (note,) = rank(other, predict=str(path))["notes"]
    assert "the method byol, the type of dataset elsewhere" in note
    known = json.loads(path.read_text())
    del known["domain"]  # as in files of earlier versions
    path.write_text(json.dumps(known))
    assert rank(other, predict=str(path))["notes"] == []


def test_the_forecast_of_the_study_warns_of_a_run_outside_its_domain(write_run):
    shipped = Forecast.load("study")
    assert shipped.domain["method"] == ["simsiam"] and 0 < shipped.loo_error < shipped.group_errors["arch"]
    middle = {feature.key: feature.mean for feature in shipped.features}
    other = write_run("other", [middle], method="byol", arch="resnet50", dataset="elsewhere")
    result = rank(other, predict="study")
    (note,) = result["notes"]
    assert all(name in note for name in ("the method byol", "architecture resnet50", "dataset elsewhere"))
    (row,) = result["rows"]
    assert row["forecast"] == pytest.approx(shipped.predict(np.array([[*middle.values()]]))[0])
    known = write_run("known", [middle], method="simsiam", arch=shipped.domain["arch"][0], dataset="fashion-mnist")
    assert rank(known, predict="study")["notes"] == []


def test_forecasts_of_representations_measure_their_features(several, write_reprs, tmp_path):
    path = tmp_path / "forecast.json"
    rank(*several(), fit=str(path))
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    assert rank(write_reprs("x.pt", x), by="twonn", predict=str(path))["rows"][0]["forecast"] is not None


def test_a_row_whose_feature_is_not_finite_is_neither_learned_from_nor_forecast(several, write_run, tmp_path):
    path = tmp_path / "forecast.json"
    broken = write_run("nan", [{"backbone_auc": 0.9, "backbone_feature_std": None, "backbone_knn": 0.1}])
    result = rank(*several(), broken, fit=str(path))
    assert result["forecast"]["rows"] == 6 and any("not finite" in note for note in result["notes"])
    assert rank(broken, predict=str(path))["rows"][0]["forecast"] is None


def test_a_forecast_needs_the_features_it_was_learned_from(several, write_run, tmp_path):
    path = tmp_path / "forecast.json"
    rank(*several(), fit=str(path))
    with pytest.raises(SSLToolError, match="has no backbone_feature_std, only backbone_auc"):
        rank(write_run("a", [{"backbone_auc": 0.6}]), predict=str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d | {"format": "ssltool/forecast/2"}, "says 'ssltool/forecast/2'"),
        (lambda d: {k: v for k, v in d.items() if k != "format"}, "says 'no format'"),
        (lambda d: [d], "says 'list'"),
        (lambda d: {k: v for k, v in d.items() if k != "intercept"}, "lacks intercept"),
        (lambda d: d | {"features": []}, "features is"),
        (lambda d: d | {"features": [{"metric": "auc"}]}, "lacks layer.* in features.0."),
        (lambda d: d | {"intercept": "0.1"}, "intercept is .0.1."),
        (lambda d: d | {"intercept": None}, "intercept is None"),
        (lambda d: d | {"accuracy": "other"}, "accuracy is 'other'"),
        (lambda d: d | {"r2": None}, "r2 is None"),
        (lambda d: d | {"loo_error": None}, "loo_error is None"),
    ],
)
def test_a_file_that_is_no_forecast_is_refused(sample, tmp_path, change, message):
    values, y, names = sample
    path = tmp_path / "forecast.json"
    path.write_text(json.dumps(change(fit(KEYS, values, y, accuracy="knn", runs=names).as_dict())))
    with pytest.raises(SSLToolError, match=message):
        Forecast.load(path)


def test_a_forecast_that_is_missing_or_no_json_is_refused(tmp_path):
    with pytest.raises(SSLToolError, match="no such file"):
        Forecast.load(tmp_path / "none.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(SSLToolError, match=r"a\.json is not a readable JSON"):
        Forecast.load(tmp_path / "a.json")


# The command


def test_the_table_is_written_as_csv_or_json(several, tmp_path, ssltool):
    runs = several()
    ran = ssltool("rank", *runs, "--json", "-o", tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table["run"]) == ["r1", "r5", "r3", "r2", "r0", "r4"]
    assert list(table["auc"]) == [0.6, 0.65, 0.7, 0.8, 0.9, 0.95] and list(table["rank"]) == [1, 2, 3, 4, 5, 6]
    assert (
        rank(*runs, out=str(tmp_path / "table.json")) == json.loads((tmp_path / "table.json").read_text()) == ran.json
    )


def test_epochs_count_from_1_in_the_table_and_from_0_in_json(write_run, ssltool):
    path = write_run("a", [{"backbone_auc": 0.9}, {"backbone_auc": 0.7}])
    header, row = (line.split() for line in ssltool("rank", path).out.splitlines()[:2])
    assert row[header.index("epoch")] == "2"
    assert ssltool("rank", path, "--json").json["rows"][0]["epoch"] == 1


def test_notes_are_on_stderr_and_the_table_on_stdout(several, write_run, ssltool):
    ran = ssltool("rank", *several(), write_run("without", [{"backbone_auc": 0.5}]))
    assert ran.err.startswith("note: 1 of 7 rows") and ran.err.count("\n") == 1
    lines = ran.out.splitlines()
    assert lines[0].split() == ["rank", "run", "epoch", "method", "arch", "strategy", "auc", "accuracy"]
    assert "lowest first" in ran.out and "agreement with kNN accuracy over 6 rows" in ran.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": "auc"}, "--features does nothing without --fit"),
        ({"probes": ("p",)}, "--probes does nothing without --accuracy linear"),
        ({"probes": ("p",), "accuracy": "knn"}, "--probes does nothing without --accuracy linear"),
        ({"fit": "a.json", "predict": "b.json"}, "--fit .*--predict"),
        ({"accuracy": "nn"}, "--accuracy is 'nn'; it must be knn, linear, or a .csv file"),
        ({"accuracy": "linear"}, "name run folders of lincls"),
        ({"accuracy": "knn"}, "--accuracy knn: no row has it"),
        ({"fit": "a.json"}, "no row has one"),
        ({"fit": "a.csv"}, r"--fit a\.csv: .*\.json"),
        ({"out": "a.txt"}, "--out a.txt"),
        ({"out": "a.json", "fit": "a.json"}, "--fit and --out are both a.json"),
        ({"by": "acu"}, "unknown metric 'acu'; did you mean auc"),
        ({"by": "auc,alpha"}, "name one metric"),
        ({"by": "twonn"}, "has no backbone_twonn, only backbone_auc"),
        ({"layer": "projector"}, "has no projector_auc, only backbone_auc"),
        ({"predict": "none.json"}, "no such file"),
    ],
)
def test_settings_that_cannot_work_are_refused(write_run, settings, message):
    with pytest.raises(SSLToolError, match=message):
        rank(write_run("a", [{"backbone_auc": 0.6}], newest=False), **settings)


def test_a_run_without_a_monitor_is_refused_with_what_to_do(write_run):
    with pytest.raises(SSLToolError, match="train with --monitor-every, or save representations"):
        rank(write_run("a", [{"feature_std": 0.9}]))


def test_checkpoints_that_are_not_there_are_refused(write_run, write_reprs):
    with pytest.raises(SSLToolError, match="kept checkpoints: none"):
        rank(write_run("a", [{"backbone_auc": 0.6}]), checkpoints=True)
    with pytest.raises(SSLToolError, match="kept checkpoints: of epochs 2,"):
        rank(write_run("b", [{"backbone_auc": 0.6}, {}], kept=(1,)), checkpoints=True)
    with pytest.raises(SSLToolError, match="--checkpoints does nothing without a run folder"):
        rank(write_reprs("x.pt", torch.randn(30, 3)), checkpoints=True)


def test_items_that_cannot_be_ranked_are_refused(write_run, write_probe, tmp_path):
    run = write_run("a", [{"backbone_auc": 0.6}])
    with pytest.raises(SSLToolError, match="no such run folder or file"):
        rank(tmp_path / "none")
    with pytest.raises(SSLToolError, match="given twice"):
        rank(run, f"{run}/")
    with pytest.raises(SSLToolError, match="is a checkpoint; give its run folder"):
        rank(run / "checkpoint.pt")
    with pytest.raises(SSLToolError, match=r"config\.json"):
        rank(tmp_path)
    with pytest.raises(SSLToolError, match="name at least one run folder"):
        rank(write_probe("p", run / "checkpoint.pt", 0.7))
    x = Representations(torch.randn(30, 3), torch.full((30,), -1), torch.arange(30), {"layer": "projector"})
    x.save(tmp_path / "p.pt")
    with pytest.raises(SSLToolError, match=r"projector.*--layer is backbone"):
        rank(tmp_path / "p.pt")
    assert rank(tmp_path / "p.pt", layer="projector")["rows"][0]["rank"] == 1


def test_rows_of_several_folders_of_one_name_are_noted(tmp_path):
    for name in "ab":
        meta = {"dataset": "folder", "layer": "backbone", "fingerprint": name}
        Representations(torch.randn(30, 3), torch.full((30,), -1), torch.arange(30), meta).save(tmp_path / f"{name}.pt")
    assert any("different images" in note for note in rank(tmp_path / "a.pt", tmp_path / "b.pt")["notes"])
    assert not any("different images" in note for note in rank(tmp_path / "a.pt")["notes"])


def test_pool_without_a_file_of_representations_is_refused(write_run):
    with pytest.raises(SSLToolError, match="--pool"):
        rank(write_run("a", [{"backbone_auc": 0.6}]), pool="mean")
