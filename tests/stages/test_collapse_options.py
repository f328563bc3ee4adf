"""What one asks of the collapse command beside spectra: metrics, intervals, verdicts, groups and tables."""

from __future__ import annotations

import json
import math
import re
import statistics

import pandas as pd
import pytest
import torch
from torch import Tensor

from helpers import error_message, usage_message
from ssltool.config.fields import STATES
from ssltool.diagnosis.metrics import METRICS, QUICK, RENYI
from ssltool.diagnosis.metrics.of_classes import Classes, nc1
from ssltool.reprs.representations import Representations

OF_VIEWS, OF_CLASSES = ({n for n, metric in METRICS.items() if metric.at == at} for at in ("views", "classes"))
OF_TOKENS = {n for n, metric in METRICS.items() if metric.at in ("patches", "class tokens", "earlier patches")}
OF_ONE_FILE = [name for name in METRICS if name not in ("clid", "cka", *OF_TOKENS)]


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def in_dimensions(k: int, n: int = 400, d: int = 60) -> Tensor:
    """Rows spread evenly over a k-dimensional subspace of d dimensions."""
    basis = torch.linalg.qr(gaussian(d, k, seed=1))[0]
    return gaussian(n, k) @ basis.T


EXAMPLES = {"healthy": gaussian(400, 60), "partial": in_dimensions(3), "complete": in_dimensions(1)}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Saves representations into the folder that is worked in, with what they say of themselves."""
    monkeypatch.chdir(tmp_path)

    def save(name: str, x: Tensor, **meta: object) -> str:
        Representations(x, torch.full((len(x),), -1), torch.arange(len(x)), meta).save(name)
        return name

    return save


@pytest.fixture
def measured(ssltool, tmp_path):
    """What the command's JSON says of its one file, or of the last of several."""

    def run(*args: object) -> dict:
        ran = ssltool("collapse", *args, "--json")
        assert ran.code == 0
        return strict(ran.out)["files"][-1]

    return run


