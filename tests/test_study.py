"""The scripts of the study: their statistics on data with known answers, and one run that is killed and goes on."""

from __future__ import annotations

import functools
import importlib
import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import ttest_1samp

import ssltool
from ssltool import read_run
from ssltool.stages.rank.forecast import Forecast

STUDY = Path(__file__).parents[1] / "pipelines" / "study"


sys.path.insert(0, str(STUDY))  # the scripts import each other by name, as they do when they are run
design, estimates, figures, fit_forecast, gather, prepare, report, results, run = map(
    importlib.import_module,
    ("design", "estimates", "figures", "fit_forecast", "gather", "prepare", "report", "results", "run"),
)
sys.path.remove(str(STUDY))


def test_the_table_of_runs_is_that_of_the_design():
    assert design.table().to_csv(index=False) == (STUDY / "runs.csv").read_text()


def test_every_cell_of_the_design_has_three_seeds_and_every_parent_is_a_run():
    runs = design.table()
    cells = runs["run"].str.replace(r"-s[1-6]$", "", regex=True)
    assert (cells.value_counts() == 3).all() and runs["run"].is_unique
    assert set(runs["parent"].dropna()) <= set(runs["run"])


def test_holm_multiplies_by_the_number_of_hypotheses_that_are_left():
    assert estimates.holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert estimates.holm([0.6, 0.7]).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "low", "high", "paper", "expected"),
    [
        (2, 1, 3, 1, "same"),
        (0.5, 0.1, 0.9, 1, "weaker"),
        (0.1, -0.5, 0.6, 1, "absent"),
        (-2, -3, -1, 1, "opposite"),
        (-2, -3, -1, -1, "same"),
        (0.5, -2, 3, 1, "undecided"),
    ],
)
def test_an_effect_is_judged_by_its_interval_and_the_size_that_counts(value, low, high, paper, expected):
    assert estimates.verdict(estimates.Estimate(value, low, high), 1.0, paper) == expected


def seeds(spread: float, trials: int = 1) -> pd.DataFrame:
    """Runs of three seeds at four sizes, whose y is 2 x + a constant of the seed + noise."""
    x, seed = np.meshgrid([0.0, 1.0, 2.0, 3.0], [1, 2, 3])
    noise = np.random.RandomState(trials).randn(12) * spread
    return pd.DataFrame({"x": x.ravel(), "seed": seed.ravel(), "y": 2 * x.ravel() + 10 * seed.ravel() + noise})


def test_a_slope_leaves_out_what_is_constant_in_a_block():
    assert estimates.slope(seeds(0), "y", "x") == pytest.approx(2)


def test_the_bootstrap_interval_contains_the_truth_and_is_as_wide_as_theory_says():
    found = []
    for trial in range(12):
        runs = seeds(1.0, trial).assign(y=lambda r: r["y"] - 10 * r["seed"], one=1)
        found.append(estimates.bootstrap(runs, lambda r: estimates.slope(r, "y", "x", "one"), ["x"], draws=60))
    assert sum(one.low <= 2 <= one.high for one in found) >= 9  # 11.4 expected
    assert np.mean([(one.high - one.low) / 2 for one in found]) == pytest.approx(1.96 / 15**0.5, rel=0.15)


def test_the_interval_of_three_pairs_knows_that_they_are_three():
    (found,), p = estimates.pooled([np.array([1.0, 2.0, 3.0])])
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=1e-3)
    assert p[0] == pytest.approx(ttest_1samp([1.0, 2.0, 3.0], 0).pvalue)


def test_comparisons_share_one_standard_deviation():
    """Deviations of -1, 0, 1 and -2, 0, 2 with four degrees of freedom: 2.5, and t = 2.776."""
    found, p = estimates.pooled([np.array([1.0, 2.0, 3.0]), np.array([-2.0, 0.0, 2.0])])
    half = 2.776 * (2.5 / 3) ** 0.5
    assert (found[0].low, found[0].high) == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert (found[1].low, found[1].high) == pytest.approx((-half, half), abs=1e-3)
    assert p[1] == 1 and 0 < p[0] < 1


def test_the_interval_of_a_slope_is_that_of_least_squares():
    runs = seeds(1.0, 3)
    found = estimates.slope_interval(runs, "y", "x", scale=2.0)
    design = np.column_stack([runs["x"], pd.get_dummies(runs["seed"]).to_numpy(dtype=float)])
    weights, (rest,), *_ = np.linalg.lstsq(design, runs["y"], rcond=None)
    error = (rest / 8 * np.linalg.inv(design.T @ design)[0, 0]) ** 0.5
    assert found.value == pytest.approx(2 * weights[0])
    assert found.high - found.value == pytest.approx(2 * 2.306 * error, rel=1e-3)


