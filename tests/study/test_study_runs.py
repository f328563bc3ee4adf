"""The runs of the study: their table, their images, one that is killed and goes on, and what is gathered."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from study_scripts import STUDY, design, gather, prepare, run

import ssltool
from ssltool import read_run


def test_the_table_of_runs_is_that_of_the_design():
    assert design.table().to_csv(index=False) == (STUDY / "runs.csv").read_text()


def test_every_cell_of_the_design_has_three_seeds_and_every_parent_is_a_run():
    runs = design.table()
    cells = runs["run"].str.replace(r"-s[1-6]$", "", regex=True)
    assert (cells.value_counts() == 3).all() and runs["run"].is_unique
    assert set(runs["parent"].dropna()) <= set(runs["run"])


def package(path: Path, vendor: str, colours: dict[str, str]) -> Path:
    """An npm package of emoji: a square of a colour for each image."""
    face, wave = "1f600.png", {"1F3FB": {"unified": "1F44B-1F3FB", "image": "1f44b-1f3fb.png"}}
    symbols = [
        {"unified": "1F600", "image": face, "category": "Smileys", "subcategory": "face"},
        {"unified": "1F44B", "image": "1f44b.png", "category": "People", "subcategory": "h", "skin_variations": wave},
        {"unified": "1F34E", "image": "1f34e.png", "category": "Food", "subcategory": "food"},
        {"unified": "1F3FB", "image": "1f3fb.png", "category": "Component", "subcategory": "skin-tone"},
    ]
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"emoji.json": json.dumps(symbols).encode(), **squares(vendor, colours)}.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def squares(vendor: str, colours: dict[str, str]) -> dict[str, bytes]:
    files = {}
    for name, colour in colours.items():
        stream = io.BytesIO()
        Image.new("RGBA", (64, 64), colour).save(stream, "png")
        files[f"img/{vendor}/64/{name}.png"] = stream.getvalue()
    return files


def test_a_symbol_of_all_vendors_and_skin_tones_is_in_one_split(tmp_path):
    one = {"1f600": "red", "1f44b": "green", "1f44b-1f3fb": "black", "1f34e": "blue", "1f3fb": "grey"}
    other = {"1f600": "orange", "1f44b": "lime", "1f34e": "navy"}
    packages = [package(tmp_path / "a.tgz", "google", one), package(tmp_path / "b.tgz", "twitter", other)]
    groups = []
    for path in packages:
        with tarfile.open(path) as archive:
            symbols = prepare.read_symbols(archive.extractfile("package/emoji.json").read())
        groups += [symbols[f"{name}.png"][1] for name in (one if path is packages[0] else other) if name != "1f3fb"]
    assert len(set(groups)) == 3
    prepare.emoji(packages, tmp_path / "out")
    splits = {name: np.load(tmp_path / f"out/{name}.npy") for name in ("train", "val", "train_labels", "val_labels")}
    assert len(splits["train"]) + len(splits["val"]) == 7 and splits["train"].shape[1:] == (32, 32, 3)
    assert not set(splits["train_labels"]) & set(splits["val_labels"])  # each label has one symbol here


def test_nearly_equal_images_join_their_groups():
    images = np.random.RandomState(0).randint(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    images[3] = np.clip(images[0].astype(int) + 5, 0, 255)
    merged = prepare.merge_groups(images, ["a", "b", "b", "c"])
    assert merged[0] == merged[3] != merged[1] == merged[2]


def test_one_symbol_has_one_group_in_any_gender_and_direction():
    codes = ["1F9D1-200D-1F33E", "1F468-1F3FC-200D-1F33E", "1F469-200D-1F33E"]  # farmers
    assert len({prepare.group_of(code, "person-role") for code in codes}) == 1
    assert prepare.group_of("1F3C3-200D-2640-FE0F-200D-27A1-FE0F", "sport") == prepare.group_of("1F3C3", "sport")
    assert prepare.group_of("1F468", "person") != prepare.group_of("1F469", "person")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Calls run.py for a table of two tiny runs, one of which resumes the other: ``study("pass")``."""
    common = {"part": "1a", "data": "tiny", "arch": "resnet18_w2", "seed": 1, "method": "simsiam", "epochs": 2}
    common |= {"options": "dim=16 pred_dim=4", "stem": "small-stride2", "steps_per_epoch": 4, "batch_size": 16}
    rows = [
        {"run": "pass", "images": 64, "parent_epochs": None, "parent": None, "strategy": "current"} | common,
        {"run": "hybrid", "images": 64, "parent_epochs": 1, "parent": "pass", "strategy": None} | common,
    ]
    pd.DataFrame(rows).astype({"parent_epochs": "Int64"}).to_csv(tmp_path / "runs.csv", index=False)
    data = tmp_path / "data/tiny"
    data.mkdir(parents=True)
    random = np.random.RandomState(0)
    for split, count in (("train", 96), ("val", 32)):
        np.save(data / f"{split}.npy", random.randint(0, 256, (count, 16, 16), dtype=np.uint8))
        np.save(data / f"{split}_labels.npy", np.arange(count) % 4)
    for module in (run, gather):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs.csv")

    def call(name: str) -> list[dict]:
        given = ["run.py", name, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
        monkeypatch.setattr(sys, "argv", given)
        run.main()
        return [json.loads(line) for line in (tmp_path / f"runs/{name}/rows.jsonl").read_text().splitlines()]

    return call


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_broke_while_measuring_goes_on_and_a_complete_one_is_left_alone(study, tmp_path, monkeypatch):
    probe, probes = ssltool.lincls, []

    def breaks(**settings: object) -> object:
        probes.append(settings)
        if len(probes) == 2:
            raise KeyboardInterrupt
        return probe(**settings)

    monkeypatch.setattr(ssltool, "lincls", breaks)
    with pytest.raises(KeyboardInterrupt):
        study("pass")
    (first,) = (json.loads(line) for line in (tmp_path / "runs/pass/rows.jsonl").read_text().splitlines())
    lines = study("pass")
    assert lines[0] == first and [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[2]["d"] == 16 and lines[2]["lidar"] >= 1 and 0 <= lines[2]["probe"] <= 1
    assert lines[0]["knn"] != lines[2]["knn"] or lines[0]["auc"] != lines[2]["auc"]
    assert study("pass") == lines and len(probes) == 4
    assert lines[2]["probe"] == pytest.approx((lines[2]["probe_even"] + lines[2]["probe_odd"]) / 2)
    assert lines[2]["train_images"] == 64 and "nc1" in lines[2] and "nc1" not in lines[1] and "twonn" in lines[1]
    hybrid = study("hybrid")
    assert [(line["epoch"], line["step"]) for line in hybrid] == [(2, 8)]
    assert read_run(tmp_path / "runs/hybrid/train")["strategy"].tolist() == ["current", "iid"]
    table = gather.gather(tmp_path / "runs")
    assert table[["run", "epoch"]].to_numpy().tolist() == [["pass", 0], ["pass", 1], ["pass", 2], ["hybrid", 2]]
    assert table["m_effective_rank"].notna().tolist() == [False, True, True, True]
    spectra = gather.spectra(tmp_path / "runs")
    assert {name.split("/")[1] for name in spectra if name.startswith("pass/")} == {
        f"epoch{epoch}_{layer}values" for epoch in (0, 2) for layer in ("", "val_", "projector_")
    }
    values = spectra["pass/epoch2_val_values"]
    p = values / values.sum()
    assert np.exp(-(p * np.log(p)).sum()) == pytest.approx(lines[2]["val_effective_rank"], rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_results_of_another_machine_stay_in_the_table_and_a_partial_run_does_not_replace_a_complete_one(
    study, tmp_path, capsys
):
    table, runs = tmp_path / "study.csv", tmp_path / "runs"
    study("pass")
    gather.write(table, runs, add=False)
    alone, values = pd.read_csv(table), dict(np.load(table.with_suffix(".npz")))
    assert gather.complete(alone) == ["pass"]
    runs.rename(tmp_path / "elsewhere")
    study("hybrid")  # trains a part of its parent, which is not measured
    gather.write(table, runs, add=True)
    both = pd.read_csv(table)
    columns = ["run", "epoch", "step", "probe", "val_auc", "m_loss"]
    assert both.loc[both["run"] == "pass", columns].equals(alone[columns])
    assert gather.complete(both) == ["pass", "hybrid"]
    kept = dict(np.load(table.with_suffix(".npz")))
    assert set(values) < set(kept) and all(np.array_equal(kept[name], values[name]) for name in values)
    before = table.read_text()
    gather.write(table, runs, add=True)
    assert table.read_text() == before


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_diverges_is_measured_up_to_its_last_checkpoint_and_not_trained_again(study, tmp_path, monkeypatch):
    pretrain, trained = ssltool.pretrain, []

    def diverges(**settings: object) -> object:
        trained.append(settings)
        pretrain(**settings)
        (tmp_path / "runs/pass/train/checkpoint_0001.pt").unlink()
        raise ssltool.Diverged("the loss is nan")

    monkeypatch.setattr(ssltool, "pretrain", diverges)
    assert [line["epoch"] for line in study("pass")] == [0, 1]
    assert [line["epoch"] for line in study("pass")] == [0, 1] and len(trained) == 1
    table = gather.gather(tmp_path / "runs")
    assert table["diverged"].tolist()[-1] and table["diverged"].isna().sum() == len(table) - 1


@pytest.mark.filterwarnings("ignore")
def test_runs_of_an_unfinished_first_epoch_have_no_rows_and_those_that_diverge_in_it_are_named(study, tmp_path):
    study("pass")
    hybrid = tmp_path / "runs/hybrid"
    (hybrid / "train").mkdir(parents=True)
    (hybrid / "train/metrics.jsonl").touch()
    table = gather.gather(tmp_path / "runs")
    assert set(table["run"]) == {"pass"}
    (hybrid / "diverged.txt").write_text("the loss is nan")
    both = gather.gather(tmp_path / "runs", table)
    assert both.loc[both["run"] == "hybrid", ["epoch", "diverged"]].to_numpy().tolist() == [[1, True]]
    assert gather.complete(both) == ["pass", "hybrid"]


def test_the_table_keeps_differences_of_a_thousandth():
    table = pd.DataFrame(
        {"run": ["a"], "epoch": [3], "val_auc": [0.812345], "twonn": [3.14159], "m_verdict": ["healthy"]}
    )
    assert gather.text_of(table).splitlines()[1] == "a,3,0.8123,3.14,healthy"


def test_an_unknown_run_is_refused(study):
    with pytest.raises(SystemExit, match="no run missing"):
        study("missing")
