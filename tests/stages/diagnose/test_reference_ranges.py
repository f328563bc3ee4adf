"""What is normal: ranges over healthy runs of the same method, architecture and dataset on about as many images."""

from __future__ import annotations

import json

import pytest

from ssltool.diagnosis.metrics import METRICS
from ssltool.methods import METHODS
from ssltool.stages.diagnose.reference_ranges import reference_range, reference_runs

SETTINGS = {"method": "a", "arch": "b", "dataset": "c", "n_images": 1000}


def run(value: float, **changes):
    facts = {"method": "a", "arch": "b", "dataset": "c", "images": 1000, "steps": 500, "verdict": "healthy"}
    return facts | {"backbone_auc": value} | changes


def test_the_range_is_that_of_the_comparable_runs():
    others = [
        run(9, method="x"),
        run(9, stem="x"),
        run(9, image_size=8),
        run(9, arch="x"),
        run(9, dataset="x"),
        run(9, verdict="partial"),
        run(9, images=2001),
    ]
    found = reference_range(SETTINGS, "backbone_auc", (run(0.6, images=500), run(0.8, steps=9), run(0.7), *others))
    assert (found.low, found.high, found.runs) == (0.6, 0.8, 3)
    assert str(found) == "0.6 to 0.8 in 3 healthy runs of 9 to 500 steps on 500 to 1,000 images"


def test_values_of_projectors_are_compared_at_one_width():
    runs = tuple(run(0, projector_auc=value, dim=dim) for value, dim in ((0.6, 64), (0.7, 64), (0.9, 128)))
    settings = SETTINGS | {"method_options": {"dim": 64}}
    found = reference_range(settings, "projector_auc", runs)
    assert (found.low, found.high) == (0.6, 0.7)
    assert reference_range(settings, "backbone_auc", runs).runs == 3


@pytest.mark.parametrize(("value", "normal"), [(0.7, True), (0.46, True), (0.44, False), (0.99, True), (1.01, False)])
def test_a_value_is_unusual_if_it_is_a_quarter_outside(value, normal):
    assert reference_range(SETTINGS, "backbone_auc", (run(0.6), run(0.8))).contains(value) is normal


@pytest.mark.parametrize(("value", "normal"), [(0.0, True), (0.001, True), (0.019, True), (0.03, False)])
def test_a_range_of_0_to_0_has_a_margin(value, normal):
    """One dead direction of a thousand is not unusual where two runs had none."""
    assert reference_range(SETTINGS, "backbone_auc", (run(0.0), run(0.0))).contains(value) is normal


def test_one_run_makes_no_range():
    assert reference_range(SETTINGS, "backbone_auc", (run(0.6),)) is None
    assert reference_range(SETTINGS, "other", (run(0.6), run(0.7))) is None


def test_the_data_file_holds_runs_of_methods_and_metrics_that_exist():
    for one in reference_runs():
        assert one["method"] in METHODS
        names = {name.partition("_")[2] for name in one if name.startswith(("backbone_", "projector_"))}
        assert names <= {*METRICS, "knn"}


def test_a_run_that_differs_from_the_reference_is_told_so_without_a_fault(ssltool, trained, tmp_path, monkeypatch):
    import shutil

    from helpers import records
    from ssltool.stages.diagnose import reference_ranges

    copy = tmp_path / "run"
    shutil.copytree(trained, copy)
    settings = json.loads((copy / "config.json").read_text())
    rank = records(trained)[-1]["backbone_effective_rank"]
    of = {name: settings[name] for name in ("method", "arch", "stem", "image_size", "dataset")}
    normal = [run(0.0, **of, images=settings["n_images"], backbone_effective_rank=r * rank) for r in (2.0, 3.0)]
    for one in normal:
        del one["backbone_auc"]
    monkeypatch.setattr(reference_ranges, "reference_runs", lambda: tuple(normal))
    found = ssltool("diagnose", copy, "--json").json["reports"][0]["findings"]
    (unusual,) = [one for one in found if one["kind"] == "unusual"]
    assert unusual["evidence"] == {"backbone_effective_rank": rank}
    assert unusual["state"] == "healthy"
