"""The diagnose stage and its command: what is read, what is reported, and the exit codes."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

import log_writers
from helpers import error_message, records, usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import DiagnoseConfig
from ssltool.diagnosis.verdict import NEEDED
from ssltool.stages.diagnose.checkpoint_series import collapse_findings
from ssltool.stages.diagnose.keep import Candidate, choose
from ssltool.stages.diagnose.teacher_copy import compare_teacher, teacher_findings
from ssltool.stages.diagnose.tested_advice import on_parts

LN_K = math.log(65536)
HEALTHY = {"feature_std": 0.7, "effective_rank": 14.0, "dead_directions": 0.0, "auc": 0.6}
PARTIAL = {"feature_std": 0.1, "effective_rank": 3.0, "dead_directions": 0.0, "auc": 0.9}
COMPLETE = {"feature_std": 0.001, "effective_rank": 1.0, "dead_directions": 0.9, "auc": 1.0}


@pytest.fixture
def collapsed_log(tmp_path):
    return log_writers.dino(tmp_path / "log.txt", [LN_K] * 30, [1e-3] * 30)


@pytest.fixture
def healthy_log(tmp_path):
    return log_writers.mae(tmp_path / "other.txt", [1 / (i + 1) + 0.4 for i in range(30)], [1e-3] * 30)


def test_a_log_of_few_values_is_too_short_to_judge(ssltool, tmp_path):
    few, enough = tmp_path / "few.csv", tmp_path / "enough.csv"
    few.write_text("epoch,loss\n1,0.5\n")
    enough.write_text("epoch,loss\n" + "".join(f"{i},{1 / i}\n" for i in range(1, 30)))
    lines = [ssltool("diagnose", path, "--json").json["reports"][0]["line"] for path in (few, enough)]
    assert ["too short" in line for line in lines] == [True, False]
    few.write_text("epoch,loss\n1,nan\n")  # a fault shows in any number of values
    assert ssltool("diagnose", few, "--json").json["reports"][0]["kind"] == "nonfinite"


@pytest.mark.parametrize("cell", ["n/a", ""])
def test_rows_of_a_table_without_a_loss_are_counted_and_named(ssltool, tmp_path, cell):
    table = tmp_path / "losses.csv"
    losses = [str(1 / i) for i in range(1, 21)]
    losses[2] = losses[6] = cell
    table.write_text("epoch,loss\n" + "".join(f"{i},{loss}\n" for i, loss in enumerate(losses)))
    (report,) = ssltool("diagnose", table, "--json").json["reports"]
    assert report["values"] == 18
    (note,) = [note for note in report["notes"] if "left out" in note]
    assert "2 rows" in note and "3, 7" in note


@pytest.fixture
def run_with(trained, tmp_path):
    """A copy of the run folder ``trained`` whose monitor recorded other metrics: ``run_with(backbone, projector)``."""

    def make(backbone: list[dict[str, float]], projector: list[dict[str, float]], **more: list[float]):
        run = tmp_path / "run"
        shutil.copytree(trained, run, dirs_exist_ok=True)
        first = records(trained)[0]
        lines = []
        for epoch, (of_backbone, of_projector) in enumerate(zip(backbone, projector, strict=True)):
            record = first | {"epoch": epoch, "loss": -0.5 - 0.01 * epoch}
            record |= {f"backbone_{name}": value for name, value in of_backbone.items()}
            record |= {f"projector_{name}": value for name, value in of_projector.items()}
            worst = max(of_backbone, of_projector, key=lambda of: [HEALTHY, PARTIAL, COMPLETE].index(of))
            record["verdict"] = ("healthy", "partial", "complete")[[HEALTHY, PARTIAL, COMPLETE].index(worst)]
            lines.append(json.dumps(record | {name: values[epoch] for name, values in more.items()}))
            shutil.copy(trained / "checkpoint.pt", run / f"checkpoint_{epoch:04d}.pt")
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        return run

    return make


def test_a_log_of_equal_outputs_is_reported_with_its_value_and_what_to_run_next(ssltool, collapsed_log):
    ran = ssltool("diagnose", collapsed_log)
    assert ran.code == 0
    assert "11.0904" in ran.out and "ln 65536" in ran.out and "probable cause" in ran.out
    assert "ssltool collapse" in ran.out
    (report,) = ssltool("diagnose", collapsed_log, "--json").json["reports"]
    assert (report["state"], report["kind"], report["since"]) == ("complete", "uniform-output", 0.0)
    assert (report["source"], report["unit"], report["values"]) == ("log", "epoch", 30)
    assert "DINO" in report["read"]


@pytest.mark.parametrize(("limit", "code"), [("partial", 3), ("complete", 3), (None, 0)])
def test_fail_on_sets_the_exit_code_of_the_worst_item(ssltool, collapsed_log, healthy_log, limit, code):
    flags = [] if limit is None else ["--fail-on", limit]
    assert ssltool("diagnose", healthy_log, *flags).code == 0
    ran = ssltool("diagnose", healthy_log, collapsed_log, "--json", *flags)
    assert ran.code == code
    assert [report["state"] for report in ran.json["reports"]] == ["healthy", "complete"]
    assert ran.json["worst"] == "complete"


def test_a_warning_does_not_reach_complete(ssltool, tmp_path):
    log = log_writers.mae(tmp_path / "log.txt", [0.7] * 30, [1e-3] * 30)
    assert ssltool("diagnose", log, "--fail-on", "complete").code == 0
    assert ssltool("diagnose", log, "--fail-on", "partial").code == 3


def test_a_folder_of_logs_is_read_and_other_files_are_named(ssltool, tmp_path, collapsed_log, healthy_log):
    (tmp_path / "notes.md").write_text("hello")
    ran = ssltool("diagnose", tmp_path, "--json")
    assert [report["path"] for report in ran.json["reports"]] == sorted(map(str, (collapsed_log, healthy_log)))
    assert "notes.md" in ran.err


def test_the_result_is_written_as_json_too(ssltool, tmp_path, healthy_log):
    ran = ssltool("diagnose", healthy_log, "--json", "-o", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == ran.json
    assert "--out" in usage_message(ssltool("diagnose", healthy_log, "-o", tmp_path / "found.txt"))


@pytest.mark.parametrize("flags", [["--data", "x"], ["--sample", "9"], ["-a", "resnet18"], ["--key", "x"], ["-b", "8"]])
def test_flags_of_checkpoints_have_no_effect_on_logs(ssltool, healthy_log, flags):
    name = {"-a": "--arch", "-b": "--batch-size"}.get(flags[0], flags[0])
    assert name in error_message(ssltool("diagnose", healthy_log, *flags))


def test_loss_has_no_effect_on_runs_and_must_be_a_column_of_a_log(ssltool, trained, healthy_log):
    assert "--loss" in error_message(ssltool("diagnose", trained, "--loss", "loss"))
    assert "train_loss" in error_message(ssltool("diagnose", healthy_log, "--loss", "train_los"))


def test_what_is_no_item_is_one_error(ssltool, tmp_path):
    assert "nothing" in error_message(ssltool("diagnose", tmp_path / "nothing"))
    assert str(tmp_path) in error_message(ssltool("diagnose", tmp_path))
    text = tmp_path / "text"
    text.write_text("hello\n")
    assert str(text) in error_message(ssltool("diagnose", text))
    assert ssltool("diagnose").code == 2


def test_an_item_that_is_given_twice_is_one_error(ssltool, healthy_log):
    message = error_message(ssltool("diagnose", healthy_log, healthy_log.parent / "." / healthy_log.name))
    assert "twice" in message


def test_a_folder_of_folders_names_them_and_settings_of_other_programs_are_no_run(ssltool, tmp_path, healthy_log):
    (tmp_path / "runs" / "version_0").mkdir(parents=True)
    assert "version_0/" in error_message(ssltool("diagnose", tmp_path / "runs"))
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    (report,) = ssltool("diagnose", tmp_path, "--json").json["reports"]
    assert report["path"] == str(healthy_log)


def test_an_empty_log_is_said_to_be_empty(ssltool, tmp_path):
    (tmp_path / "log.txt").write_text("\n")
    assert "is empty" in error_message(ssltool("diagnose", tmp_path / "log.txt"))


def test_a_run_is_told_since_when_and_which_layer(ssltool, run_with):
    run = run_with([HEALTHY] * 4, [HEALTHY, HEALTHY, COMPLETE, COMPLETE])
    (report,) = ssltool("diagnose", run, "--json").json["reports"]
    finding = report["findings"][0]
    assert (report["source"], report["state"], report["kind"]) == ("run folder", "complete", "complete-collapse")
    assert (finding["since"], finding["evidence"]["layer"]) == (3.0, "projector")
    assert {name: finding["evidence"][name] for name in NEEDED} == {name: COMPLETE[name] for name in NEEDED}
    assert report["keep"]["path"] in (str(run / "checkpoint_0000.pt"), str(run / "checkpoint_0001.pt"))


def test_a_run_that_recovered_is_healthy_with_a_note(ssltool, run_with):
    run = run_with([PARTIAL, PARTIAL, HEALTHY], [HEALTHY] * 3)
    (report,) = ssltool("diagnose", run, "--json", "--fail-on", "partial").json["reports"]
    assert report["state"] == "healthy"
    assert [finding["kind"] for finding in report["findings"]] == ["recovered"]


def test_a_rank_that_falls_late_is_no_fault(ssltool, run_with):
    run = run_with([HEALTHY] * 5, [HEALTHY] * 5, backbone_effective_rank=[15.0, 14.5, 13.0, 11.0, 9.0])
    ran = ssltool("diagnose", run, "--json", "--fail-on", "partial")
    assert ran.code == 0
    assert [finding["kind"] for finding in ran.json["reports"][0]["findings"]] == ["rank-fell"]


def test_settings_that_cause_a_collapse_are_the_probable_cause_and_the_advice_says_on_what_it_was_tested(
    ssltool, run_with
):
    run = run_with([COMPLETE] * 2, [COMPLETE] * 2)
    config = json.loads((run / "config.json").read_text())
    config["method_options"]["stop_grad"] = False
    (run / "config.json").write_text(json.dumps(config))
    finding = ssltool("diagnose", run, "--json").json["reports"][0]["findings"][0]
    assert "stop_grad=false" in finding["cause"] and "stop_grad=false" in finding["advice"]
    assert "bundled" in finding["tested"]


def test_advice_is_marked_tested_only_where_trainings_with_all_of_the_parts_showed_that_it_helps():
    stop_grad, fixed = "there is no stop-gradient (stop_grad=false)", "the predictor is not trained (predictor=fixed)"
    assert "SimSiam with and without stop_grad=false" in on_parts([stop_grad])
    assert on_parts([fixed]) == on_parts([stop_grad, fixed]) == on_parts([]) == on_parts(["no setting"]) == ""


def test_the_checkpoint_to_keep_is_the_healthy_one_of_the_highest_accuracy(ssltool, run_with):
    run = run_with([HEALTHY] * 3 + [PARTIAL], [HEALTHY] * 4, backbone_knn=[0.5, 0.7, 0.6, 0.9])
    keep = ssltool("diagnose", run, "--json").json["reports"][0]["keep"]
    assert (keep["path"], keep["epoch"]) == (str(run / "checkpoint_0001.pt"), 2)


def test_a_loss_that_is_null_was_not_finite(ssltool, run_with):
    run = run_with([HEALTHY] * 3, [HEALTHY] * 3, loss=[-0.5, None, None])
    (report,) = ssltool("diagnose", run, "--json").json["reports"]
    assert (report["kind"], report["since"]) == ("nonfinite", 2.0)


@pytest.mark.parametrize(
    ("candidates", "wanted"),
    [
        ([Candidate("a", "healthy"), Candidate("b", "healthy"), Candidate("c", "partial")], "b"),
        ([Candidate("a", "healthy", 0.9), Candidate("b", "healthy", 0.8)], "a"),
        ([Candidate("a", "partial", 0.2), Candidate("b", "complete", 0.9)], "a"),
        ([Candidate("a", "complete"), Candidate("b", "complete")], None),
        ([Candidate("a", None)], None),
        ([], None),
    ],
)
def test_the_choice_is_by_verdict_then_accuracy_then_the_last(candidates, wanted):
    assert choose(candidates)["path"] == wanted


@pytest.fixture
def checkpoints(trained, tmp_path):
    """Checkpoints of epochs 1, 2 and 3, the last with weights that give every image the same output."""
    first = Checkpoint.load(trained / "checkpoint.pt")
    paths = []
    for epoch in (3, 1, 2):
        state = {name: value.clone() for name, value in first.state_dict.items()}
        if epoch == 3:
            for name in state:
                if name.startswith("backbone.") and "bn" in name and name.endswith(".weight"):
                    state[name].zero_()
        path = tmp_path / f"c{epoch}.pt"
        first.__class__(**{**vars(first), "epoch": epoch, "state_dict": state}).save(path)
        paths.append(path)
    return paths


FEW = ["--sample", "48", "--device", "cpu", "-j", "0"]


def test_checkpoints_are_measured_in_the_order_of_their_epochs_beside_an_untrained_network(ssltool, checkpoints):
    ran = ssltool("diagnose", *checkpoints, *FEW, "--json", "--fail-on", "complete")
    assert ran.code == 3
    (report,) = ran.json["reports"]
    assert [row["epoch"] for row in report["checkpoints"]] == [0, 1, 2, 3]
    assert report["checkpoints"][0]["path"] == "untrained"
    assert report["kind"] == "complete-collapse"
    assert (
        report["checkpoints"][3]["metrics"]["feature_std"] < 1e-6 < report["checkpoints"][2]["metrics"]["feature_std"]
    )
    assert "48 images of bundled train" in report["images"]


def test_checkpoints_are_measured_as_collapse_measures_their_saved_representations(ssltool, checkpoints, tmp_path):
    """The same images give the same metrics, verdict and kNN accuracy; also of a network that has collapsed."""
    numbers = np.random.RandomState(0).permutation(2000)[:40]
    np.save(tmp_path / "some.npy", numbers)
    images = ["--idx_path", tmp_path / "some.npy", "--device", "cpu"]
    (report,) = ssltool("diagnose", *checkpoints[:2], *images, "--json").json["reports"]
    for row in report["checkpoints"]:
        untrained = row["path"] == "untrained"
        source = ["--pretrained", checkpoints[0], *(["--random"] if untrained else [])]
        source = source if untrained else ["--pretrained", row["path"]]
        file = tmp_path / f"{row['epoch']}_{untrained}.pt"
        assert ssltool("save-reprs", *source, *images, "-o", file).code == 0
        metrics = ["--metrics", ",".join([*row["metrics"], "mean_norm"])]
        reference = [] if untrained else ["--reference", tmp_path / f"{report['checkpoints'][0]['epoch']}_True.pt"]
        (measured,) = ssltool("collapse", file, *metrics, *reference, "--json").json["files"]
        found = row["metrics"] | {"mean_norm": row["norm"]}
        for name, value in found.items():
            assert value == (
                None if measured["metrics"][name] is None else pytest.approx(measured["metrics"][name], 1e-9)
            )
        assert row["verdict"] == measured["verdict"]["state"]
        assert measured["verdict"]["line"].startswith(row["line"])
        knn = ssltool("knn", file, file, "-k", 20, "--json")
        assert row["knn"] == pytest.approx(knn.json["accuracy"], 1e-9)


def test_a_collapse_is_dated_by_the_first_checkpoint_from_which_on_all_collapsed():
    def found(*states: str):
        rows = [
            {"path": f"{i}.pt", "kinds": [], "epoch": 10 * i, "verdict": state, "line": state, "metrics": HEALTHY}
            for i, state in enumerate(states)
        ]
        return [(one.kind, one.state, one.since) for one in collapse_findings(rows, True)]

    assert found("healthy", "healthy") == []
    assert found("partial", "healthy", "partial", "complete") == [("complete-collapse", "complete", 20.0)]
    assert found("partial", "partial") == [("partial-collapse", "partial", 0.0)]
    assert found("complete", "healthy") == [("recovered", "healthy", None)]


def test_a_checkpoint_with_nan_weights_is_a_fault_and_not_an_error(ssltool, trained, tmp_path):
    broken = Checkpoint.load(trained / "checkpoint.pt")
    name = next(name for name in broken.state_dict if name.startswith("backbone."))
    broken.state_dict[name] = torch.full_like(broken.state_dict[name], math.nan)
    broken.save(tmp_path / "broken.pt")
    (report,) = ssltool("diagnose", tmp_path / "broken.pt", *FEW, "--json").json["reports"]
    assert (report["kind"], report["state"], report["keep"]) == ("nonfinite", "complete", None)
    assert ssltool("diagnose", tmp_path / "broken.pt", *FEW).code == 0


def statistics(prefix: str = "") -> dict[str, torch.Tensor]:
    """Statistics of a batch norm, which are others in each network and file."""
    return {f"{prefix}backbone.bn.running_{name}": torch.rand(4) for name in ("mean", "var")}


def two_networks(path, teacher: float, student: float, *, prefix: str = ""):
    """A file as DINO's main_dino.py saves it: ``student`` and ``teacher``, the former with the prefix of DDP."""
    torch.manual_seed(0)
    weights = {f"backbone.{i}.weight": torch.randn(4, 4) for i in range(10)}
    torch.manual_seed(len(str(path)) + int(100 * teacher + 10 * student))
    torch.save(
        {
            "student": {f"{prefix}{name}": value + student for name, value in weights.items()} | statistics(prefix),
            "teacher": {name: value + teacher for name, value in weights.items()} | statistics(),
            "epoch": 1,
        },
        path,
    )
    return str(path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_identical_teacher_is_found_and_a_different_one_is_not(tmp_path, prefix):
    same = compare_teacher(two_networks(tmp_path / "a.pt", 0, 0, prefix=prefix))
    other = compare_teacher(two_networks(tmp_path / "b.pt", 0, 1, prefix=prefix))
    assert same.distance == 0 and same.tensors == 10
    torch.manual_seed(0)
    student = torch.stack([torch.randn(4, 4) for _ in range(10)]).double() + 1
    assert other.distance == pytest.approx(float(160**0.5 / student.norm()), rel=1e-5)
    assert [one.kind for one in teacher_findings({"a": same}, {"a": 5})] == ["identical-teacher"]
    assert teacher_findings({"a": same}, {"a": 0}) == []  # a teacher begins as a copy
    assert teacher_findings({"b": other}, {"b": 5}) == []


def test_a_teacher_that_stays_while_the_student_changes_is_stale(tmp_path):
    files = {str(i): compare_teacher(two_networks(tmp_path / f"{i}.pt", 0, i + 1)) for i in range(3)}
    epochs = {str(i): i for i in range(3)}
    assert [one.kind for one in teacher_findings(files, epochs)] == ["stale-teacher"]
    files["2"] = compare_teacher(two_networks(tmp_path / "c.pt", 1, 5))
    assert teacher_findings(files, epochs) == []


def test_ours_with_a_momentum_teacher_are_compared_and_one_network_is_not(tiny, trained):
    from ssltool.stages.pretrain import run as pretrain

    assert compare_teacher(str(trained / "checkpoint.pt")) is None
    options = ("dim=8", "hidden=16", "momentum=0.5")
    settings = tiny(method="byol", options=options, monitor_every=0, epochs=1, dim=None, pred_dim=None)
    found = compare_teacher(str(pretrain(settings) / "checkpoint.pt"))
    assert found is not None and 0 < found.distance < 1


def test_only_settings_of_checkpoints_are_reported_as_such():
    assert DiagnoseConfig(items=("a",), loss="x", fail_on="partial", out="a.json").of_checkpoints() == []
    assert set(DiagnoseConfig(items=("a",), sample=5, data="x").of_checkpoints()) == {"sample", "data"}
