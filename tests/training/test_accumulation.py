"""Batches that are trained in parts: gradients, state and refusals of all methods."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import error_message, same_run, usage_message
from methods_helpers import build, noisy_batch
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.data.loader import Batch
from ssltool.errors import Interrupted
from ssltool.methods import METHODS
from ssltool.methods.base import Method, Now
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.prepare import prepare
from ssltool.training.accumulation import micro_batches
from ssltool.training.state import TrainState
from target_helpers import study
from tiny_methods import tiny_config

CLUSTERED = {"prototypes": 5}
OPTIONS: dict[str, dict[str, Any]] = {
    "swav": {**CLUSTERED, "queue_start": 0, "freeze": 0},
    "deepcluster": {**CLUSTERED, "heads": 2},
    "dino": {**CLUSTERED, "freeze": 0},
    "ibot": {**CLUSTERED, "freeze": 0},
    "dinov2": {**CLUSTERED, "freeze": 0},
    "wmse": {"dim": 3, "w_size": 4},  # as many images as a part has
    "visreg": {"global_views": 2},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "paws without its entropy": ("paws", {"me_max": False}),
    "simsiam by cross-entropy": ("simsiam", {"similarity": "cross_entropy", "stop_grad": False}),
    "moco, symmetric": ("moco", {"symmetric": True}),
    "moco, symmetric with two queues": ("moco", {"symmetric": True, "queued": "separate"}),
    "dino with trained lengths": ("dino", {"norm_last_layer": False}),
    "ibot by Sinkhorn-Knopp": ("ibot", {"centering": "sinkhorn"}),
    "dinov2 without what compares images": ("dinov2", {"centering": "none", "koleo": 0.0}),
    "teacher by the gradient": ("teacher", {"update": "sgd"}),
}
CASES = {name: (name, {}) for name in METHODS} | VARIANTS


def without_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with the identity in the place of its batch norms."""
    for name, child in module.named_children():
        is_norm = isinstance(child, nn.BatchNorm1d)
        setattr(module, name, nn.Identity() if is_norm else without_batch_norm(child))
    return module


def make(case: str) -> Method:
    """The method of a case."""
    name, options = CASES[case]
    method = study(**options) if name == "teacher" else build(name, **(OPTIONS.get(name, {}) | options))
    method.now = Now(0, 0)
    return without_batch_norm(method)


def batch_for(method: Method, case: str) -> Batch:
    name, _ = CASES[case]
    one_view = name in ("distill", "supervised", "mae", "ijepa")
    batch = noisy_batch(sizes=(8,) if one_view else (8, 8), labels=torch.arange(16) % 4)
    if name == "paws":
        batch.support = noisy_batch(n=8, sizes=(8,), seed=50, labels=torch.arange(8) % 4)
    return batch