def test_an_effect_whose_adjusted_p_value_is_not_small_is_undecided():
    effect = estimates.Estimate(2.0, 1.0, 3.0)
    assert [estimates.verdict(effect, 1.0, 1, p) for p in (0.04, 0.06)] == ["same", "undecided"]


def test_a_forecast_is_scored_on_groups_that_were_left_out():
    random = np.random.RandomState(0)
    runs = pd.DataFrame({"x": random.randn(60), "noise": random.randn(60), "group": np.repeat(list("abcdef"), 10)})
    runs["y"] = 3 * runs["x"] + 1
    exact = estimates.forecast(runs, ["x"], "y", "group", draws=50)
    assert exact.r2.value == pytest.approx(1) and exact.rank.value == pytest.approx(1) and exact.error < 1e-9
    assert estimates.forecast(runs, ["noise"], "y", "group", draws=50).r2.value < 0.05
    runs["own"] = runs["group"].map(dict(zip("abcdef", range(6), strict=True)))
    runs["y"] = [{"a": 5, "b": -3, "c": 1, "d": -2, "e": 4, "f": -5}[g] for g in runs["group"]]
    assert estimates.forecast(runs, ["own"], "y", "group", draws=50).r2.value < 0.2  # knows the groups, not new ones


def test_a_fall_begins_where_the_values_stay_below():
    assert estimates.first_fall([1, 5, 3, 5, 4, 3], 2) == 5
    assert estimates.first_fall([1, 5, 3, 3, 2, 3], 2) == 2
    assert estimates.first_fall([1, 2, 3], 1) is None


@pytest.fixture
def table_of_results(tmp_path, monkeypatch):
    """A table as of gather.py: the rank falls by half from 500 to 60,000 images, everything else is noise."""
    monkeypatch.setattr(report, "bootstrap", functools.partial(estimates.bootstrap, draws=20))
    random, runs = np.random.RandomState(0), design.table()
    rows = []
    for one in runs.to_dict("records"):
        images = 60_000 if pd.isna(one["images"]) else one["images"]
        for epoch in range(0 if pd.isna(one["parent_epochs"]) else one["parent_epochs"] + 1, 17):
            rank = 20 * 0.5 ** (epoch / 16 * np.log(images / 500) / np.log(120)) * np.exp(0.01 * random.randn())
            row = {"run": one["run"], "epoch": epoch, "val_effective_rank": rank}
            row |= {"val_auc": 0.8 + 1e-4 * random.randn(), "knn": 0.7, "projector_effective_rank": rank}
            row |= {"probe": 0.7 + 1e-3 * random.randn(), "probe_class": 0.5, "train_images": images}
            rows.append(row | {"m_effective_rank": rank, "m_knn": 0.7 - 0.1 * (epoch > 12), "parameters": 1000})
    path = tmp_path / "study.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return results.read(path)


def test_the_report_finds_the_effect_that_is_there_and_no_other(table_of_results):
    found = report.small(table_of_results).set_index("outcome")
    assert found["paper"].tolist() == ["same", "absent", "absent"]
    assert found["difference"].iloc[0].value == pytest.approx(-1, abs=0.05)
    found = dict(report.question_1(table_of_results))
    trends = found["From 500 to 60,000 images, by the slope in each width"]
    of_rank = trends[trends["outcome"].str.contains("rank")]
    assert (of_rank["paper"] == "same").all() and (of_rank["p (Holm)"] < 0.01).all()
    parts = found["All images against 500, in the other parts"]
    assert set(parts["part"]) == {"1b", "1c", "1d", "1e"} and len(parts) == 3 * 4
    assert (parts.loc[parts["outcome"].str.contains("rank"), "paper"] == "same").all()
    (_, orders), (_, switching) = report.question_2(table_of_results)
    assert len(orders) == 3 * 2 * 7 and len(switching) == 3 * 2 * 3 and (orders["pairs"] == 3).all()
    (_, settings), (_, images) = report.question_3(table_of_results)
    assert len(settings) == 3 * 9 and images["paper"].tolist() == ["same", "absent", "absent"]
    for table in (orders, switching, settings):
        assert (table["p (Holm)"] > 0.001).all() and not table["paper"].isin(("same", "opposite")).any()
    ((_, methods),) = report.question_6(table_of_results)
    assert len(methods) == 8 * 3 and methods["method"].nunique() == 8


