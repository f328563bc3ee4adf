"""The pretraining stage: what it writes, what it trains on, what it refuses, and that nothing depends on chance."""

from __future__ import annotations

import errno
import json
import math
import re
import resource
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssltool.files.stored
import ssltool.stages.pretrain.pretrain as stage
from helpers import TINY, Ran, error_message, records, same_bits, same_run, usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import STRATEGIES
from ssltool.data.loader import Batch
from ssltool.data.strategies import epoch_indices
from ssltool.errors import Interrupted, SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.torch_files import load_dict
from ssltool.methods.base import Output
from ssltool.methods.simsiam import SimSiam
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.pretrain import Pretraining

NEEDS_NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


def settings(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(run / "checkpoint.pt").state_dict


@pytest.fixture
def seen(monkeypatch):
    """The image numbers and the views' shapes of every step."""
    steps: list[tuple[list[int], list[tuple[int, ...]]]] = []
    forward = SimSiam.forward

    def spy(self: SimSiam, batch: Batch) -> Output:
        steps.append((batch.rows.tolist(), [tuple(view.shape) for view in batch.views]))
        return forward(self, batch)

    monkeypatch.setattr(SimSiam, "forward", spy)
    return steps


@pytest.fixture
def parameters(monkeypatch):
    """All trainable parameters before each step, and at the end."""
    moments: list[dict[str, torch.Tensor]] = []
    step = Pretraining.step

    def snapshot(run: Pretraining) -> None:
        moments.append({name: p.detach().clone() for name, p in run.state.method.named_parameters()})

    def stepping(run: Pretraining, batch: Any) -> Any:
        if not moments:
            snapshot(run)
        values = step(run, batch)
        snapshot(run)
        return values

    monkeypatch.setattr(Pretraining, "step", stepping)
    return moments


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """Which parts of the network (``backbone``, ``projector``, ``predictor``) differ."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.fixture
def nan_loss(monkeypatch):
    """Makes the loss of one step NaN, counted from 1: ``nan_loss(5)``."""
    forward = SimSiam.forward

    def arm(number: int) -> None:
        calls = [0]

        def poisoned(self: SimSiam, batch: Batch) -> Output:
            calls[0] += 1
            output = forward(self, batch)
            return output._replace(loss=output.loss * math.nan) if calls[0] == number else output

        monkeypatch.setattr(SimSiam, "forward", poisoned)

    return arm


@pytest.fixture
def odd_images(tmp_path, write_images):
    """A folder of 24 images of two sizes, which stay files."""
    folder = tmp_path / "images"
    write_images(folder / "wide", 12, size=(24, 16))
    write_images(folder / "tall", 12, size=(18, 30))
    return folder


def test_run_folder_holds_settings_metrics_and_the_kept_checkpoints(tiny):
    run = pretrain(tiny(epochs=5, steps_per_epoch=1, save_every=2))
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt",
        "checkpoint_0001.pt",
        "checkpoint_0003.pt",
        "checkpoint_0004.pt",
        "config.json",
        "images.jsonl",
        "metrics.jsonl",
    ]
    epochs = [Checkpoint.load(run / f"checkpoint_{number:04d}.pt").epoch for number in (1, 3, 4)]
    assert epochs == [2, 4, 5]
    assert file_hash(run / "checkpoint.pt") == file_hash(run / "checkpoint_0004.pt")


def test_config_json_equals_the_checkpoints_config_and_describes_the_data(tiny):
    run = pretrain(tiny(steps_per_epoch=1, seed=3))
    config = settings(run)
    assert config == Checkpoint.load(run / "checkpoint.pt").config
    assert (config["seed"], config["stem"], config["method_options"]["dim"]) == (3, "small-stride2", 16)
    assert (config["dataset"], config["n_images"], config["n_classes"]) == ("bundled", 8000, 10)
    assert (config["second_backbone"], config["second_hash"], config["support_hash"]) == (None, None, None)


def test_metrics_hold_one_record_per_epoch(tiny):
    run = pretrain(tiny(epochs=3))
    lines = records(run)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert [line["step"] for line in lines] == [3, 6, 9]
    for line in lines:
        assert line.keys() >= {"loss", "lr", "fixed_lr", "images_per_second", "data_wait", "feature_std"}
        assert -1 <= line["loss"] <= 1 and 0 < line["feature_std"] < 2
        assert line["images_per_second"] > 0 and 0 <= line["data_wait"] <= 1


def test_checkpoint_has_the_keys_of_the_format(tiny):
    run = pretrain(tiny())
    contents = load_dict(run / "checkpoint.pt")
    keys = {"format", "method", "arch", "epoch", "step", "config", "state_dict", "optimizer", "scaler", "metrics"}
    assert contents.keys() == keys | {"ssltool", "torch"}
    assert (contents["format"], contents["method"], contents["arch"]) == (
        "ssltool/checkpoint/1",
        "simsiam",
        "resnet18_w8",
    )
    assert (contents["epoch"], contents["step"], contents["scaler"]) == (2, 6, None)
    assert {name.split(".")[0] for name in contents["state_dict"]} == {"backbone", "projector", "predictor"}


def test_mean_loss_in_the_record_is_the_mean_over_the_steps(tiny, monkeypatch):
    losses = []
    forward = SimSiam.forward

    def spy(self: SimSiam, batch: Batch) -> Output:
        output = forward(self, batch)
        losses.append(output.loss.item())
        return output

    monkeypatch.setattr(SimSiam, "forward", spy)
    run = pretrain(tiny(epochs=1, steps_per_epoch=12))
    assert len(losses) == 12
    assert records(run)[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_same_seed_is_bit_identical_and_another_seed_differs(tiny):
    first, again, other = (pretrain(tiny(out, seed=seed)) for out, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert same_run(first, again)
    assert not same_bits(weights(first), weights(other))


def test_global_random_state_does_not_change_the_run(tiny):
    first = pretrain(tiny("a"))
    torch.manual_seed(12345)
    np.random.seed(12345)
    assert same_run(first, pretrain(tiny("b")))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_trains_on_the_images_of_epoch_indices(tiny, seen, strategy):
    chunks = {} if strategy == "iid" else {"chunk_size": 2, "n_rounds": 2}
    chunks |= {"replay_size": 900, "replay_rule": "fifo"} if strategy == "replay" else {}
    schedule = {"strategy": strategy, "epochs": 8, "steps_per_epoch": 2, "repeat_batch": 2, "seed": 7, **chunks}
    run = pretrain(tiny(**schedule))
    order = np.arange(8000) if strategy == "iid" else np.load(run / "order.npy")
    expected = [epoch_indices(order, epoch=epoch, batch_size=16, **schedule) for epoch in range(8)]
    assert np.array_equal(np.concatenate([rows for rows, _ in seen]), np.concatenate(expected))
    assert (run / "order.npy").exists() == (strategy != "iid")


def test_checkpoints_list_the_replayed_images_of_their_last_epoch(tiny):
    run = pretrain(tiny(strategy="replay", replay_size=1500, epochs=3, save_every=1))
    order = np.load(run / "order.npy")
    kept = [Checkpoint.load(run / f"checkpoint_000{epoch}.pt").metrics["replayed"] for epoch in range(3)]
    assert [len(images) for images in kept] == [0, 1500, 1500]
    before = [set(order[: 8000 * epoch // 3].tolist()) for epoch in range(3)]
    assert all(set(images) <= earlier for images, earlier in zip(kept, before, strict=True))
    assert 0 < len(set(kept[1]) & set(kept[2])) < 1500  # some of the first chunk made room for some of the second


def test_the_order_in_a_file_is_used_and_saved(tiny, seen, tmp_path):
    order = np.arange(8000)[::-1]
    np.save(tmp_path / "order.npy", order)
    run = pretrain(tiny(strategy="current", incremental_idx_path=str(tmp_path / "order.npy")))
    assert np.array_equal(np.load(run / "order.npy"), order)
    first, second = seen[:3], seen[3:]
    assert min(min(rows) for rows, _ in first) >= 4000 > max(max(rows) for rows, _ in second)


def test_n_warmup_steps_freezes_the_encoder_at_the_start_of_later_epochs(tiny, parameters):
    pretrain(tiny(epochs=3, n_warmup_steps=2, weight_decay=0.1))
    moved = [changed(before, after) for before, after in pairwise(parameters)]
    every, head = {"backbone", "projector", "predictor"}, {"predictor"}
    assert moved == [every, every, every, head, head, every, head, head, every]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "lars"])
def test_every_optimizer_updates_all_parts_and_keeps_the_predictors_rate_constant(tiny, parameters, optimizer):
    run = pretrain(tiny(epochs=4, steps_per_epoch=1, optimizer=optimizer, fix_pred_lr=True, lr=0.8))
    assert changed(parameters[0], parameters[-1]) == {"backbone", "projector", "predictor"}
    assert all(bool(torch.isfinite(p).all()) for p in parameters[-1].values())
    base = 0.8 * 16 / 256
    lines = records(run)
    cosine = [base * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    assert [line["fixed_lr"] for line in lines] == pytest.approx([base] * 4)
    assert [line["lr"] for line in lines] == pytest.approx(cosine)
    encoder, predictor = Checkpoint.load(run / "checkpoint.pt").optimizer["param_groups"]
    assert (encoder["lr"], predictor["lr"]) == (lines[-1]["lr"], lines[-1]["fixed_lr"])


def test_lr_schedule_step_updates_rate_and_weight_decay_at_every_step(tiny, monkeypatch):
    used: list[list[tuple[float, float]]] = []
    step = Pretraining.step

    def spy(run: Pretraining, batch: Any) -> Any:
        values = step(run, batch)
        used.append([(group["lr"], group["weight_decay"]) for group in run.state.optimizer.param_groups])
        return values

    monkeypatch.setattr(Pretraining, "step", spy)
    schedule = {"epochs": 3, "steps_per_epoch": 4, "warmup_epochs": 1, "lr": 1.6, "weight_decay": 0.1}
    run = pretrain(tiny(**schedule, lr_schedule="step", final_weight_decay=0.3, fix_pred_lr=True))
    base, times = 1.6 * 16 / 256, [number / 4 for number in range(12)]
    rates = [base * t if t < 1 else base * (1 + math.cos(math.pi * (t - 1) / 2)) / 2 for t in times]
    decays = [0.3 - 0.2 * (1 + math.cos(math.pi * t / 3)) / 2 for t in times]
    assert [encoder for encoder, _ in used] == [pytest.approx(pair) for pair in zip(rates, decays, strict=True)]
    assert [predictor for _, predictor in used] == [pytest.approx((base, decay)) for decay in decays]
    assert [line["lr"] for line in records(run)] == pytest.approx(rates[::4])  # an epoch's record has its first


def test_the_predictors_rate_follows_the_cosine_by_default(tiny):
    run = pretrain(tiny(steps_per_epoch=1))
    encoder, predictor = Checkpoint.load(run / "checkpoint.pt").optimizer["param_groups"]
    assert encoder["lr"] == predictor["lr"] == records(run)[-1]["lr"] < records(run)[-1]["fixed_lr"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_and_saves_its_scaler(tiny, precision, parameters):
    run = pretrain(tiny(precision=precision, steps_per_epoch=2))
    assert changed(parameters[0], parameters[-1]) == {"backbone", "projector", "predictor"}
    assert all(math.isfinite(line["loss"]) for line in records(run))
    scaler = Checkpoint.load(run / "checkpoint.pt").scaler
    assert (scaler is not None and scaler["scale"] > 0) if precision == "fp16" else scaler is None
    assert {tensor.dtype for tensor in weights(run).values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("native", ["bf16", "fp32"])
def test_auto_is_what_the_processor_multiplies_and_is_saved(tiny, monkeypatch, native):
    monkeypatch.setattr(stage, "native_precision", lambda device: native)
    run, given = pretrain(tiny("auto", precision="auto")), pretrain(tiny("given", precision=native))
    assert settings(run)["precision"] == native
    assert same_run(run, given)


@pytest.mark.parametrize("native", ["bf16", "fp32"])
def test_a_resumed_run_keeps_its_precision_on_another_processor(tiny, monkeypatch, interrupt_at, native):
    monkeypatch.setattr(stage, "native_precision", lambda device: native)
    whole = pretrain(tiny("whole", precision="auto"))
    interrupt_at(2)
    with pytest.raises(Interrupted):
        pretrain(tiny("parts", precision="auto"))
    other = {"bf16": "fp32", "fp32": "bf16"}[native]
    monkeypatch.setattr(stage, "native_precision", lambda device: other)
    assert same_run(whole, pretrain(tiny("parts", precision="auto", resume="auto")))


def test_image_files_are_bit_identical_for_any_number_of_workers(tiny, odd_images):
    files = {"data": str(odd_images), "steps_per_epoch": None, "batch_size": 8}
    here, elsewhere = (pretrain(tiny(f"workers{n}", workers=n, **files)) for n in (0, 2))
    assert same_run(here, elsewhere)
    config = settings(here)
    assert (config["dataset"], config["n_images"], config["image_size"]) == ("folder", 24, 16)


def test_idx_path_restricts_the_run_to_the_named_images(tiny, tmp_path, seen):
    np.save(tmp_path / "subset.npy", np.arange(100, 140))
    run = pretrain(tiny(epochs=1, steps_per_epoch=None, batch_size=20, idx_path=str(tmp_path / "subset.npy")))
    assert sorted(row for rows, _ in seen for row in rows) == list(range(40))
    assert settings(run)["n_images"] == 40


def test_n_augs_is_the_number_of_views(tiny, seen):
    pretrain(tiny(epochs=1, n_augs=3))
    assert {tuple(shapes) for _, shapes in seen} == {((16, 3, 16, 16),) * 3}


def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_checkpoint(tiny, nan_loss, ssltool, tmp_path):
    good = pretrain(tiny("good"))
    nan_loss(5)
    with pytest.raises(SSLToolError, match=r"\bnan\b.* step 5 .*epoch 2"):
        pretrain(tiny(save_every=1))
    kept = Checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert (kept.epoch, kept.step) == (1, 3)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.state_dict.values())
    assert kept.metrics["epochs"] == Checkpoint.load(good / "checkpoint.pt").metrics["epochs"][:1]
    assert [line["epoch"] for line in records(tmp_path / "run")] == [0]


def test_diverging_weights_are_never_saved(tiny, tmp_path):
    with pytest.raises(SSLToolError, match="step"):
        pretrain(tiny(lr=1e30, weight_decay=100.0, steps_per_epoch=10, save_steps=1))
    for path in (tmp_path / "run").glob("*.pt"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in Checkpoint.load(path).state_dict.values())


def test_disk_full_while_saving_keeps_the_previous_checkpoint(tiny, tmp_path, monkeypatch):
    save, calls = torch.save, []

    def filling_up(contents: Any, stream: Any) -> None:
        calls.append(stream)
        if len(calls) > 1:
            stream.write(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(contents, stream)

    monkeypatch.setattr(ssltool.files.stored.torch, "save", filling_up)
    with pytest.raises(SSLToolError, match="No space left on device"):
        pretrain(tiny())
    run = tmp_path / "run"
    assert (Checkpoint.load(run / "checkpoint.pt").epoch, len(calls)) == (1, 2)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt",
        "config.json",
        "images.jsonl",
        "metrics.jsonl",
    ]


def test_a_finished_run_that_is_resumed_is_said_to_be_complete(tiny, capsys):
    pretrain(tiny())
    capsys.readouterr()
    pretrain(tiny(resume="auto"))
    said = capsys.readouterr().err
    assert "complete" in said and "resuming" not in said


def test_a_failed_write_keeps_the_previous_checkpoint(tiny, tmp_path):
    pretrain(tiny())
    before = file_hash(tmp_path / "run" / "checkpoint.pt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 * 1024, hard))
    try:
        with pytest.raises(SSLToolError, match=r"checkpoint_0001\.pt"):
            pretrain(tiny(resume=str(tmp_path / "run"), start_epoch=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file_hash(tmp_path / "run" / "checkpoint.pt") == before
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("rank", ["0", "1"])
def test_gpu_is_refused_on_every_rank_of_several(tiny, monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(SSLToolError, match="--gpu 1 "):
        pretrain(tiny(gpu=1))


INEFFECTIVE_FLAGS = [
    (["--chunk-size", "2"], "--chunk-size .*--strategy iid"),
    (["--n-rounds", "2"], "--n-rounds .*--strategy iid"),
    (["--incremental-idx-path", "x.npy"], "--incremental-idx-path .*--strategy iid"),
    (["--strategy", "current", "--replay-size", "9"], "--replay-size .*--strategy current"),
    (["--strategy", "replay", "--replay-size", "0", "--replay-rule", "fifo"], "--replay-rule .*--replay-size 0"),
    (["--optimizer", "adamw", "--momentum", "0.5"], "--momentum .*--optimizer adamw"),
    (["--optimizer", "adam", "--momentum", "0.5"], "--momentum .*--optimizer adam"),
    (["--lars-trust", "0.02"], "--lars-trust .*--optimizer sgd"),
    (["--optimizer", "adamw", "--lars-clip"], "--lars-clip .*--optimizer adamw"),
    (["--fix-all-lr", "--lr-schedule", "step"], "--lr-schedule .*--fix-all-lr"),
    (["-a", "vit_small", "--stem", "auto", "--no-zero-init-residual"], "zero-init-residual .*vit_small"),
    (["--fix-all-lr", "--final-lr", "0.01"], "--final-lr .*--fix-all-lr"),
    (["--fix-all-lr", "--warmup-epochs", "1"], "--warmup-epochs .*--fix-all-lr"),
    (["--fix-all-lr", "--fix-pred-lr"], "--fix-pred-lr .*--fix-all-lr"),
    (["--test"], "--test .*--wandb"),
    (["--jitter-p", "0", "--jitter", "0.5"], "--jitter .*--jitter-p 0"),
    (["--start-epoch", "1"], "--start-epoch .*--resume"),
    (["--resume", "auto", "--overwrite"], "--overwrite .*--resume auto"),
    (["--stop-on", "partial", "--monitor-every", "0"], "--stop-on .*--monitor-every 0"),
    (["--monitor-size", "100", "--monitor-every", "0"], "--monitor-size .*--monitor-every 0"),
    (["--exp-name", "x"], "--exp-name .*--out"),
    (["--gpu", "0"], "--gpu .*--device cpu"),
]


@pytest.mark.parametrize(
    ("flags", "message"), INEFFECTIVE_FLAGS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_flags_without_effect_are_refused(ssltool, tmp_path, flags, message):
    ran = ssltool("pretrain", *TINY, "--device", "cpu", "-o", tmp_path / "run", *flags)
    assert re.search(message, usage_message(ran)), ran.err
    assert not (tmp_path / "run").exists()


MISTAKES = [
    (["-a", "resnet81"], "resnet81.*resnet18"),
    (["--set", "dimm=3"], "simsiam 'dimm'.* dim\\b"),
    (
        ["--set", "zzzzzz=3"],
        "simsiam 'zzzzzz'.*: bn, dim, fix_pred_lr, n_augs, pred_dim, predictor, similarity, stop_grad, symmetric",
    ),
    (["--set", "n_augs=many"], "n_augs=many: .*int"),
    (["--set", "dim"], "--set dim: .*NAME=VALUE"),
    (["--set", "dim=8"], "dim .*twice"),
    (["--n-augs", "1"], "n_augs is 1; .*2"),
    (["-m", "simsian"], "method .*simsian.*simsiam"),
    (["--strategy", "current", "--epochs", "7", "--n-rounds", "2"], r"--epochs \(7\) .*--n-rounds \(2\)"),
    (["--strategy", "replay"], "--strategy replay .*--replay-size"),
    (["--warmup-epochs", "4", "--epochs", "4"], "--warmup-epochs 4 "),
    (["--lr", "0"], r"--lr is 0; it must be greater than 0$"),
    (["--crop-min", "1.5"], r"--crop-min is 1\.5; .*1"),
    (["--dataset-type", "cifra10"], "dataset type .*cifra10.*cifar10"),
]

BAD_INPUT = [
    (["--strategy", "current", "--epochs", "100", "-b", "128"], r"epoch 1 .* 80 images.*\(128\)"),
    (["-b", "8001"], r"--batch-size 8001 .*\(8000\)"),
    (["--warmup-epochs", "10"], r"--warmup-epochs 10 .*\(6\)"),  # the default of the bundled images
    (["--data", "no/such/folder"], "no/such/folder"),
    (["--idx-path", "no.npy"], r"--idx-path.* no\.npy"),
    (["--resume", "no.pt"], r"--resume.* no\.pt"),
]


def assert_refused(ran: Ran, message: str, folder: Path) -> None:
    """One line on stderr that says ``message``, exit code 1, nothing on stdout and nothing written."""
    assert re.search(message, error_message(ran)), ran.err
    assert not folder.exists()


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=lambda value: " ".join(value) if value[0] == "-" else "")
def test_a_mistake_in_the_settings_is_exit_code_2_and_writes_nothing(ssltool, tmp_path, flags, message):
    ran = ssltool("pretrain", *TINY, *flags, "-o", tmp_path / "run")
    assert re.search(message, usage_message(ran)), ran.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT, ids=lambda value: " ".join(value) if value[0] == "-" else "")
def test_bad_input_is_one_line_and_exit_code_1_and_writes_nothing(ssltool, tmp_path, flags, message):
    ran = ssltool("pretrain", *TINY, *flags, "-o", tmp_path / "run")
    assert_refused(ran, message, tmp_path / "run")


@NEEDS_NO_CUDA
@pytest.mark.parametrize("flags", [["--device", "cuda"], ["--gpu", "0"]])
def test_cuda_without_a_gpu_is_refused(ssltool, tmp_path, flags):
    ran = ssltool("pretrain", *TINY, *flags, "-o", tmp_path / "run")
    assert_refused(ran, "CUDA device 0 ", tmp_path / "run")


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_is_refused_before_anything_is_written(ssltool, tmp_path, monkeypatch, extra):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard"}.get(extra, extra), None)
    ran = ssltool("pretrain", *TINY, "--epochs", 1, "--steps-per-epoch", 1, f"--{extra}", "-o", tmp_path / "run")
    assert_refused(ran, rf"pip install 'ssltool\[{extra}\]'", tmp_path / "run")


@pytest.mark.parametrize("size", [(24, 16), (18, 30)], ids=["read at once", "read as needed"])
def test_the_error_names_a_corrupt_image(ssltool, tmp_path, odd_images, write_images, size):
    write_images(odd_images / "tall", 12, size=size)
    (odd_images / "wide" / "003.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    ran = ssltool("pretrain", odd_images, *TINY, "--epochs", 1, "-b", 24, "-j", 0, "-o", tmp_path / "run")
    assert (ran.code, ran.out) == (1, "")
    assert "wide/003.png" in ran.err.splitlines()[-1] and ran.err.splitlines()[-1].startswith("error: ")
    assert not list((tmp_path / "run").glob("*.pt"))


@pytest.mark.parametrize("size", [(24, 16), (18, 30)], ids=["read at once", "read as needed"])
def test_skip_corrupt_leaves_out_and_counts_corrupt_images(ssltool, tmp_path, odd_images, write_images, size):
    write_images(odd_images / "tall", 12, size=size)
    (odd_images / "wide" / "003.png").write_bytes(b"")
    flags = ["--epochs", 1, "-b", 23, "-j", 0, "--skip-corrupt", "-o", tmp_path / "run"]
    ran = ssltool("pretrain", odd_images, *TINY, *flags)
    assert ran.code == 0 and "23 images" in ran.err and "1 empty: wide/003.png" in ran.err
    assert settings(tmp_path / "run")["n_images"] == 23