def trained(method: Method, batch: Batch, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients and the buffers of a step in ``count`` parts."""
    method = copy.deepcopy(method)
    parameters = [p for p in method.parameters() if p.requires_grad]
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state = TrainState(method, method, torch.optim.SGD(parameters, 0.0), scaler)
    seen = {}
    method.before_update = lambda: seen.update({n: p.grad for n, p in method.named_parameters() if p.grad is not None})
    state.train_on(micro_batches(batch, count), lambda: torch.autocast("cpu", enabled=False))
    return seen, dict(method.named_buffers())


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names of tensors that differ by more than rounding, compared with the largest number of all."""
    assert ours.keys() == theirs.keys()
    ours, theirs = ({name: tensor.double() for name, tensor in found.items()} for found in (ours, theirs))
    largest = max((float(tensor.abs().max()) for tensor in theirs.values()), default=0.0)
    return [name for name in ours if not torch.allclose(ours[name], theirs[name], rtol=0, atol=5e-4 * largest)]


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_parts_add_up_to_those_of_the_batch_unless_the_method_compares_images(case):
    method = make(case)
    batch = batch_for(method, case)
    (whole, buffers), (summed, buffers_of_parts) = (trained(method, batch, count) for count in (1, 4))
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-6
    assert bool(differing(summed, whole)) == method.compares_images
    if not method.compares_images:
        assert differing(buffers_of_parts, buffers) == []


@pytest.mark.parametrize("case", CASES)
def test_a_forward_pass_changes_no_buffer(case):
    method = make(case)
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method(batch_for(method, case))
    assert differing(dict(method.named_buffers()), before) == []


def test_parts_have_the_rows_of_the_batch_in_order_and_all_of_its_support():
    batch = noisy_batch(n=12, sizes=(8, 4), labels=torch.arange(12))
    batch.support = noisy_batch(n=4)
    parts = micro_batches(batch, 3)
    assert [part.rows.tolist() for part in parts] == [list(range(k, k + 4)) for k in (0, 4, 8)]
    assert [part.first for part in parts] == [0, 4, 8]
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    assert torch.equal(torch.cat([part.boxes for part in parts]), batch.boxes)
    for number, view in enumerate(batch.views):
        assert torch.equal(torch.cat([part.views[number] for part in parts]), view)
    assert all(part.support is batch.support for part in parts)


def test_a_run_in_parts_ends_where_the_run_of_whole_batches_does(tmp_path, trained_vit):
    """Without batch norm, but for rounding."""
    whole, parts = (pretrain(trained_vit(tmp_path / str(n), accumulate=n)) for n in (1, 4))
    first, second = (Checkpoint.load(run / "checkpoint.pt") for run in (whole, parts))
    assert first.step == second.step == 2
    torch.testing.assert_close(second.state_dict, first.state_dict, rtol=1e-4, atol=1e-5)
    losses = [[record["loss"] for record in made.metrics["epochs"]] for made in (first, second)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.fixture
def trained_vit(trained):
    """Settings of two steps of a ViT, whose heads have no batch norm either."""

    def config(out, **changes):
        vit = {"arch": "vit_small_depth3", "stem": "auto", "image_size": 8, "batch_size": 8}
        vit |= {"epochs": 1, "steps_per_epoch": 2, "monitor_every": 0}
        return tiny_config("ressl", out, trained, **(vit | changes))

    return config


def test_a_run_in_parts_resumes_bit_identically_within_an_epoch(tmp_path, trained, interrupt_at):
    settings = {"epochs": 1, "steps_per_epoch": 2, "accumulate": 2, "precision": "bf16"}
    config = tiny_config("dino", tmp_path / "stopped", trained, **settings)
    never = pretrain(dataclasses.replace(config, out=str(tmp_path / "whole")))
    interrupt_at(0)
    with pytest.raises(Interrupted):
        pretrain(config)
    assert same_run(never, pretrain(dataclasses.replace(config, resume="auto")))


def test_the_number_of_parts_is_fixed_when_a_run_is_resumed(ssltool, tmp_path):
    flags = ["pretrain", "-a", "resnet18_w8", "--dim", 16, "--batch-size", 32, "--steps-per-epoch", 1]
    flags += ["--device", "cpu", "-o", tmp_path / "run", "--image-size", 16, "--monitor-every", 0]
    assert ssltool(*flags, "--epochs", 1, "--accumulate", 2).code == 0
    message = error_message(ssltool(*flags, "--epochs", 1, "--accumulate", 4, "--resume", "auto"))
    assert "--accumulate was 2, is now 4" in message


def test_a_method_that_compares_images_is_refused_before_anything_is_written(ssltool, tmp_path):
    small = ["--device", "cpu", "-a", "resnet18_w8", "--dim", 16, "-o", tmp_path / "run"]
    assert "simclr" in usage_message(ssltool("pretrain", "-m", "simclr", "--accumulate", 2, *small))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("size", "count", "named"), [(32, 3, "32"), (32, 32, "16")])
def test_parts_that_are_unequal_or_too_small_are_refused(ssltool, tmp_path, size, count, named):
    flags = ["--batch-size", size, "--accumulate", count, "--dim", 16, "-o", tmp_path / "run"]
    message = error_message(ssltool("pretrain", "--device", "cpu", "-a", "resnet18_w8", *flags))
    assert named in message
    assert not (tmp_path / "run").exists()


def test_it_is_said_which_statistics_batch_norm_uses_and_only_if_there_is_one(tmp_path, trained, trained_vit):
    for config, said in ((tiny_config("dino", tmp_path, trained), True), (trained_vit(tmp_path), False)):
        setup = prepare(dataclasses.replace(config, accumulate=2))
        notes = " ".join(setup.notes(setup.build_method()))
        assert (f"micro-batches of {config.batch_size // 2} images" in notes) == said
