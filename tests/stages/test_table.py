"""``ssltool table``: settings that differ, records, accuracies of later stages, and folders that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from helpers import records
from ssltool.checkpoints.probe import Probe
from ssltool.config import PretrainConfig, RankConfig, TableConfig
from ssltool.diagnosis.monitor import Monitor
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.reprs.clusters_file import Clusters
from ssltool.reprs.neighbours.file import Neighbours
from ssltool.runs.differing import differing_settings
from ssltool.runs.folder import RunFolder
from ssltool.runs.table_row import read_row
from ssltool.stages.rank.rank import run as rank
from ssltool.stages.table import run


def table(*runs: Path, **settings) -> dict:
    return run(TableConfig(runs=tuple(map(str, runs)), **settings))


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the trained run with other settings: ``copy("a", lr=0.1)``; ``options`` are those of the method."""

    def make(name: str, *, options: dict | None = None, **settings) -> Path:
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        saved = json.loads((folder / "config.json").read_text()) | settings
        saved["method_options"] |= options or {}
        (folder / "config.json").write_text(json.dumps(saved))
        return folder

    return make


@pytest.fixture
def probe(tmp_path):
    """A run folder of lincls with a probe of a checkpoint: ``probe("p", checkpoint, 0.7)``."""

    def make(name: str, checkpoint: Path, accuracy: float, *, finished: bool = True, **changes) -> Path:
        origin = {"checkpoint": str(checkpoint), "checkpoint_hash": file_hash(checkpoint), "random": False}
        folder = RunFolder(tmp_path / name, "lincls")
        folder.claim({"stage": "lincls", "lr": 0.1, "origin": origin})
        metrics = {"acc1": accuracy, "epochs": 10} | (origin if finished else {}) | changes
        Probe(torch.zeros(2, 3), torch.zeros(2), {}, metrics).save(folder.path / "probe.pt")
        return folder.path

    return make


@pytest.fixture
def finetuned(tmp_path):
    """A run folder of finetune with the accuracies of its seeds: ``finetuned("f", checkpoint, [0.5, 0.7])``."""

    def make(name: str, checkpoint: Path, accuracies: list[float], **settings) -> Path:
        folder = RunFolder(tmp_path / name, "finetune")
        network = {"checkpoint": str(checkpoint), "checkpoint_hash": file_hash(checkpoint), "random": False}
        folder.claim({"stage": "finetune", "network": network, "seeds": len(accuracies), "epochs": 2} | settings)
        for seed, accuracy in enumerate(accuracies):
            folder.log({"arm": "pretrained", "seed": seed, "epoch": 0})
            folder.log({"arm": "pretrained", "seed": seed, "epoch": 1, "acc1": accuracy})
            folder.log({"arm": "scratch", "seed": seed, "epoch": 1, "acc1": 0.1})
        return folder.path

    return make


def test_a_row_has_the_record_of_the_last_epoch_with_all_layers(trained):
    (row,) = table(trained)["rows"]
    last = records(trained)[-1]
    assert {name: row[f"{name} (record)" if name == "lr" else name] for name in last} == last
    assert {name.split("_")[0] for name in row} >= {"backbone", "projector"}
    assert (row["method"], row["seed"], row["path"]) == ("simsiam", 10, str(trained))


def test_the_columns_are_the_settings_in_which_the_runs_differ(copy, trained):
    runs = [copy("a", lr=0.1, seed=1, order_hash="x"), copy("b", options={"pred_dim": 32}, out="elsewhere")]
    found = table(trained, *runs)
    assert found["differing"] == ["lr", "seed", "pred_dim (option)"]
    assert [(row["lr"], row["seed"], row["pred_dim (option)"]) for row in found["rows"]] == [
        (0.05, 10, 8),
        (0.1, 1, 8),
        (0.05, 10, 32),
    ]
    rates = {row["lr (record)"] for row in found["rows"]}  # that of the epoch has a name of its own
    assert rates == {records(trained)[-1]["lr"]}


def test_a_row_is_read_as_settings_without_the_rate_of_the_last_step(copy, tmp_path):
    table(*(copy(name, seed=seed) for seed, name in enumerate("ab")), out=str(tmp_path / "runs.csv"))
    assert "lr" not in read_row(str(tmp_path / "runs.csv"), 1, PretrainConfig)


def test_numbers_and_text_differ_and_lists_are_compared_by_their_values():
    assert differing_settings([{"a": 1, "b": [1, 2], "c": None}, {"a": "1", "b": [1, 2]}]) == ["a"]


