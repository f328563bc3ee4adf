"""Going on from a checkpoint: the same bits as a run that never stopped, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import running

from helpers import TINY, records, same_bits, same_run
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.errors import Interrupted, SSLToolError
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.pretrain import Pretraining
from tiny_methods import tiny_config


def again(config: PretrainConfig, **changes: Any) -> Path:
    """The same command line with ``--resume auto``."""
    return pretrain(dataclasses.replace(config, resume="auto", **changes))


@pytest.fixture
def stopped(tiny, interrupt_at):
    """Settings of a run of two epochs of three steps that a signal stopped in the step after ``done``."""

    def stop(done: int, **changes: Any) -> PretrainConfig:
        config = tiny(**changes)
        interrupt_at(done)
        with pytest.raises(Interrupted):
            pretrain(config)
        return config

    return stop


RUNS = {
    "iid": {"n_warmup_steps": 2},
    "current": {"strategy": "current", "fix_pred_lr": True},
    "keyed order": {"strategy": "current", "keyed_order": True},
    "replay": {"strategy": "replay", "replay_size": 1500},
    "accumulate with adamw in fp16": {"strategy": "accumulate", "optimizer": "adamw", "precision": "fp16"},
    "lars": {"optimizer": "lars", "repeat_batch": 2},
    "adam by step": {"optimizer": "adam", "lr_schedule": "step", "warmup_epochs": 1, "final_weight_decay": 0.1},
    "clipped lars": {"optimizer": "lars", "lars_clip": True, "lars_trust": 0.02, "solarize_p": 0.5},
}


@pytest.mark.parametrize("done", [2, 3], ids=["at the end of an epoch", "in mid-epoch"])
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_resumed_run_ends_with_the_bits_of_one_that_never_stopped(tiny, stopped, settings, done):
    whole = pretrain(tiny("whole", **settings))
    config = stopped(done, **settings)
    newest = Checkpoint.load(Path(config.out) / "checkpoint.pt")
    assert (newest.epoch, newest.step, newest.metrics["epoch_step"]) == (1, done + 1, done - 2)
    run = again(config)
    assert same_run(whole, run)
    assert [line["epoch"] for line in records(run)] == [0, 1]


def test_resumed_run_on_files_has_the_same_bits_with_another_number_of_workers(tiny, stopped, tmp_path, write_images):
    write_images(tmp_path / "images" / "a", 12, size=(24, 16))
    write_images(tmp_path / "images" / "b", 12, size=(18, 30))
    files = {"data": str(tmp_path / "images"), "steps_per_epoch": None, "batch_size": 8}
    whole = pretrain(tiny("whole", workers=0, **files))
    config = stopped(4, workers=0, **files)
    assert same_run(whole, again(config, workers=1))


def test_run_resumed_twice_has_the_same_bits(tiny, stopped, interrupt_at):
    whole = pretrain(tiny("whole"))
    config = stopped(1)
    interrupt_at(4)
    with pytest.raises(Interrupted):
        again(config)
    assert same_run(whole, again(config))


def test_killed_process_resumes_from_its_last_step_to_the_same_bits(tiny, server):
    whole = pretrain(tiny("whole", steps_per_epoch=10))
    config = tiny(steps_per_epoch=10, save_steps=1)
    flags = [*TINY, "--epochs", "2", "--steps-per-epoch", "10", "-b", "16", "--device", "cpu", "--save-steps", "1"]
    flags += ["--monitor-size", str(config.monitor_size), "--precision", "fp32"]
    with running(server, "ssltool", "pretrain", *flags, "-p", "1", "-o", config.out) as (command, _, stderr):
        assert any(line.startswith("epoch 2/2 step 1/") for line in stderr)
        os.kill(command.pid, signal.SIGKILL)
        assert command.wait() == 255
    newest = Checkpoint.load(Path(config.out) / "checkpoint.pt")
    assert 10 <= newest.step < 20
    assert same_run(whole, again(config))


def test_signal_in_the_last_step_lets_the_run_finish(tiny, interrupt_at):
    interrupt_at(5)
    run = pretrain(tiny())
    assert Checkpoint.load(run / "checkpoint.pt").epoch == 2


def test_handlers_are_restored_after_an_interruption(stopped):
    before = signal.getsignal(signal.SIGTERM)
    stopped(1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_finished_run_resumed_changes_nothing(tiny):
    config = tiny()
    run = pretrain(config)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    again(config)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_resume_auto_without_a_checkpoint_starts_a_new_run(tiny):
    assert same_run(pretrain(tiny("plain")), again(tiny("auto")))


def test_resume_with_a_folder_uses_its_newest_checkpoint(tiny, stopped):
    whole = pretrain(tiny("whole"))
    config = stopped(3)
    assert same_run(whole, pretrain(tiny("elsewhere", resume=config.out)))


def test_hybrid_continues_with_iid_and_the_same_schedule_and_optimizer_state(tiny, monkeypatch):
    single = pretrain(tiny("single", epochs=4, strategy="current", save_every=1))
    start = Checkpoint.load(single / "checkpoint_0001.pt")
    before_steps = []
    step = Pretraining.step

    def spy(run: Pretraining, batch: Any) -> Any:
        before_steps.append(copy.deepcopy(run.state.optimizer.state_dict()["state"]))
        return step(run, batch)

    monkeypatch.setattr(Pretraining, "step", spy)
    run = pretrain(tiny("hybrid", epochs=4, resume=str(single / "checkpoint_0001.pt")))
    assert len(before_steps) == 6
    assert same_bits(before_steps[0], start.optimizer["state"])
    final, lines = Checkpoint.load(run / "checkpoint.pt"), records(run)
    assert (final.epoch, final.step, final.metrics["epochs"][:2]) == (4, 12, start.metrics["epochs"])
    assert [(line["epoch"], line["strategy"]) for line in lines] == list(enumerate(["current"] * 2 + ["iid"] * 2))
    base = 0.05 * 16 / 256
    cosine = [base * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [line["lr"] for line in lines] == pytest.approx(cosine)


def test_strategy_cannot_change_in_the_middle_of_an_epoch(stopped):
    config = stopped(3)
    with pytest.raises(SSLToolError, match=r"--strategy was iid, is now current.* epoch 2"):
        again(config, strategy="current")


def test_views_can_change_between_epochs_but_not_within_one(stopped):
    with pytest.raises(SSLToolError, match=r"--flip-p was 0.5, is now 0.0.* epoch 2"):
        again(stopped(3), flip_p=0.0)
    assert Checkpoint.load(again(stopped(2, out="other"), flip_p=0.0) / "checkpoint.pt").epoch == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet18_w16"}, "--arch was resnet18_w8, is now resnet18_w16"),
        ({"batch_size": 16}, "--batch-size was 32, is now 16"),
        ({"epochs": 3}, "--epochs was 2, is now 3"),
        ({"seed": 11}, "--seed was 10, is now 11"),
        ({"dim": 8}, "--set dim was 16, is now 8"),
        ({"optimizer": "lars"}, "--optimizer was sgd, is now lars"),
        ({"steps_per_epoch": 4}, "--steps-per-epoch was 3, is now 4"),
        ({"lr_schedule": "step"}, "--lr-schedule was epoch, is now step"),
        ({"final_weight_decay": 0.1}, "--final-weight-decay was None, is now 0.1"),
        ({"options": ("predictor=fixed",)}, "--set predictor was mlp, is now fixed"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_setting_that_would_break_the_schedule_is_refused_with_both_values(tiny, trained, tmp_path, change, message):
    with pytest.raises(SSLToolError, match=message):
        pretrain(tiny(**({"batch_size": 32, "resume": str(trained)} | change)))
    assert not (tmp_path / "run").exists()


def test_a_setting_newer_than_the_checkpoint_had_its_default(stopped):
    config = stopped(2)
    path = Path(config.out) / "checkpoint.pt"
    older = Checkpoint.load(path)
    del older.config["lr_schedule"], older.config["method_options"]["similarity"]
    older.save(path)
    for changes, name in (
        ({"lr_schedule": "step"}, "lr-schedule"),
        ({"options": ("similarity=cross_entropy",)}, "similarity"),
    ):
        with pytest.raises(SSLToolError, match=f"{name} was"):
            again(config, **changes)
    assert records(again(config))[-1]["epoch"] == 1


@pytest.mark.parametrize("files", [True, False])
def test_views_that_are_made_otherwise_than_before_are_said(tiny, write_images, tmp_path, capsys, files):
    for folder, size in (("a", (20, 16)), ("b", (24, 18))):
        write_images(tmp_path / "images" / folder, 8, size=size)
    changes = {"data": str(tmp_path / "images"), "steps_per_epoch": None, "batch_size": 8} if files else {}
    changes["monitor_every"] = 0
    run = pretrain(tiny(**changes))
    path = run / "checkpoint.pt"
    older = Checkpoint.load(path)
    assert older.config["views_version"] == 2
    pretrain(tiny("same", **changes, resume=str(path), start_epoch=1))
    assert "in 8 bits" not in capsys.readouterr().err
    del older.config["views_version"]
    older.save(path)
    pretrain(tiny("later", **changes, resume=str(path), start_epoch=1))
    assert ("its views are made in 8 bits from here on" in capsys.readouterr().err) == files


def test_all_differing_settings_are_named_at_once(tiny, trained):
    with pytest.raises(SSLToolError) as refusal:
        pretrain(tiny(batch_size=32, resume=str(trained), seed=1, lr=0.1, epochs=5))
    assert set(re.findall(r"(--[\w-]+) was", str(refusal.value))) == {"--epochs", "--lr", "--seed"}


def test_other_data_is_refused(tiny, trained, write_images, tmp_path):
    write_images(tmp_path / "images", 40)
    with pytest.raises(SSLToolError, match="was 8000, is now 40"):
        pretrain(tiny(batch_size=32, resume=str(trained), data=str(tmp_path / "images")))


def test_other_labelled_images_are_refused(tmp_path, trained):
    run = pretrain(tiny_config("paws", tmp_path / "run", trained, epochs=1, steps_per_epoch=1))
    np.save(tmp_path / "labelled.npy", np.arange(0, 4000, 50))
    options = {"labels_path": tmp_path / "labelled.npy"}
    config = tiny_config("paws", run, trained, epochs=1, steps_per_epoch=1, options=options, resume="auto")
    with pytest.raises(SSLToolError, match=r"labelled images.* was \w+, is now \w+"):
        pretrain(config)


def test_another_teacher_is_refused(tmp_path, trained):
    run = pretrain(tiny_config("distill", tmp_path / "run", trained, epochs=1, steps_per_epoch=1))
    other = Checkpoint.load(trained / "checkpoint.pt")
    other.state_dict["backbone.conv1.weight"] += 1.0
    other.save(tmp_path / "other" / "checkpoint.pt")
    config = tiny_config("distill", run, tmp_path / "other", epochs=1, steps_per_epoch=1, resume="auto")
    with pytest.raises(SSLToolError, match=r"teacher was \w+, is now \w+"):
        pretrain(config)


def test_start_epoch_sets_the_first_epoch(tiny):
    config = tiny(epochs=4, steps_per_epoch=1)
    pretrain(config)
    run = pretrain(dataclasses.replace(config, resume=config.out, start_epoch=2))
    assert Checkpoint.load(run / "checkpoint.pt").epoch == 4
    assert [line["epoch"] for line in records(run)] == [0, 1, 2, 3]


def test_start_epoch_forgets_the_sums_of_the_unfinished_epoch(tiny, stopped, tmp_path, monkeypatch):
    path = Path(stopped(4).out) / "checkpoint.pt"  # two steps into the second epoch
    monkeypatch.undo()  # the run that goes on counts that step again
    checkpoint = Checkpoint.load(path)
    checkpoint.metrics["sums"] = dict.fromkeys(checkpoint.metrics["sums"], 0.0)
    checkpoint.save(tmp_path / "cleared.pt")
    runs = [pretrain(tiny(f"from {p.stem}", resume=str(p), start_epoch=1)) for p in (path, tmp_path / "cleared.pt")]
    assert same_run(*runs)


def test_other_order_or_chunks_under_the_same_strategy_are_refused(tiny, tmp_path):
    config = tiny(strategy="current", epochs=4)
    pretrain(config)
    order = tmp_path / "other.npy"
    np.save(order, np.arange(8000)[::-1])
    with pytest.raises(SSLToolError, match=r"order was .* is now"):
        again(config, incremental_idx_path=str(order))
    with pytest.raises(SSLToolError, match="--chunk-size was 1, is now 2; --n-rounds was 1, is now 2"):
        again(config, chunk_size=2, n_rounds=2)


def test_another_replay_buffer_under_the_same_strategy_is_refused(tiny):
    config = tiny(strategy="replay", replay_size=100, epochs=4)
    pretrain(config)
    with pytest.raises(
        SSLToolError, match="--replay-size was 100, is now 50; --replay-rule was reservoir, is now fifo"
    ):
        again(config, replay_size=50, replay_rule="fifo")


def test_run_killed_before_its_first_checkpoint_starts_again(tiny, tmp_path):
    config = tiny()
    first = Checkpoint.load(pretrain(config) / "checkpoint.pt")
    for path in (tmp_path / "run").glob("checkpoint*.pt"):
        path.unlink()
    assert same_bits(Checkpoint.load(again(config) / "checkpoint.pt").state_dict, first.state_dict)


def test_missing_checkpoint_is_refused_by_name(tiny, tmp_path):
    with pytest.raises(SSLToolError, match=r"--resume.*gone\.pt"):
        pretrain(tiny(resume=str(tmp_path / "gone.pt")))


def test_truncated_checkpoint_is_refused_and_not_changed(tiny):
    config = tiny()
    newest = pretrain(config) / "checkpoint.pt"
    (newest.parent / "checkpoint_0001.pt").unlink()  # it would be used instead
    half = newest.read_bytes()[: newest.stat().st_size // 2]
    newest.unlink()
    newest.write_bytes(half)
    with pytest.raises(SSLToolError, match=r"checkpoint\.pt "):
        again(config)
    assert newest.read_bytes() == half


def test_truncated_line_of_metrics_is_replaced(stopped):
    config = stopped(3)
    with open(Path(config.out) / "metrics.jsonl", "a") as stream:
        stream.write('{"epoch": 1, "loss"')
    run = again(config)
    assert [line["epoch"] for line in records(run)] == [0, 1]
