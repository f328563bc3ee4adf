"""A resumed probe is bit-identical to an unbroken one; a finished probe can be evaluated again."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from helpers import records, same_bits
from probe_helpers import clouds
from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig
from ssltool.errors import Interrupted, SSLToolError
from ssltool.stages import lincls
from ssltool.stages.lincls.linear_heads import Heads


@pytest.fixture
def stop_after(monkeypatch):
    """Sends this process a SIGTERM in the given step of a run: ``stop_after(3)``; later runs are left alone."""
    update = Heads.update

    def arm(steps: int) -> None:
        done = []

        def updating(heads, *batch):
            done.append(1)
            if len(done) == steps:
                os.kill(os.getpid(), signal.SIGTERM)
            update(heads, *batch)

        monkeypatch.setattr(Heads, "update", updating)

    return arm


def same_probe(a: Probe, b: Probe) -> bool:
    parts = [[one.weight, one.bias, one.labels, one.state, {**one.metrics, "run": ""}] for one in (a, b)]
    return same_bits(*parts)


CASES = [
    {},
    {"lr_sweep": "0.1,1"},
    {"optimizer": "lars", "weight_decay": 0.01},
    {"lars": True},
    {"standardise": True},
]


@pytest.mark.parametrize("steps", [8, 12], ids=["in mid-epoch", "at the end of an epoch"])
@pytest.mark.parametrize("changes", CASES, ids=[str(case) for case in CASES])
def test_a_resumed_probe_ends_with_the_bits_of_one_that_never_stopped(changes, steps, on_files, stop_after, tmp_path):
    unbroken = lincls.run(on_files(**changes, out=str(tmp_path / "unbroken")))  # five epochs of six steps
    stop_after(steps)
    with pytest.raises(Interrupted, match=r"signal 15; .*probe\.pt"):
        lincls.run(on_files(**changes))
    half = Probe.load(tmp_path / "probe" / "probe.pt")
    assert (half.state["epoch"], half.state["step"]) == divmod(steps, 6)  # of 90 rows, or 81, by 16
    resumed = lincls.run(on_files(**changes, resume="auto"))
    a, b = (Probe.load(tmp_path / name / "probe.pt") for name in ("unbroken", "probe"))
    assert same_probe(a, b)
    assert records(tmp_path / "unbroken") == records(tmp_path / "probe")
    assert {**unbroken, "run": ""} == {**resumed, "run": ""}


def test_a_resumed_probe_on_images_is_bit_identical_too(settings, stop_after, tmp_path):
    lincls.run(settings(epochs=3, out=str(tmp_path / "unbroken")))  # three epochs of two steps
    stop_after(3)
    with pytest.raises(Interrupted):
        lincls.run(settings(epochs=3))
    lincls.run(settings(epochs=3, resume=str(tmp_path / "probe")))
    a, b = (Probe.load(tmp_path / name / "probe.pt") for name in ("unbroken", "probe"))
    assert same_probe(a, b)


def test_a_probe_of_a_version_without_the_settings_of_pixels_is_resumed(on_files, stop_after, probe_path, tmp_path):
    lincls.run(on_files(out=str(tmp_path / "unbroken")))
    stop_after(8)
    with pytest.raises(Interrupted):
        lincls.run(on_files())
    contents = torch.load(probe_path, weights_only=True)
    for name in ("value_range", "background", "raw_pixels", "max_pixels", "labels_by", "same_images", "pool"):
        contents["config"].pop(name, None)
    torch.save(contents, probe_path)
    lincls.run(on_files(resume="auto"))
    assert same_probe(Probe.load(probe_path), Probe.load(tmp_path / "unbroken" / "probe.pt"))


def test_a_signal_ends_the_command_with_exit_code_128_plus_its_number(ssltool, files, stop_after, tmp_path):
    train, val = files()
    stop_after(8)
    flags = ["--device", "cpu", "-b", 16, "-o", tmp_path / "probe"]
    ran = ssltool("lincls", "--reprs", train, val, *flags, "--epochs", 5)
    assert ran.code == 128 + signal.SIGTERM and ran.out == ""
    assert "signal 15" in ran.err and "probe.pt" in ran.err
    again = ssltool("lincls", "--reprs", train, val, *flags, "--epochs", 5)
    assert again.code == 1 and "--resume auto" in again.err
    assert ssltool("lincls", "--reprs", train, val, *flags, "--epochs", 5, "--resume", "auto").code == 0


def test_resume_auto_starts_a_new_run_and_leaves_a_finished_one_unchanged(on_files, probe_path):
    first = lincls.run(on_files(resume="auto"))
    before = Probe.load(probe_path)
    assert lincls.run(on_files(resume="auto")) == first
    assert same_probe(Probe.load(probe_path), before)


def test_resuming_into_another_folder_does_not_change_the_first(on_files, stop_after, tmp_path):
    stop_after(8)
    with pytest.raises(Interrupted):
        lincls.run(on_files())
    before = (tmp_path / "probe" / "probe.pt").read_bytes()
    lincls.run(on_files(resume=str(tmp_path / "probe" / "probe.pt"), out=str(tmp_path / "other")))
    assert (tmp_path / "probe" / "probe.pt").read_bytes() == before
    assert [record["epoch"] for record in records(tmp_path / "other")] == list(range(5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.2}, "--lr was 0.1, is now 0.2"),
        ({"epochs": 6}, "--epochs was 5, is now 6"),
        ({"optimizer": "lars"}, "--optimizer was sgd, is now lars"),
        ({"batch_size": 8}, "--batch-size was 16, is now 8"),
        ({"seed": 3}, "--seed was 10, is now 3"),
        ({"labels_fraction": 0.5}, "--labels-fraction was 1.0, is now 0.5; the hash of the training rows"),
        ({"standardise": True}, "--standardise was False, is now True"),
    ],
)
def test_resuming_with_other_settings_is_refused(changes, message, on_files, probe_path):
    lincls.run(on_files())
    before = probe_path.read_bytes()
    with pytest.raises(SSLToolError, match=r"probe\.pt") as caught:
        lincls.run(on_files(resume="auto", **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert probe_path.read_bytes() == before


def test_other_training_rows_or_another_network_are_refused(on_files, write_reprs, settings, tmp_path, probe_path):
    lincls.run(on_files())
    x, y = clouds(90, seed=1)
    other = str(write_reprs("other.pt", x, y, torch.arange(90) + 5)), str(tmp_path / "val.pt")
    with pytest.raises(SSLToolError, match="hash of the training rows"):
        lincls.run(on_files(reprs=other, resume="auto"))
    lincls.run(settings(out=str(tmp_path / "images")))
    with pytest.raises(SSLToolError, match="random was False, is now True"):
        lincls.run(settings(out=str(tmp_path / "images"), random=True, resume="auto"))


def test_a_probe_of_lbfgs_cannot_be_resumed(on_files):
    lincls.run(on_files(solver="lbfgs"))
    with pytest.raises(SSLToolError, match=r"cannot resume .*probe\.pt.* --solver was lbfgs, is now sgd"):
        lincls.run(on_files(resume="auto"))


@pytest.mark.parametrize("given", [{}, {"standardise": True}, {"solver": "lbfgs"}, {"lr_sweep": "0.1,1"}])
def test_evaluating_a_probe_reproduces_its_accuracy_and_writes_nothing(given, on_files, probe_path, tmp_path):
    trained = lincls.run(on_files(**given))
    before = {path: path.read_bytes() for path in probe_path.parent.iterdir()}
    again = lincls.run(on_files(evaluate=True, resume="auto"))
    for key in ("acc1", "acc5", "class_acc1", "val_size", "classes", "checkpoint_hash"):
        assert again[key] == trained[key]
    assert again["probe"] == str(probe_path)
    assert {path: path.read_bytes() for path in probe_path.parent.iterdir()} == before


def test_the_papers_flags_evaluate_a_probe_of_images(ssltool, trained, black_and_white, settings, tmp_path):
    result = lincls.run(settings(lr=5.0, epochs=3))
    line = ["lincls", "--pretrained", trained / "checkpoint.pt", black_and_white, "--device", "cpu", "-j", 0]
    ran = ssltool(*line, "--resume", tmp_path / "probe" / "probe.pt", "-e", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["acc1"], ran.json["acc5"]) == (result["acc1"], result["acc5"])
    assert ran.json["backbone_hash"] == result["backbone_hash"]
    shown = ssltool(*line, "--resume", tmp_path / "probe", "-e")
    assert ["accuracy@1", f"{result['acc1']:.4f}"] in [row.split() for row in shown.out.splitlines()]


def test_a_probe_evaluates_other_files_of_the_same_network(on_files, files, write_reprs):
    lincls.run(on_files(epochs=30, lr=2.0))
    u, v = clouds(40, seed=5)
    other = files()[0], str(write_reprs("other.pt", u, v))
    result = lincls.run(on_files(reprs=other, evaluate=True, resume="auto"))
    assert result["val_size"] == 40 and 0.6 < result["acc1"] <= 1


@pytest.mark.parametrize("given", [{"epochs": 2, "batch_size": 50}, {"solver": "lbfgs"}])
def test_a_probe_trained_on_files_evaluates_images_and_vice_versa(given, saved, on_bundled, tmp_path):
    of_files = lincls.run(LinclsConfig(reprs=saved, device="cpu", out=str(tmp_path / "files"), **given))
    of_images = lincls.run(on_bundled(out=str(tmp_path / "images")))
    plain = {"evaluate": True, "out": None, "epochs": 90, "batch_size": None, "idx_path": None}
    crossed = lincls.run(on_bundled(resume=str(tmp_path / "files"), **plain))
    assert crossed["acc1"] == pytest.approx(of_files["acc1"], abs=0.0011)  # rounding may turn over an image of 2,000
    config = LinclsConfig(reprs=saved, device="cpu", resume=str(tmp_path / "images"), evaluate=True)
    assert lincls.run(config)["acc1"] == pytest.approx(of_images["acc1"], abs=0.0011)


def test_evaluating_without_a_probe_or_with_another_networks_is_refused(on_files, settings, write_reprs, tmp_path):
    with pytest.raises(SSLToolError, match=r"probe\.pt .*--resume"):
        lincls.run(on_files(evaluate=True, resume="auto"))
    lincls.run(settings(out=str(tmp_path / "images")))
    plain = {"evaluate": True, "out": None, "epochs": 90, "batch_size": None, "resume": str(tmp_path / "images")}
    with pytest.raises(SSLToolError, match="random was False, is now True"):
        lincls.run(settings(random=True, **plain))
    with pytest.raises(SSLToolError, match="width was 64, is now 6"):
        lincls.run(on_files(evaluate=True, resume=str(tmp_path / "images"), out=None, labels_by="number"))


@pytest.mark.parametrize("changes", [{"lr": 1.0}, {"labels_fraction": 0.1}, {"epochs": 3}, {"c": 2.0}])
def test_training_settings_are_refused_with_evaluate(changes, on_files):
    (name,) = changes
    with pytest.raises(SSLToolError, match=f"--{name.replace('_', '-')} .*--evaluate"):
        lincls.run(on_files(evaluate=True, resume="auto", **changes))