def test_accuracies_of_later_stages_are_in_the_row_of_the_checkpoint_that_they_used(copy, probe, finetuned, tmp_path):
    """Two runs of one network have equal checkpoints, so the weights of one are changed."""
    a, b = copy("a"), copy("b", seed=3)
    for name in ("checkpoint.pt", "checkpoint_0001.pt"):
        (b / name).write_bytes((b / name).read_bytes() + b" ")
    scan = RunFolder(tmp_path / "scan", "scan")
    scan.claim({"stage": "scan", "pretrained": str(a)})
    one = torch.zeros(3, dtype=torch.long)
    meta = {"checkpoint_hash": file_hash(a / "checkpoint_0001.pt"), "k": 1, "metric": "cos"}
    Neighbours(one[:, None], torch.zeros(3, 1), one, one[:, None], meta).save(scan.path / "neighbours.pt")
    Clusters(one, torch.zeros(3), one, one, {"accuracy": 0.625}).save(scan.path / "assignments_kmeans.pt")
    others = [probe("p", b / "checkpoint.pt", 0.75), finetuned("f", a / "checkpoint.pt", [0.5, 0.7]), scan.path]
    found = table(a, b, *others)
    names = ("linear_acc1", "finetuned_acc1", "scratch_acc1", "scan_kmeans_accuracy")
    assert set(found["accuracies"]) == set(names)
    first, second = ([row[name] for name in names] for row in found["rows"])
    assert first == [None, pytest.approx(0.6), pytest.approx(0.1), 0.625]
    assert second == [0.75, None, None, None]
    assert (found["notes"], found["left_out"]) == ([], [])


def test_results_of_different_protocols_have_columns_of_their_own(trained, probe, finetuned):
    """A second result of the same protocol has a number."""
    last = trained / "checkpoint.pt"
    runs = [probe("p", last, 0.6), probe("q", last, 0.7, epochs=50), probe("r", last, 0.65)]
    runs += [finetuned("f", last, [0.5], labels_fraction=0.1), finetuned("g", last, [0.4], labels_fraction=0.01)]
    (row,) = table(trained, *runs)["rows"]
    assert [row[f"linear_acc1 (epochs {name}"] for name in ("10)", "50)", "10) (2)")] == [0.6, 0.7, 0.65]
    assert [row[f"finetuned_acc1 (labels_fraction {share})"] for share in ("0.1", "0.01")] == [0.5, 0.4]


def test_probes_of_different_layers_have_columns_of_their_own(trained, probe):
    last = trained / "checkpoint.pt"
    (row,) = table(trained, probe("p", last, 0.6, layer="backbone"), probe("q", last, 0.4, layer="projector"))["rows"]
    assert [row[f"linear_acc1 (layer {layer})"] for layer in ("backbone", "projector")] == [0.6, 0.4]


@pytest.mark.parametrize("untrained", [True, False])
def test_clusters_of_an_untrained_network_are_not_those_of_its_checkpoint(copy, tmp_path, untrained):
    a = copy("a")
    scan = RunFolder(tmp_path / "scan", "scan")
    scan.claim({"stage": "scan", "pretrained": str(a)})
    one = torch.zeros(3, dtype=torch.long)
    meta = {"checkpoint_hash": file_hash(a / "checkpoint_0001.pt"), "random": untrained, "k": 1, "metric": "cos"}
    Neighbours(one[:, None], torch.zeros(3, 1), one, one[:, None], meta).save(scan.path / "neighbours.pt")
    Clusters(one, torch.zeros(3), one, one, {"accuracy": 0.625}).save(scan.path / "assignments_kmeans.pt")
    found = table(a, scan.path)
    assert found["rows"][0].get("scan_kmeans_accuracy") == (None if untrained else 0.625)
    assert bool(found["left_out"] or found["notes"]) == untrained


def test_no_folder_is_dropped_without_a_word(copy, probe, finetuned, tmp_path, ssltool):
    run_, broken = copy("a"), copy("b")
    (broken / "metrics.jsonl").write_text('{"epoch": "x"}\n{}\n')
    early = probe("early", run_ / "checkpoint_0001.pt", 0.5)
    (run_ / "checkpoint_0001.pt").unlink()
    (run_ / "checkpoint.pt").write_bytes((run_ / "checkpoint.pt").read_bytes() + b" ")
    unfinished = probe("unfinished", run_ / "checkpoint.pt", 0.5, finished=False)
    partly = finetuned("partly", run_ / "checkpoint.pt", [0.5], seeds=3)
    started = RunFolder(tmp_path / "started")
    started.claim({"method": "simsiam", "method_options": {}})
    folders = [run_, broken, early, unfinished, partly, started.path, tmp_path / "gone"]
    ran = ssltool("table", *folders, "--json")
    assert ran.code == 0, ran.err
    assert [row["run"] for row in ran.json["rows"]] == ["a", "started"]
    assert [Path(one["path"]).name for one in ran.json["left_out"]] == ["b", "unfinished", "gone"]
    for path in folders[1:]:
        assert str(path) in ran.err
    for words in ("belongs to none of the rows", "no epoch is finished", "not trained to the end", "1 of 3 seeds"):
        assert words in ran.err


