"""The tables and figures of the study, from results with known effects."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pandas as pd
import pytest
from study_scripts import (
    STUDY_TABLE,
    capacity,
    design,
    early,
    estimates,
    figures,
    fit_forecast,
    forecasts,
    report,
    results,
)

from ssltool.stages.rank.forecast import Forecast


def test_the_points_of_question_2_are_those_of_the_rule():
    ratios = results.points(results.read(STUDY_TABLE))
    if ratios is None:
        pytest.skip("part 1a of the study is not complete, so there are no points yet")
    assert (ratios.idxmin(), ratios.idxmax()) == (design.MOST, design.LEAST)


def cells_of(relative, noise: float = 0.0) -> pd.DataFrame:
    """Runs with ``relative(images, parameters)`` + a constant of the width and seed."""
    random, rows = np.random.RandomState(0), []
    for width in (2, 4, 8):
        for seed in (1, 2, 3):
            constant = noise * random.randn()
            for images in (500, 4000, 16_000, 60_000):
                x, p = np.log2(images), np.log2(width**2)
                row = {"width": width, "seed": seed, "log2_images": x, "log2_parameters": p}
                rows.append(row | {"log2_relative": relative(x, p) + constant + 1e-3 * random.randn()})
    return pd.DataFrame(rows)


def test_a_line_is_found_where_images_per_parameter_decide_and_not_elsewhere():
    (found,) = capacity.line(cells_of(lambda x, p: -0.1 * (x - p))).to_dict("records")
    assert found["line"] and found["images"].value == pytest.approx(-0.1, abs=1e-3)
    assert found["parameters"].value == pytest.approx(0.1, abs=1e-3)
    assert not capacity.line(cells_of(lambda x, p: -0.1 * x))["line"].item()
    assert not capacity.line(cells_of(lambda x, p: 0.0))["line"].item()


def test_what_the_untrained_network_of_a_seed_shares_does_not_widen_the_interval_of_the_images():
    alone, shared = (capacity.line(cells_of(lambda x, p: -0.1 * x, noise))["images"].item() for noise in (0.0, 1.0))
    assert shared.high - shared.low == pytest.approx(alone.high - alone.low, rel=1e-6)


def test_a_measure_is_compared_with_competitors_on_the_runs_that_have_it():
    """The competitor is exact on the half of the runs that has the measure, and noise on the other half."""
    random = np.random.RandomState(0)
    y, known = random.randn(40), np.arange(40) < 20
    runs = pd.DataFrame({"y": y, "group": np.arange(40) % 4, "m_knn": np.where(known, y, random.randn(40))})
    runs = runs.assign(untrained_probe=1.0, measure=np.where(known, y + 0.1 * random.randn(40), np.nan), whole=y)
    found = forecasts.scores(runs, [("measure",), ("whole",)], "y", "group").set_index("from")
    assert found["runs"].tolist() == [20, 40] and found.loc["measure", "rival"] == pytest.approx(1)
    assert found["useful"].tolist() == [False, True]


@pytest.fixture
def table_of_results(tmp_path, monkeypatch):
    """A table as of gather.py: the rank falls by half from 500 to 60,000 images, everything else is noise."""
    for module in (capacity, early, forecasts):
        monkeypatch.setattr(module, "bootstrap", functools.partial(estimates.bootstrap, draws=20))
    random, runs = np.random.RandomState(0), design.table()
    rows = []
    for one in runs.to_dict("records"):
        images = 60_000 if pd.isna(one["images"]) else one["images"]
        for epoch in range(0 if pd.isna(one["parent_epochs"]) else one["parent_epochs"] + 1, 17):
            rank = 20 * 0.5 ** (epoch / 16 * np.log(images / 500) / np.log(120)) * np.exp(0.01 * random.randn())
            row = {"run": one["run"], "epoch": epoch, "step": 192 * epoch, "val_effective_rank": rank}
            row |= {"val_auc": 0.8 + 1e-4 * random.randn(), "knn": 0.7, "projector_effective_rank": rank}
            row["projector_dead_directions"] = 0.0
            row |= {"probe": 0.7 + 1e-3 * random.randn(), "probe_class": 0.5, "train_images": images}
            rows.append(
                row
                | {
                    "m_effective_rank": rank,
                    "m_knn": 0.7 - 0.1 * (epoch > 12),
                    "m_loss": -0.9,
                    "parameters": 100 * int(one["arch"].split("_w")[1]) ** 2,
                }
            )
    path = tmp_path / "study.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return results.read(path)


def test_the_report_finds_the_effect_that_is_there_and_no_other(table_of_results):
    found = report.small(table_of_results).set_index("outcome")
    assert found["verdict"].tolist() == ["same", "absent", "absent"]
    assert found["difference"].iloc[0].value == pytest.approx(-1, abs=0.05)
    found = dict(capacity.question(table_of_results))
    trends = found["From 500 to 60,000 images, by the slope in each width"]
    of_rank = trends[trends["outcome"].str.contains("rank")]
    assert of_rank["verdict"].tolist() == ["same", "effect", "effect"] and (of_rank["p (Holm)"] < 0.01).all()
    parts = found["All images against 500, in the other parts"]
    assert set(parts["part"]) == {"1b", "1c", "1d", "1e"} and len(parts) == 3 * 4
    assert (parts.loc[parts["outcome"].str.contains("rank"), "verdict"] == "effect").all()
    supervised = found["SimSiam minus supervised"]
    assert supervised["width"].tolist() == [2, 4, 8, 16] * 3 and (supervised["pairs"] == 3).all()
    assert found["Means of the seeds"]["runs"].eq(3).all()
    growth = found["60,000 images minus 500, by the number of steps"]
    assert growth["width 4"].iloc[-1].value == pytest.approx(-1, abs=0.05) and len(growth) == 17
    means, orders, switching = (table for _, table in report.orders(table_of_results))
    assert len(means) == 2 * 8 and means["runs"].eq(3).all()
    assert len(orders) == 3 * 2 * 7 and len(switching) == 3 * 2 * 3 and (orders["pairs"] == 3).all()
    means, settings, images = (table for _, table in report.settings(table_of_results))
    assert len(means) == 10 and means["runs"].eq(3).all()
    assert len(settings) == 3 * 9 and images["verdict"].tolist() == ["effect", "absent", "absent"]
    for table in (orders, switching, settings):
        assert (table["p (Holm)"] > 0.001).all() and not table["verdict"].isin(("same", "opposite")).any()
    means, methods, simsiam = (table for _, table in report.methods(table_of_results))
    assert len(means) == 7 * 2 and means["runs"].eq(3).all()
    assert len(methods) == 7 * 3 and methods["method"].nunique() == 7 and len(simsiam) == 3


def test_the_paper_is_asked_about_the_point_that_collapses_only(table_of_results, monkeypatch):
    """Both points of the design gain a bit of rank by a single pass; the point of the smallest ratio is the first."""
    rows = table_of_results
    rows.loc[rows["run"].str.startswith("2-current"), "log2_rank"] += 1.0
    ratios = pd.Series({design.MOST: 0.5, design.LEAST: 0.9})
    monkeypatch.setattr(report, "points", lambda rows: ratios)
    _, (_, orders), _ = report.orders(rows)
    current = orders[(orders["order"] == "current") & orders["outcome"].str.contains("rank")]
    most, least = ("width {}, {:,} images".format(*point) for point in (design.MOST, design.LEAST))
    assert dict(zip(current["at"], current["verdict"], strict=True)) == {most: "same", least: "effect"}


def test_the_points_are_the_cells_of_the_smallest_and_the_largest_ratio(table_of_results):
    ratios = results.points(table_of_results)
    assert set(ratios.index) == {(width, images) for width in (4, 8) for images in (16_000, 60_000)}
    assert ratios.idxmin()[1] == 60_000 and ratios.idxmax()[1] == 16_000
    assert ratios[4, 60_000] == pytest.approx(0.5, rel=0.05)


def test_a_table_that_lacks_runs_still_has_the_families_of_the_plan(table_of_results):
    lacking = ("1a-w4-n16000-s3", "1a-w2-n500-s1", "2-iid-w4-nall-s4", "3-decay-0-w4-n16000-s1", "6-byol-w4-n500-s1")
    rows = table_of_results[~table_of_results["run"].isin(lacking)]
    rows = rows[~rows["run"].str.startswith(("3-batch-256", "6-dino", "1e"))]
    found = dict(capacity.question(rows))
    trends = found["From 500 to 60,000 images, by the slope in each width"]
    assert trends["runs"].tolist() == [11, 11, 12] * 3 and trends["p (Holm)"].notna().all()
    parts = found["All images against 500, in the other parts"]
    assert parts.loc[parts["part"] == "1e", "verdict"].eq("not run").all() and len(parts) == 3 * 4
    means, settings, _ = (table for _, table in report.settings(rows))
    assert "batch-256" not in set(means["setting"]) and len(means) == 9
    assert len(settings) == 3 * 9
    assert settings.groupby("setting")["pairs"].first()[["batch-256", "decay-0", "lr-quarter"]].tolist() == [0, 1, 2]
    _, methods, _ = (table for _, table in report.methods(rows))
    assert methods.groupby("method")["pairs"].first()[["byol", "dino", "vicreg"]].tolist() == [2, 0, 3]
    assert results.points(rows) is None
    _, orders, _ = (table for _, table in report.orders(rows))
    assert len(orders) == 3 * 2 * 7 and set(orders["pairs"]) == {2, 3}


def test_a_diverged_run_leaves_the_other_seeds_of_its_cell(table_of_results):
    rows = table_of_results
    gone = rows["run"] == "1a-w8-n500-s2"
    rows = rows[~gone | (rows["epoch"] < 3)].assign(
        diverged=lambda r: (r["run"] == "1a-w8-n500-s2").replace(False, None)
    )
    rows.loc[rows["run"] == "1a-w8-n500-s2", "parameters"] = None
    assert results.points(rows).notna().all()
    found = dict(capacity.question(rows))
    means = found["Means of the seeds"].set_index(["part", "arch", "images"])["runs"]
    assert means["1a", "resnet18_w8", 500] == 2 and means["1a", "resnet18_w8", 60_000] == 3


def test_means_are_those_of_the_complete_runs_of_a_group():
    runs = pd.DataFrame({name: [1.0, 3.0, 7.0, None] for name in results.SHOWN})
    table = results.means(
        runs.assign(setting=["a", "a", "b", "b"], images=[500.0, 500.0, 60000.0, 60000.0]), ["setting", "images"]
    )
    assert table["runs"].tolist() == [2, 1] and table["probe_points"].tolist() == [2.0, 7.0]
    assert table["images"].tolist() == [500, 60000]


def test_nothing_is_reported_of_a_run_that_was_trained_and_not_yet_measured(table_of_results):
    rows = table_of_results
    rows.loc[(rows["run"] == "1a-w4-nall-s1") & (rows["epoch"] == 16), "probe"] = None
    assert "1a-w4-nall-s1" not in set(results.last(rows)["run"])


def test_equal_outputs_have_the_rank_1(tmp_path):
    path = tmp_path / "study.csv"
    row = {"run": "1a-w2-n500-s1", "epoch": 0, "val_effective_rank": 0.0, "probe": 0.1, "probe_class": 0.1, "knn": 0.1}
    pd.DataFrame([row | {"parameters": 10, "train_images": 500}]).to_csv(path, index=False)
    assert results.read(path)["log2_rank"].tolist() == [0.0]


def test_each_figure_is_drawn_from_the_results_of_its_part(table_of_results, tmp_path, monkeypatch):
    rows = table_of_results.assign(m_auc=0.8, m_loss=-0.9)
    monkeypatch.setattr(figures, "read", lambda path: rows[rows["part"].isin(("1a", "6"))])
    monkeypatch.setattr(sys, "argv", ["figures.py", "study.csv", str(tmp_path)])
    values = {f"{name}/epoch{e}_val_values": np.geomspace(1, 1e-30, 16) for name in set(rows["run"]) for e in (0, 16)}
    np.savez(tmp_path / "study.npz", **values)
    monkeypatch.setattr(sys, "argv", ["figures.py", str(tmp_path / "study.csv"), str(tmp_path)])
    figures.main()
    found = {path.stem for path in tmp_path.glob("*.svg")}
    assert found == {"study-plane", "study-forecast", "study-methods", "study-val-spectra"}
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


def test_the_page_of_tables_is_of_the_committed_results():
    assert report.checksum(str(STUDY_TABLE)) in (STUDY_TABLE.parents[1] / "study-tables.md").read_text()


def test_the_shipped_forecast_is_that_of_the_committed_results():
    found, shipped = fit_forecast.fitted(results.read(STUDY_TABLE)), Forecast.load("study")
    assert found.runs == shipped.runs and found.domain == shipped.domain
    numbers = ("intercept", "r2", "loo_error")
    assert [getattr(found, name) for name in numbers] == pytest.approx([getattr(shipped, name) for name in numbers])


def test_an_early_sign_is_counted_in_steps_before_the_accuracy(table_of_results):
    rows = table_of_results[table_of_results["run"].str.startswith("1a-w4-nall")]
    rows = rows.assign(m_verdict=np.where(rows["epoch"] > 10, "partial", "healthy"), d=32)
    found = dict(early.question(rows))
    assert not found["Whether it can be answered"]["answered"].item()  # three falls
    falls = found["Falls, and by how many steps they precede that of the accuracy"].set_index("measure")
    rank = falls.loc["effective rank"]
    assert (rank["runs"], rank["falls"], rank["accuracy falls"], rank["before it"], rank["alone"]) == (3, 3, 3, 3, 0)
    assert rank["lead in steps"].value in {192 * lead for lead in (8, 9, 10, 11)}
    assert (
        falls.loc["the verdict on the layers", "lead in steps"].value == 2 * 192
    )  # from epoch 11, the accuracy from 13
    assert falls.loc["AUC", "runs"] == 0  # which this monitor did not record
    steps = found["The step of each fall, in runs that have one"]
    assert steps["accuracy"].tolist() == [13 * 192] * 3 and steps["verdict"].tolist() == [11 * 192] * 3
    assert steps["AUC"].isna().all()
    still = dict(early.question(rows.assign(m_knn=0.7, m_effective_rank=9.0, m_verdict="healthy")))
    assert still["The step of each fall, in runs that have one"].empty
    rows = rows.assign(m_feature_std=np.where(rows["epoch"] > 5, 0.15, 0.5), m_dead_directions=0.2)
    found = dict(early.question(rows))
    limits = found["Thresholds"].set_index(["measure", "below"])
    assert limits["falls"].tolist() == [0, 3, 3, 0, 0, 0, 3, 3, 0]  # of feature_std, the rank, the other directions
    assert limits["lead in steps"]["feature_std", 0.2].value == 7 * 192


def test_a_run_whose_monitor_lacks_the_verdict_does_not_count_as_one_without_a_fall():
    assert early.lead([None, -1, 2, 3], [4, 4, 4, None], 10) | {"lead in steps": None} == {
        "runs": 3,
        "falls": 2,
        "accuracy falls": 2,
        "before it": 1,
        "alone": 1,
        "lead in steps": None,
    }
    assert early.verdict(pd.DataFrame({"m_knn": [1.0]})) == -1
    assert early.verdict(pd.DataFrame({"m_verdict": ["healthy", None, None]})) == 1
    assert early.verdict(pd.DataFrame({"m_verdict": ["partial", "partial"]})) == 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_forecast_is_scored_for_each_measure_alone_and_with_the_loss(table_of_results, monkeypatch):
    monkeypatch.setattr(forecasts, "MEASURES", ("val_auc", "log2_rank", "not measured"))
    random, count = np.random.RandomState(2), len(table_of_results)
    rows = table_of_results.assign(m_loss=random.randn(count), m_auc=0.8, probe_even=0.7, probe_odd=0.7)
    columns = {column for column, _ in forecasts.CHOICES.values()} - {*rows}
    *tables, (_, chosen) = forecasts.question(rows.assign(**{column: random.rand(count) for column in columns}))
    assert len(tables) == 5 and len(chosen) == len(forecasts.CHOICES)
    runs = rows[(rows["method"] == "simsiam") & rows["parent"].isna()]["run"].nunique()
    alone = ["untrained_probe", "m_knn", "m_loss", "val_auc", "log2_rank"]
    for _, table in tables[:4]:
        assert table["from"].tolist() == [*alone, "val_auc + m_loss", "log2_rank + m_loss"]
        assert (table["runs"] == runs).all()
    assert set(tables[0][1]["groups"]) == {6}  # widths 2, 4, 8 and 16, depth 34, emoji


def test_the_report_prints_a_markdown_table_for_each_question(table_of_results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "read", lambda path: table_of_results)
    for wrong in ([], ["--help"], [str(tmp_path / "study.csv"), "7"]):
        monkeypatch.setattr(sys, "argv", ["report.py", *wrong])
        with pytest.raises(SystemExit, match=r"report\.py study\.csv"):
            report.main()
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "study.csv"), "2", "3"])
    report.main()
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[0] for line in lines if line.startswith("#")]
    assert titles == ["##", "###", "###", "###", "##", "###", "###", "###"]
    assert sum(line.startswith("| ---") for line in lines) == 6
    assert report.markdown(pd.DataFrame({"a": [np.nan, 0.25], "b": [None, estimates.Estimate(np.nan)]})).endswith(
        "|  |  |\n| 0.25 |  |"
    )


def test_the_cost_of_a_choice_is_what_its_checkpoint_lacks_to_the_best_of_its_run(monkeypatch):
    """Of three runs, the first is best at its highest rank, the others at their last checkpoints."""
    monkeypatch.setattr(forecasts, "bootstrap", functools.partial(estimates.bootstrap, draws=10))
    accuracies = [0.5, 0.7, 0.6] + 2 * [0.5, 0.6, 0.8] + [0.1]
    rows = pd.DataFrame(
        {
            "run": ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["not complete"],
            "epoch": [1, 2, 4] * 3 + [2],
            "epochs": 4,
            "method": "simsiam",
            "data": "fashion",
            "arch": "resnet18_w4",
            "parent": None,
            "probe_even": accuracies,
            "probe_odd": accuracies,
            "probe": accuracies,
            "untrained_probe": 0.4,
            "effective_rank": [1.0, 9.0, 2.0] + 2 * [5.0, 3.0, 1.0] + [1.0],
        }
    )
    rows = rows.assign(**dict.fromkeys(("m_loss", "m_knn", "auc"), rows["epoch"]))
    rows = rows.assign(**dict.fromkeys(("rankme", "feature_std", "lidar"), rows["epoch"]))
    found = forecasts.choices(rows).set_index("checkpoint")
    for name, costs in {
        "the last": [10, 0, 0],
        "highest effective_rank": [0, 30, 30],
        "lowest loss": [20, 30, 30],
    }.items():
        assert found.loc[name, "points"].value == pytest.approx(np.mean(costs))
        assert found.loc[name, "median"] == pytest.approx(np.median(costs))
    assert found["best"].tolist()[:2] == pytest.approx([2 / 3, 0])  # the lowest loss is at the first: here it rises
    assert (found["runs"] == 3).all()
