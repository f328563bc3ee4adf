"""Folders of ``ssltool.Monitor`` are diagnosed as run folders are, and recorded verdicts are used as they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import error_message, records
from ssltool import Monitor
from ssltool.diagnosis.verdict import NEEDED

IMAGES = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2


@pytest.fixture
def watch(tmp_path):
    """A folder of looks at a network whose projector is multiplied by a factor at each step: ``watch(1, 1, 0)``."""

    def make(*factors: float, losses: list[float] | None = None, **more) -> Path:
        torch.manual_seed(0)
        layers = {"backbone": nn.Sequential(nn.Flatten(), nn.Linear(48, 12)), "projector": nn.Linear(12, 6)}
        monitor = Monitor(IMAGES, layers, out=tmp_path / "watched", labels=LABELS, every=10, **more)
        weight = layers["projector"].weight.detach().clone()
        for i, factor in enumerate(factors):
            with torch.no_grad():
                layers["projector"].weight.copy_(weight * factor)
            monitor.step(10 * i, loss=None if losses is None else losses[i])
        return tmp_path / "watched"

    return make


def rewrite(folder: Path, *changes: dict) -> None:
    """Replaces entries of the records of ``folder``."""
    lines = [json.dumps(record | change) for record, change in zip(records(folder), changes, strict=True)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def test_a_collapse_is_dated_by_its_step_and_names_the_layer_and_the_checkpoint_to_keep(ssltool, watch):
    folder = watch(1, 1, 1, 0, 0)
    ran = ssltool("diagnose", folder, "--json", "--fail-on", "complete")
    (report,) = ran.json["reports"]
    finding = report["findings"][0]
    assert (ran.code, report["source"], report["kind"]) == (3, "monitor", "complete-collapse")
    assert (finding["since"], finding["evidence"]["layer"]) == (30.0, "projector")
    last = records(folder)[-1]
    assert {name: finding["evidence"][name] for name in NEEDED} == {name: last[f"projector_{name}"] for name in NEEDED}
    assert report["keep"]["step"] in (10, 20)
    text = ssltool("diagnose", folder).out
    assert "keep: the checkpoint of step" in text and "4 looks, step 10 to 40" in text
    assert "step(step, loss=loss)" in text  # no loss was given


def test_the_verdict_of_a_look_is_that_of_the_diagnosis(ssltool, watch):
    """Also of a layer whose name is no layer of ours, and of one with a bound."""
    folder = watch(1, 1, 1)
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    assert {record["verdict"] for record in records(folder)[1:]} == {report["state"]} == {"healthy"}
    assert report["findings"] == []
    assert "No collapse was found in 2 looks" in report["line"]


def test_the_untrained_network_is_no_fault(ssltool, watch):
    assert "untrained" in error_message(ssltool("diagnose", watch(0)))
    folder = watch(0, 1, 1)
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    assert (report["state"], report["findings"]) == ("healthy", [])


def test_a_folder_without_a_look_is_refused(ssltool, watch):
    folder = watch(1, 1)
    (folder / "metrics.jsonl").write_text("")
    assert "no look yet" in error_message(ssltool("diagnose", folder))


@pytest.mark.parametrize("verdict", ["healthy", "partial", "complete"])
def test_the_recorded_verdict_counts_where_the_metrics_would_be_judged_otherwise_today(ssltool, watch, verdict):
    """As for records of versions whose metrics had other conventions."""
    folder = watch(1, 1, 1)
    changed = {"verdict": verdict, "projector_dead_directions": 0.9}
    rewrite(folder, {}, changed, changed)
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    assert report["state"] == verdict
    assert {finding["evidence"].get("layer") for finding in report["findings"]} <= {"projector"}


def test_the_recorded_verdict_counts_in_run_folders_too(ssltool, trained, tmp_path):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for verdict in ("healthy", "complete"):
        rewrite(folder, {"verdict": verdict}, {"verdict": verdict})
        assert ssltool("diagnose", folder, "--json").json["worst"] == verdict


def test_a_verdict_that_is_none_is_one_error(ssltool, watch):
    folder = watch(1, 1)
    rewrite(folder, {}, {"verdict": "fine"})
    assert "'fine'" in error_message(ssltool("diagnose", folder))


def test_outputs_that_are_not_finite_are_a_fault_with_their_layer_and_step(ssltool, watch):
    folder = watch(1, 1, math.nan, math.nan)
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    finding = report["findings"][0]
    assert (report["kind"], report["state"], finding["since"]) == ("nonfinite", "complete", 20.0)
    assert finding["evidence"] == {"layer": "projector"}


def test_the_losses_of_the_looks_are_searched(ssltool, watch):
    folder = watch(1, 1, 1, losses=[2.0, math.nan, math.nan])
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    assert (report["kind"], report["findings"][0]["since"], report["loss"]) == ("nonfinite", 10.0, "loss")


def test_the_constant_losses_that_the_monitor_was_given_are_the_probable_cause(ssltool, watch):
    folder = watch(1, 1, 0, 0, losses=[-0.1, -0.5, -1.0, -1.0], constant_losses=(-1.0,))
    (report,) = ssltool("diagnose", folder, "--json").json["reports"]
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert "constant output" in found["complete-collapse"]["cause"]
    assert found["constant-output"]["since"] == 20.0


def test_a_monitor_and_a_run_are_diagnosed_together_and_settings_of_checkpoints_are_refused(ssltool, watch, trained):
    folder = watch(1, 1)
    reports = ssltool("diagnose", folder, trained, "--json").json["reports"]
    assert [report["source"] for report in reports] == ["monitor", "run folder"]
    assert "--sample" in error_message(ssltool("diagnose", folder, "--sample", 5))