def test_a_run_that_the_monitor_did_not_measure_at_its_end_is_shown_where_it_did(copy):
    folder = copy("a")
    more = records(folder)[-1] | {"epoch": 2}
    more = {name: value for name, value in more.items() if "_" not in name and name != "verdict"}
    with open(folder / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps(more) + "\n")
    found = table(folder)
    assert found["rows"][0]["epoch"] == 1
    assert found["notes"] == [f"{folder}: the row is of the last epoch that was monitored; 1 later ones are left out"]


def test_monitored_trainings_are_rows_at_their_last_look(tmp_path, trained):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    monitor = Monitor(torch.rand(20, 3, 4, 4), {"backbone": network}, every=2, out=tmp_path / "theirs")
    for step in (0, 2, 4):
        monitor.step(step, loss=step / 8)
    first, second = table(tmp_path / "theirs", trained)["rows"]
    assert (first["step"], first["loss"], first["method"], second["method"]) == (4, 0.5, None, "simsiam")
    assert first["backbone_auc"] == monitor.history[-1]["backbone_auc"]


def test_the_table_is_a_csv_or_json_file_with_whole_numbers_and_no_formulas(copy, tmp_path, ssltool):
    runs = [copy("=a", lr=0.1), copy("b", options={"n_augs": None})]
    ran = ssltool("table", *runs, "--out", tmp_path / "t.csv")
    assert ran.code == 0, ran.err
    first, second = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
    assert first["run"].startswith("'=a") and second["run"] == "b"
    assert (first["epoch"], first["n_augs (option)"], second["n_augs (option)"]) == ("1", "2", "")
    assert ssltool("table", *runs, "--out", tmp_path / "t.json").code == 0
    document = json.loads((tmp_path / "t.json").read_text())
    assert document == ssltool("table", *runs, "--json").json
    frame = pd.read_csv(tmp_path / "t.csv")
    assert list(frame.columns) == list(document["rows"][0])
    assert frame["backbone_auc"].tolist() == [row["backbone_auc"] for row in document["rows"]]


def test_the_printed_table_has_what_differs_and_counts_epochs_from_1(copy, ssltool):
    ran = ssltool("table", copy("a", lr=0.1), copy("b"))
    head, *lines = [line.split() for line in ran.out.splitlines()[:3]]
    assert head[:5] == ["run", "lr", "epoch", "loss", "verdict"] and "backbone_auc" in head
    assert "seed" not in head and "momentum" not in head
    assert [line[:3] for line in lines] == [["a", "0.1", "2"], ["b", "0.05", "2"]]
    assert "--out FILE.csv writes all columns" in ran.out


def test_a_setting_that_some_runs_leave_out_is_printed(copy, ssltool):
    ran = ssltool("table", copy("a", idx_path=None), copy("b", idx_path="subset.txt"))
    head, *lines = [line.split() for line in ran.out.splitlines()[:3]]
    assert head[:3] == ["run", "idx_path", "epoch"] and [line[1] for line in lines] == ["-", "subset.txt"]


def test_what_is_no_table_is_refused(trained, probe, tmp_path, ssltool):
    only = probe("p", trained / "checkpoint.pt", 0.5)
    with pytest.raises(SSLToolError, match="no run of pretrain"):
        table(only)
    with pytest.raises(SSLToolError, match=r"no run of pretrain.*config\.json"):
        table(tmp_path / "gone")
    with pytest.raises(SSLToolError, match="given twice"):
        table(trained, trained)
    assert ssltool("table").code == ssltool("table", trained, "--out", "t.txt").code == 2


def test_rank_writes_the_columns_of_the_table(copy, probe, finetuned):
    runs = [copy("a", lr=0.1), copy("b", seed=3)]
    (runs[0] / "checkpoint_0001.pt").write_bytes((runs[0] / "checkpoint_0001.pt").read_bytes() + b" ")
    others = [probe("p", runs[0] / "checkpoint_0001.pt", 0.75), finetuned("f", runs[1] / "checkpoint_0001.pt", [0.5])]
    ranked = rank(RankConfig(items=tuple(map(str, [*runs, *others]))))["rows"]
    of_table = {row["run"]: row for row in table(*runs, *others)["rows"]}
    for row in ranked:
        expected = of_table[row["run"]]
        assert {name: row[name] for name in expected} == expected
    assert {row["run"]: row["linear_acc1"] for row in ranked} == {"a": 0.75, "b": None}
