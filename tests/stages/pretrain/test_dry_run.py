"""``pretrain --dry-run``: the plan matches the run, and nothing is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import TINY, records
from ssltool.data.loader import Batch
from ssltool.data.strategies import epoch_indices
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.prepare import prepare

STRATEGIES = {"iid": {}, "current": {}, "accumulate": {"chunk_size": 2}, "last": {"chunk_size": 3}}
REPLAY = ("--strategy", "replay", "--epochs", 4, "--replay-size", 2500)
BATCH = 100


def plan_of(ssltool, out, *flags: object) -> dict:
    ran = ssltool("pretrain", *TINY, "--device", "cpu", "-b", BATCH, "-o", out, "--dry-run", "--json", *flags)
    assert ran.code == 0, ran.err
    return ran.json


@pytest.mark.parametrize(("strategy", "chunks"), STRATEGIES.items(), ids=STRATEGIES)
def test_the_plan_counts_the_images_of_epoch_indices(ssltool, tmp_path, strategy, chunks):
    """The bundled images in the order of the default seed, 10; epochs of 80 batches, 4 epochs."""
    flags = [text for name, value in chunks.items() for text in (f"--{name}", value)]
    plan = plan_of(ssltool, tmp_path / "run", "--strategy", strategy, "--epochs", 4, *flags)
    order = np.arange(8000) if strategy == "iid" else np.random.RandomState(10).permutation(8000)
    settings = {"strategy": strategy, "epochs": 4, "batch_size": BATCH, **chunks}
    epochs = [epoch_indices(order, epoch=epoch, **settings) for epoch in range(4)]
    assert plan["steps_per_epoch"] == 80
    for epoch, (planned, indices) in enumerate(zip(plan["epochs"], epochs, strict=True)):
        start, stop = planned["slice"]
        unique = np.unique(indices)
        assert set(unique) <= set(order[start:stop])
        assert (planned["epoch"], planned["unique_images"], planned["steps"]) == (epoch, len(unique), 80)
        assert planned["times_each"] == pytest.approx(8000 / len(unique))
    seen = np.bincount(np.concatenate(epochs), minlength=8000)
    assert plan["exposure"] == {
        "min": seen.min(),
        "mean": pytest.approx(seen.mean()),
        "max": seen.max(),
        "never": (seen == 0).sum(),
    }


def test_the_slices_of_a_single_pass_are_consecutive(ssltool, tmp_path):
    plan = plan_of(ssltool, tmp_path / "run", "--strategy", "current", "--epochs", 4)
    assert [epoch["slice"] for epoch in plan["epochs"]] == [[0, 2000], [2000, 4000], [4000, 6000], [6000, 8000]]


def test_the_plan_of_replay_counts_new_and_replayed_images(ssltool, tmp_path):
    plan = plan_of(ssltool, tmp_path / "run", *REPLAY)
    assert [epoch["slice"] for epoch in plan["epochs"]] == [[0, 2000], [2000, 4000], [4000, 6000], [6000, 8000]]
    assert [epoch["replayed"] for epoch in plan["epochs"]] == [0, 2000, 2500, 2500]
    assert [epoch["unique_images"] for epoch in plan["epochs"]] == [2000, 4000, 4500, 4500]


def test_exposure_of_a_subset_counts_its_own_images(ssltool, tmp_path):
    np.save(tmp_path / "subset.npy", np.arange(5000, 5250))
    plan = plan_of(ssltool, tmp_path / "run", "--idx-path", tmp_path / "subset.npy", "--epochs", 2)
    reached = [epoch_indices(np.arange(250), strategy="iid", epoch=e, epochs=2, batch_size=BATCH) for e in range(2)]
    assert plan["steps_per_epoch"] == 2
    assert plan["exposure"]["never"] == 250 - len(np.unique(reached))
    assert plan["exposure"]["mean"] == pytest.approx(400 / 250)


def test_dry_run_writes_nothing(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = ssltool("pretrain", *TINY, "--dry-run", "--strategy", "current")
    assert ran.code == 0 and "logs/simsiam-resnet18_w8-current-" in ran.out
    assert list(tmp_path.iterdir()) == []


def test_the_learning_rates_of_the_plan_are_those_of_the_run(ssltool, tiny, tmp_path):
    flags = ["--epochs", 4, "--steps-per-epoch", 1, "-b", 16, "--warmup-epochs", 1, "--fix-pred-lr"]
    plan = plan_of(ssltool, tmp_path / "run", *flags)
    config = tiny(epochs=4, steps_per_epoch=1, warmup_epochs=1, fix_pred_lr=True)
    run = pretrain(config)
    planned = [(epoch["epoch"], epoch["lr"], epoch["fixed_lr"]) for epoch in plan["epochs"]]
    assert planned == [(record["epoch"], record["lr"], record["fixed_lr"]) for record in records(run)]
    assert (plan["run"], plan["config"]["batch_size"]) == (str(run), 16)


def test_parameters_are_the_sum_over_the_network(ssltool, tiny, tmp_path):
    plan = plan_of(ssltool, tmp_path / "run")
    method = prepare(tiny()).build_method()
    assert plan["parameters"] == sum(p.numel() for p in method.parameters())
    assert plan["trainable_parameters"] == plan["parameters"]


def test_memory_is_linear_in_the_batch_size(ssltool, tmp_path):
    """Weights and their gradients do not depend on the batch; activations, kept for the backward pass, do."""
    small, medium, large = (plan_of(ssltool, tmp_path / "run", "-b", b)["memory_bytes"] for b in (64, 128, 192))
    assert large - medium == pytest.approx(medium - small, rel=1e-3) and medium > small


def test_memory_of_activations_is_that_of_the_tensors_saved_for_the_backward_pass(ssltool, tiny, tmp_path):
    low, high = (plan_of(ssltool, tmp_path / "run", "-b", b)["memory_bytes"] for b in (32, 64))
    method = prepare(tiny()).build_method()
    own = {p.untyped_storage().data_ptr() for p in method.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        return kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        views = [torch.randn(32, 3, 16, 16) for _ in range(2)]
        loss = method(Batch(views, torch.full((32,), -1), torch.arange(32))).loss
    activations = sum(tensor.nbytes for pointer, tensor in kept.items() if pointer not in own)
    assert loss.requires_grad
    assert high - low == pytest.approx(activations, rel=0.05)


def test_a_dataset_with_a_single_class_has_a_plan(ssltool, write_images, tmp_path):
    write_images(tmp_path / "images" / "only", 20)
    flags = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", 16, "--device", "cpu", "-b", 16]
    flags += ["--method", "supervised", "--dataset-type", "folder", "--epochs", 1, "-o", tmp_path / "run"]
    ran = ssltool("pretrain", tmp_path / "images", *flags, "--dry-run", "--json")
    assert ran.json["config"]["n_classes"] == 1


def test_text_has_a_row_per_epoch_counted_from_1(ssltool, tmp_path):
    flags = ["--device", "cpu", "--epochs", 5, "--strategy", "current", "-o", tmp_path / "run", "--dry-run"]
    ran = ssltool("pretrain", *TINY, *flags)
    rows = ran.out.split("\n\n")[1].splitlines()
    assert rows[0].split()[:2] == ["epoch", "slice"]
    assert [row.split()[:2] for row in rows[1:]] == [[str(e + 1), f"{1600 * e}:{1600 * (e + 1)}"] for e in range(5)]


def test_an_error_of_the_run_is_an_error_of_the_plan(ssltool, tmp_path):
    ran = ssltool(
        "pretrain", *TINY, "--strategy", "current", "--epochs", 100, "-b", 128, "--dry-run", "-o", tmp_path / "run"
    )
    assert (ran.code, ran.out) == (1, "") and "--strategy current has 80 images" in ran.err