def test_each_figure_is_drawn_from_the_results_of_its_part(table_of_results, tmp_path, monkeypatch):
    rows = table_of_results.assign(m_auc=0.8, m_loss=-0.9)
    monkeypatch.setattr(figures, "read", lambda path: rows[rows["part"].isin(("1a", "6"))])
    monkeypatch.setattr(sys, "argv", ["figures.py", "study.csv", str(tmp_path)])
    figures.main()
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"study-plane", "study-forecast", "study-methods"}
    for name in set(figures.FIGURES) - {"plane", "forecast", "methods"}:
        figures.FIGURES[name][0](rows, str(tmp_path / f"{name}.svg"))
        assert (tmp_path / f"{name}.svg").stat().st_size > 5000


def test_the_forecast_of_the_study_is_a_file_of_rank(table_of_results, tmp_path, monkeypatch, capsys):
    rows = table_of_results
    random = np.random.RandomState(1)
    rows = rows.assign(m_auc=random.rand(len(rows)), m_loss=-random.rand(len(rows)), m_projector_auc=0.9)
    rows["probe"] = 0.9 - 0.3 * rows["m_auc"] - 0.1 * rows["m_loss"]
    monkeypatch.setattr(fit_forecast, "read", lambda path: rows)
    monkeypatch.setattr(sys, "argv", ["fit_forecast.py", "study.csv", str(tmp_path / "forecast.json")])
    fit_forecast.main()
    found = Forecast.load(tmp_path / "forecast.json")
    assert [feature.coefficient for feature in found.features] == pytest.approx([-0.3, -0.1])
    assert found.intercept == pytest.approx(0.9) and found.accuracy == "linear"
    assert found.domain["method"] == ["simsiam"] and not any("hybrid" in run for run in found.runs)
    assert f"{found.rows} runs: R^2 1.000" in capsys.readouterr().out


def test_an_early_sign_is_counted_in_steps_before_the_accuracy(table_of_results):
    ((_, found),) = report.question_5(table_of_results[table_of_results["run"].str.startswith("1a-w4-nall")])
    rank = found.set_index("measure").loc["effective rank"]
    assert (rank["falls"], rank["accuracy falls"], rank["before it"], rank["alone"]) == (3, 3, 3, 0)
    assert rank["lead in steps"].value in {192 * lead for lead in (8, 9, 10, 11)}


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


def test_the_table_keeps_differences_of_a_thousandth():
    table = pd.DataFrame(
        {"run": ["a"], "epoch": [3], "val_auc": [0.812345], "twonn": [3.14159], "m_verdict": ["healthy"]}
    )
    assert gather.text_of(table).splitlines()[1] == "a,3,0.8123,3.14,healthy"


def test_an_unknown_run_is_refused(study):
    with pytest.raises(SystemExit, match="no run missing"):
        study("missing")


def test_the_cost_of_a_choice_is_what_its_checkpoint_lacks_to_the_best_of_its_run(monkeypatch):
    """Of two runs, the first is best at its highest rank, the second at its last checkpoint."""
    monkeypatch.setattr(report, "bootstrap", functools.partial(estimates.bootstrap, draws=10))
    rows = pd.DataFrame(
        {
            "run": ["a"] * 3 + ["b"] * 3 + ["measured once"],
            "epoch": [1, 2, 4, 1, 2, 4, 4],
            "method": "simsiam",
            "probe_even": [0.5, 0.7, 0.6, 0.5, 0.6, 0.8, 0.1],
            "probe_odd": [0.5, 0.7, 0.6, 0.5, 0.6, 0.8, 0.1],
            "effective_rank": [1.0, 9.0, 2.0, 5.0, 3.0, 1.0, 1.0],
        }
    )
    rows = rows.assign(**dict.fromkeys(("m_loss", "m_knn", "auc"), rows["epoch"]))
    rows = rows.assign(**dict.fromkeys(("rankme", "feature_std", "lidar"), rows["epoch"]))
    found = report.choices(rows).set_index("checkpoint")
    assert found.loc["the last", "points"].value == pytest.approx((10 + 0) / 2)
    assert found.loc["highest effective_rank", "points"].value == pytest.approx((0 + 30) / 2)
    assert found.loc["lowest loss", "points"].value == pytest.approx((20 + 30) / 2)  # the first: here it rises
    assert found["best"].tolist()[:2] == [0.5, 0.0]
    assert (found["runs"] == 2).all()