def strict(text: str) -> dict:
    """JSON as RFC 8259 has it: without NaN and infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# Metrics


def test_metrics_are_those_asked_for_in_their_order(ssltool, write, measured):
    path = write("a.pt", gaussian(80, 6))
    asked = ["stable_rank", "uniformity", "auc"]
    assert list(measured(path, "--metrics", " stable-rank,uniformity,,auc,stable_rank")["metrics"]) == asked
    lines = ssltool("collapse", path, "--metrics", ",".join(asked)).out.splitlines()
    assert [line.split()[0] for line in lines[lines.index("") + 2 :]] == asked


def test_the_default_metrics_are_those_of_one_pass(write, measured):
    assert tuple(measured(write("a.pt", gaussian(80, 6)))["metrics"]) == tuple(QUICK)


def test_all_are_all_metrics_that_a_file_of_single_rows_has(write, measured):
    found = measured(write("a.pt", gaussian(80, 6)), "--metrics", "all")["metrics"]
    assert list(found) == [name for name in OF_ONE_FILE if name not in OF_VIEWS | OF_CLASSES]


def test_renyi_are_the_effective_ranks_of_the_curve(ssltool, write, measured):
    path = write("a.pt", gaussian(80, 6))
    found = measured(path, "--metrics", "renyi")["metrics"]
    assert list(found) == list(RENYI)
    assert found["renyi_rank_half"] > found["entropy_rank"] > found["participation_ratio"] > found["stable_rank"]
    assert found["effective_rank"] > found["entropy_rank"]
    assert ssltool("rank", path, "--by", "renyi").code == 2


def test_a_collapse_of_the_scale_changes_the_metrics_of_scale_and_no_verdict(write, measured):
    one, small = (measured(write(f"{i}.pt", i * gaussian(400, 6)), "--metrics", "all") for i in (1.0, 0.01))
    assert small["metrics"]["mean_norm"] == pytest.approx(0.01 * one["metrics"]["mean_norm"], rel=1e-6)
    assert small["metrics"]["total_variance"] == pytest.approx(1e-4 * one["metrics"]["total_variance"], rel=1e-6)
    assert small["metrics"]["coding_rate"] < 0.01 * one["metrics"]["coding_rate"]
    assert small["metrics"]["sigreg_z"] > 100 > 6 > abs(one["metrics"]["sigreg_z"])
    assert small["verdict"]["state"] == one["verdict"]["state"] == "healthy"


def test_the_document_says_which_ranks_alpha_is_fitted_to_and_how_well(write, measured):
    x = gaussian(300, 110).double()
    rows = torch.linalg.qr(x - x.mean(dim=0))[0] * torch.arange(1, 111) ** -0.6  # the square roots of j^-1.2
    found = measured(write("a.pt", rows))
    assert found["metrics"]["alpha"] == pytest.approx(1.2)
    assert found["alpha_ranks"] == [11, 100]
    assert found["alpha_r2"] == pytest.approx(1.0)


def views() -> Tensor:
    return gaussian(90, 6)[:, None] + 0.3 * gaussian(90 * 4, 6, seed=1).reshape(90, 4, 6)


def test_all_are_all_metrics_there_are_for_a_file_of_views(write, measured):
    x = views()
    found = measured(write("views.pt", x), "--metrics", "all")
    assert (found["n"], found["d"]) == (360, 6)
    assert list(found["metrics"]) == [name for name in OF_ONE_FILE if name not in OF_CLASSES]
    for name in OF_VIEWS:
        assert found["metrics"][name] == pytest.approx(METRICS.load(name)(x), rel=1e-12)
    rows = measured(write("rows.pt", x.reshape(360, 6)), "--metrics", "all")["metrics"]
    assert rows.items() <= found["metrics"].items()


def test_each_of_several_files_has_the_metrics_that_its_kind_allows(ssltool, write):
    ran = ssltool("collapse", write("views.pt", views()), write("rows.pt", gaussian(90, 6)), "--metrics", "all")
    header, first, second = (line.split() for line in ran.out.splitlines()[:3])
    assert header[-2:] == ["alignment", "lidar"]
    assert "-" not in first[-2:]
    assert second[-2:] == ["-", "-"]


def labelled(n: int = 120, d: int = 6) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 3
    return gaussian(n, d) + 2 * gaussian(3, d, seed=1)[labels], labels


def test_all_are_also_the_metrics_of_classes_for_a_file_with_labels(write, measured):
    x, labels = labelled()
    Representations(x, labels, torch.arange(len(x)), {}).save("labelled.pt")
    found = measured("labelled.pt", "--metrics", "all")["metrics"]
    assert list(found) == [name for name in OF_ONE_FILE if name not in OF_VIEWS]
    assert found["nc1"] == pytest.approx(nc1(Classes.of(x, labels)))
    assert measured("labelled.pt", "--metrics", "nc1")["metrics"] == {"nc1": pytest.approx(found["nc1"])}


def test_merged_files_number_their_classes_by_name(write, measured):
    x, labels = labelled()
    for name, rows, classes in (("a.pt", slice(0, 60), ["a", "b", "c"]), ("b.pt", slice(60, 120), ["c", "b", "a"])):
        own = labels[rows] if name == "a.pt" else 2 - labels[rows]
        Representations(x[rows], own, torch.arange(120)[rows], {"classes": classes}).save(name)
    found = measured("a.pt", "b.pt", "--merge", "--metrics", "nc1,class_cosine")["metrics"]
    assert found["nc1"] == pytest.approx(nc1(Classes.of(x, labels)))


def test_metrics_of_classes_need_labels_or_pseudo_labels(ssltool, write, measured):
    path = write("a.pt", gaussian(120, 6))
    refused = error_message(ssltool("collapse", path, "--metrics", "auc,nc1"))
    assert all(text in refused for text in ("nc1", "a.pt", "--pseudo-labels"))
    found = measured(path, "--metrics", "nc1,class_rank", "--pseudo-labels", "4")
    assert list(found["metrics"]) == ["nc1", "class_rank"]
    assert any("--pseudo-labels" in note and "4 clusters" in note for note in found["notes"])
    assert set(measured(path, "--metrics", "all", "--pseudo-labels", "4")["metrics"]) >= OF_CLASSES


def test_a_metric_of_several_files_is_that_of_rank(ssltool, write):
    refused = error_message(ssltool("collapse", write("a.pt", gaussian(120, 6)), "--metrics", "clid"))
    assert "clid" in refused and "rank" in refused


def test_the_number_of_clusters_can_be_chosen(write, measured):
    path = write("a.pt", gaussian(120, 6))
    assert measured(path, "--metrics", "cluster_usage", "--clusters", "5")["cluster_usage_clusters"] == 5


@pytest.mark.parametrize("flag", ["--clusters", "--pseudo-labels"])
@pytest.mark.parametrize("names", [[], ["--metrics", "auc,twonn"]])
def test_a_number_of_clusters_without_effect_is_a_mistake(ssltool, write, flag, names):
    assert flag in usage_message(ssltool("collapse", write("a.pt", gaussian(120, 6)), *names, flag, "5"))


def test_more_clusters_than_rows_are_refused(ssltool, write):
    path = write("a.pt", gaussian(20, 6))
    assert "20 rows" in error_message(ssltool("collapse", path, "--metrics", "cluster_usage", "--clusters", "21"))


def test_views_are_no_neighbours_of_each_other(ssltool, write):
    ran = ssltool("knn", write("views.pt", views()), "views.pt")
    assert (ran.code, ran.out) == (1, "")
    assert "views.pt" in ran.err and "4" in ran.err and "--views" in ran.err


# What is printed where


def test_json_is_one_document_without_nan_and_notes_are_on_stderr(ssltool, write):
    ran = ssltool("collapse", write("a.pt", gaussian(5, 8)), "--json", "--bootstrap", 3)
    (found,) = strict(ran.out)["files"]
    assert len(ran.out.splitlines()) == 1
    assert found["metrics"]["alpha"] is None  # too few values for a power law
    assert found["intervals"]["alpha"] == [None, None]
    assert found["notes"]
    assert ran.err.splitlines() == [f"note: a.pt: {note}" for note in found["notes"]]


def test_the_table_has_no_notes_and_a_dash_for_what_is_not_a_number(ssltool, write):
    ran = ssltool("collapse", write("a.pt", gaussian(5, 8)))
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("alpha")] == ["-"]
    assert "note" not in ran.out
    assert re.match(r"note: a\.pt: 5 .*8 .*at most 4 ", ran.err)


def test_a_device_without_float64_is_refused(ssltool, write, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    ran = ssltool("collapse", write("a.pt", gaussian(80, 6)), "--device", "mps")
    assert "--device cpu" in usage_message(ran)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_where_the_only_accelerator_has_no_float64_auto_takes_the_cpu(ssltool, write, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = ssltool("collapse", write("a.pt", gaussian(80, 6)))
    assert ran.code == 0, ran.err


# How far the numbers are to be trusted


def test_bootstrap_gives_an_interval_for_each_metric_in_json_and_table(ssltool, write, measured):
    path = write("a.pt", gaussian(300, 6) * torch.linspace(1, 0.3, 6))
    found = measured(path, "--bootstrap", 20)
    assert set(found["intervals"]) == set(found["metrics"])
    low, high = found["intervals"]["participation_ratio"]
    assert low < found["metrics"]["participation_ratio"] < high
    table = ssltool("collapse", path, "--bootstrap", 20).out
    assert "95 % interval" in table
    assert f"{low:.4g} .. {high:.4g}" in table


def test_only_the_metrics_asked_for_have_an_interval(write, measured):
    found = measured(write("a.pt", gaussian(100, 6)), "--bootstrap", 3, "--metrics", "rankme,uniformity")
    assert set(found["intervals"]) == {"rankme"}  # pairs of rows are not gone through again for each resample


def test_intervals_and_subsamples_depend_on_the_seed_alone(write, measured):
    path = write("a.pt", gaussian(300, 6))

    def doubts(*flags: object) -> tuple:
        found = measured(path, "--bootstrap", 10, "--subsample", 50, *flags)
        return found["intervals"], found["subsamples"]

    first = doubts("--seed", 1)
    torch.manual_seed(9)
    assert doubts("--seed", 1) == first
    other = doubts("--seed", 2)
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_subsamples_are_in_the_order_asked_for_and_all_rows_are_the_whole(ssltool, write, measured):
    path = write("a.pt", gaussian(1500, 6))
    found = measured(path, "--subsample", "20,1500, 7", "--metrics", "rankme,auc")
    assert [set(row) for row in found["subsamples"]] == [{"n", "rankme", "auc"}] * 3
    assert [row["n"] for row in found["subsamples"]] == [20, 1500, 7]
    assert found["subsamples"][1] == pytest.approx({"n": 1500} | found["metrics"], rel=1e-12)
    table = ssltool("collapse", path, "--subsample", "20,1500,7", "--metrics", "rankme,auc").out
    assert [line.split()[0] for line in table.split("\n\n")[-1].splitlines()] == ["rows", "20", "1,500", "7"]


def test_the_columns_of_subsamples_are_in_the_order_of_the_metrics(ssltool, write):
    path = write("a.pt", gaussian(80, 6))
    for flags, names in ([], list(QUICK)), (["--metrics", "rankme,auc"], ["rankme", "auc"]):
        table = ssltool("collapse", path, "--subsample", 50, *flags).out.split("\n\n")[-1]
        assert table.split()[: len(names) + 1] == ["rows", *names]


# Verdicts


@pytest.mark.parametrize("asked", [None, *STATES[1:]])
@pytest.mark.parametrize("state", STATES)
def test_the_exit_code_is_3_where_a_file_has_collapsed_as_far_as_fail_on_says(ssltool, write, tmp_path, state, asked):
    path, flags = write("a.pt", EXAMPLES[state]), ["--fail-on", asked] if asked else []
    code = 3 if asked is not None and STATES.index(state) >= STATES.index(asked) else 0
    ran = ssltool("collapse", path, *flags)
    assert ran.code == code
    assert "effective_rank" in ran.out
    assert f"\n{state}" in ran.out
    assert (tmp_path / "a_svd.pt").is_file()
    ran = ssltool("collapse", path, *flags, "--json")
    assert ran.code == code
    assert (ran.json["worst"], ran.json["files"][0]["verdict"]["state"]) == (state, state)


@pytest.mark.parametrize("order", [("healthy", "complete", "partial"), ("partial", "healthy", "complete")])
def test_the_worst_of_several_files_decides(ssltool, write, order):
    paths = [write(f"{state}.pt", EXAMPLES[state]) for state in order]
    ran = ssltool("collapse", *paths, "--fail-on", "complete", "--json")
    assert (ran.code, ran.json["worst"]) == (3, "complete")
    assert [found["verdict"]["state"] for found in ran.json["files"]] == list(order)
    table = ssltool("collapse", *paths).out
    for state, path in zip(order, paths, strict=True):
        assert f"\n{path}: {state}" in table


def test_thresholds_move_the_verdict_either_way(ssltool, write):
    paths = {state: write(f"{state}.pt", x) for state, x in EXAMPLES.items()}
    moved = ["--threshold", "partial_rank=0", "--threshold", "partial_dead=1"]
    assert ssltool("collapse", paths["partial"], "--fail-on", "partial", *moved).code == 0
    assert ssltool("collapse", paths["healthy"], "--fail-on", "partial", "--threshold", "partial_rank=1").code == 3
    assert ssltool("collapse", paths["healthy"], "--fail-on", "complete", "--threshold", "complete_std=1.1").code == 3
    assert ssltool("collapse", paths["complete"], "--fail-on", "complete", "--threshold", "complete_rank=0").code == 0


def test_the_verdict_is_that_of_all_rows_whatever_metrics_are_shown(write, measured):
    path = write("a.pt", EXAMPLES["partial"])
    shown, every = measured(path, "--metrics", "uniformity"), measured(path, "--metrics", "all")
    assert list(shown["metrics"]) == ["uniformity"]
    assert shown["verdict"] == every["verdict"]


def test_dimensions_that_do_not_change_are_numbered_and_counted(write, measured):
    x = gaussian(400, 10)
    x[:, [2, 7]] = 0.5
    found = measured(write("a.pt", x))["verdict"]
    assert (found["dead"], found["dead_dimensions"]) == ([2, 7], 2)


def test_a_layer_that_can_only_have_so_many_directions_is_judged_among_these(write, measured):
    x = gaussian(1000, 128) @ gaussian(128, 512, seed=1)
    found = measured(write("layer.pt", x, directions=128))["verdict"]
    assert (found["state"], found["dimensions"]) == ("healthy", 128)
    assert found["dead_directions"] == 0
    found = measured(write("silent.pt", x))["verdict"]
    assert (found["state"], found["dimensions"]) == ("partial", 512)
    assert found["dead_directions"] == pytest.approx(1 - 128 / 512)


def test_like_shows_the_values_of_the_other_file(ssltool, write, measured):
    path, other = write("a.pt", gaussian(300, 20)), write("b.pt", gaussian(200, 20, seed=1) * 2 + 1)
    assert measured(path, "--like", other)["like"] == measured(other)["metrics"]
    lines = ssltool("collapse", path, "--like", other).out.splitlines()
    shown = {line.split()[0]: line.split()[2] for line in lines[lines.index("") + 2 :]}
    assert shown["rankme"] == f"{measured(other)['metrics']['rankme']:.4g}"
    assert any("in --like" in line for line in lines)


def test_like_also_compares_with_what_has_not_all_metrics(write, measured):
    found = measured(write("a.pt", views()), "--metrics", "all", "--like", write("b.pt", gaussian(90, 6)))
    assert found["like"]["auc"] == measured("b.pt")["metrics"]["auc"]
    assert found["like"].get("lidar") is None


@pytest.mark.parametrize(
    ("dimensions", "other", "state"),
    [(60, 60, "healthy"), (20, 60, "partial"), (40, 60, "healthy"), (3, 60, "partial"), (3, 3, "partial")],
)
def test_far_fewer_dimensions_than_in_the_other_file_are_a_partial_collapse(write, measured, dimensions, other, state):
    loose = ["--threshold", "partial_dead=1"]  # so that only the number of dimensions is looked at
    path, reference = write("a.pt", in_dimensions(dimensions)), write("b.pt", in_dimensions(other))
    assert measured(path, *loose, "--like", reference)["verdict"]["state"] == state


@pytest.mark.parametrize(
    ("by", "ours", "theirs"), [("--like", 60, 2000), ("--like", 2000, 60), ("--reference", 60, 2000)]
)
def test_rows_of_one_distribution_are_healthy_beside_any_number_of_others(write, measured, by, ours, theirs):
    """60 rows cannot have half of the 100 dimensions of 2,000 rows."""
    x, images = gaussian(2000, 200), {"dataset": "folder", "split": "val", "fingerprint": "here"}
    path, reference = write("a.pt", x[:ours], **images), write("b.pt", x[:theirs], **images)
    found = measured(path, by, reference)
    assert found["verdict"]["state"] == "healthy"
    (note,) = [note for note in found["notes"] if "b.pt" in note and "compared" in note]
    assert "60 rows" in note


def test_the_number_of_rows_hides_no_collapse_beside_a_reference(write, measured):
    loose = ["--threshold", "partial_dead=1", "--threshold", "partial_rank=0"]
    path, reference = write("a.pt", in_dimensions(10, n=300)), write("b.pt", in_dimensions(60))
    assert measured(path, *loose, "--like", reference)["verdict"]["state"] == "partial"


def test_a_narrow_file_is_compared_with_the_dimensions_that_it_can_have(write, measured):
    narrow, wide = write("a.pt", gaussian(1000, 20)), write("b.pt", gaussian(1000, 200))
    found = measured(narrow, "--like", wide)
    assert found["verdict"]["state"] == "healthy"
    assert "b.pt: 20" in found["verdict"]["line"]
    assert any("counts as 20" in note for note in found["notes"])
    flat = write("c.pt", torch.cat([gaussian(1000, 4), 1e-3 * gaussian(1000, 16, seed=2)], dim=1))
    loose = ["--threshold", "partial_dead=1", "--threshold", "partial_rank=0.01"]
    assert measured(flat, *loose, "--like", wide)["verdict"]["state"] == "partial"


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("other", STATES)
def test_like_never_makes_a_verdict_better(write, measured, state, other):
    path, reference = write("a.pt", EXAMPLES[state]), write("b.pt", EXAMPLES[other])
    alone, beside = measured(path)["verdict"], measured(path, "--like", reference)["verdict"]
    assert STATES.index(beside["state"]) >= STATES.index(alone["state"])
    assert beside["why"][: len(alone["why"])] == alone["why"]
    assert "dimensions in use" in beside["line"]
    assert "b.pt" in beside["line"]


# Many runs

RUNS = [
    {"arch": "resnet18", "method": "simsiam", "strategy": "iid", "epoch": 9},
    {"arch": "resnet50", "method": "simsiam", "strategy": "last", "epoch": 99},
    {"arch": "resnet18", "method": "byol", "strategy": "iid", "epoch": 9},
    {},
    {"arch": "resnet18", "method": "byol"},
]


@pytest.fixture
def runs(write) -> list[str]:
    return [write(f"{i}.pt", gaussian(60, 5 + i, seed=i) * (i + 1), **meta) for i, meta in enumerate(RUNS)]


@pytest.mark.parametrize("by", ["arch", "method", "strategy", "epoch"])
def test_groups_are_what_the_files_say_of_themselves_with_mean_and_deviation(ssltool, runs, by):
    names = ["effective_rank", "mean_cosine"]
    found = strict(ssltool("collapse", *runs, "--group-by", by, "--metrics", ",".join(names), "--json").out)
    values = [str(meta.get(by, "unknown")) for meta in RUNS]
    assert [group[by] for group in found["groups"]] == list(dict.fromkeys(values))
    for group in found["groups"]:
        mine = [one["metrics"] for one, value in zip(found["files"], values, strict=True) if value == group[by]]
        assert group["files"] == len(mine)
        for name in names:
            numbers = [one[name] for one in mine]
            deviation = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
            assert group["mean"][name] == pytest.approx(statistics.mean(numbers), rel=1e-12)
            assert group["std"][name] == pytest.approx(deviation, rel=1e-9)


def test_the_table_of_groups_is_below_that_of_the_files(ssltool, runs):
    ran = ssltool("collapse", *runs, "--group-by", "method", "--metrics", "auc")
    lines = ran.out.split("\n\n")[-1].splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["method", "files"],
        ["simsiam", "2"],
        ["byol", "2"],
        ["unknown", "1"],
    ]
    assert all("+-" in line for line in lines[1:])


def test_all_metrics_of_the_files_are_in_the_groups(ssltool, tmp_path):
    for arch in "ab":
        Representations(gaussian(60, 5), torch.arange(60) % 3, torch.arange(60), {"arch": arch}).save(tmp_path / arch)
    files = tmp_path / "a", tmp_path / "b"
    found = strict(ssltool("collapse", *files, "--group-by", "arch", "--metrics", "all", "--json").out)
    assert "nc1" in found["groups"][0]["mean"] and set(found["groups"][0]["mean"]) == {*found["files"][0]["metrics"]}


def test_out_csv_has_a_row_for_each_file_that_pandas_reads_back(ssltool, runs, tmp_path):
    found = strict(ssltool("collapse", *runs, "--out", "tables/t.csv", "--json").out)["files"]
    frame = pd.read_csv(tmp_path / "tables" / "t.csv")
    assert frame["path"].tolist() == runs
    assert frame["n"].tolist() == [60] * len(runs)
    assert frame["arch"].fillna("").tolist() == [meta.get("arch", "") for meta in RUNS]
    assert frame["verdict"].tolist() == [one["verdict"]["state"] for one in found]
    for name in QUICK:
        wanted = [math.nan if one["metrics"][name] is None else one["metrics"][name] for one in found]
        assert frame[name].tolist() == pytest.approx(wanted, rel=1e-14, nan_ok=True), name


def test_out_json_is_the_document_that_json_prints(ssltool, runs, tmp_path):
    flags = ["--group-by", "arch", "--bootstrap", 3, "--subsample", 20]
    ran = ssltool("collapse", *runs, *flags, "--out", "t.json", "--json")
    assert strict((tmp_path / "t.json").read_text()) == strict(ran.out)


@pytest.mark.parametrize("table", ["t.csv", "t.json"])
def test_beside_a_table_the_spectra_stay_with_their_inputs(ssltool, runs, tmp_path, table):
    assert ssltool("collapse", *runs, "--out", table).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {table, *runs, *(f"{i}_svd.pt" for i in range(len(runs)))}
