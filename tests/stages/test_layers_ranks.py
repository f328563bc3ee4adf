"""``collapse --layers`` and ``diagnose`` on several ranks give the results of one process."""

from __future__ import annotations

import json

import pytest
import torch
from fork_server import run_ranks

from helpers import assert_close
from ssltool.diagnosis.metrics.of_tokens import patch_cosine, patch_rank
from ssltool.diagnosis.metrics.of_two_files import CrossMoments, linear_cka
from ssltool.diagnosis.patch_sums import PatchSums
from ssltool.stages.pretrain import run as pretrain

pytestmark = pytest.mark.xdist_group("two ranks")

VIT = "timm:vit_tiny_patch16_224,depth=2,embed_dim=48,num_heads=2,patch_size=8"
HERE = ["--device", "cpu", "-j", 0]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("starts", [[0, 7], [0, 0, 1, 19], [0, 6, 12, 18]])
def test_patches_of_parts_of_the_images_have_the_metrics_of_all(monkeypatch, starts):
    monkeypatch.setattr("ssltool.diagnosis.patch_sums.RANKED", 5)
    patches = random(20, 6, 4) + 1
    total = PatchSums(20)
    for start, end in zip(starts, [*starts[1:], 20], strict=True):
        part = PatchSums(20)
        part.begin(start)
        for image in range(start, end):
            part.update(patches[image : image + 1])
        total.merge(part)
    wanted = {"patch_cosine": patch_cosine(patches), "patch_rank": float(patch_rank(patches[::4]))}
    assert total.metrics() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("sizes", [[30, 20], [0, 49, 1], [10, 10, 10, 20]])
def test_moments_of_parts_of_the_rows_give_the_similarity_of_all(sizes):
    x, y = random(50, 5) + 3, random(50, 7, seed=1) - 2
    sums = [CrossMoments() for _ in range(3)]
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        for total, pair in zip(sums, ((a, b), (a, a), (b, b)), strict=True):
            part = CrossMoments()
            part.update(*pair)
            total.merge(part)
    assert sums[0].cka(sums[1].norm(), sums[2].norm()) == pytest.approx(linear_cka(x, y), rel=1e-12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small ViT with a momentum teacher."""
    from ssltool.config import PretrainConfig

    return pretrain(
        PretrainConfig(
            method="mocov3",
            options=("dim=8", "hidden=16", "momentum=0.5"),
            arch=VIT,
            image_size=16,
            epochs=1,
            steps_per_epoch=2,
            batch_size=16,
            monitor_every=0,
            workers=0,
            device="cpu",
            out=str(tmp_path_factory.mktemp("vit") / "run"),
        )
    )


def test_layers_on_two_ranks(ssltool, server, checkpoint, shades, tmp_path):
    """With the patches of blocks, the untrained network and the teacher; 6 batches for two ranks."""
    command = ["collapse", "--layers", checkpoint, "--data", shades, *HERE, "-b", 9, "--fail-on", "partial", "--json"]
    one = ssltool(*command)
    two = run_ranks(server, "ssltool", *command, "--out", tmp_path / "table.csv", "--plot", tmp_path / "plot.svg")
    assert one.code == two.returncode, two.stderr
    found = json.loads(two.stdout)
    assert_close(found | {"plot": None}, one.json, 1e-9)
    (network,) = found["networks"]
    assert any("patch_rank" in layer["metrics"] for layer in network["layers"])
    assert all(layer["cka"].keys() == {"untrained", "teacher_network"} for layer in network["layers"][:-1])
    assert (tmp_path / "table.csv").exists() and (tmp_path / "plot.svg").exists()


def test_a_diagnosis_on_two_ranks(ssltool, server, trained, shades, tmp_path):
    """Of a checkpoint, a run folder and a log; only the first is shared among the ranks."""
    log = tmp_path / "losses.csv"
    log.write_text("epoch,loss\n" + "".join(f"{epoch},{5 - epoch / 10}\n" for epoch in range(20)))
    command = ["diagnose", trained / "checkpoint.pt", trained, log, "--data", shades, *HERE, "-b", 10, "--json"]
    one, two = ssltool(*command), run_ranks(server, "ssltool", *command)
    assert one.code == two.returncode == 0, two.stderr
    assert_close(json.loads(two.stdout), one.json, 1e-9)
    assert [report["source"] for report in one.json["reports"]] == ["run folder", "log", "checkpoints"]


def test_an_image_that_one_rank_cannot_read_ends_all(server, checkpoint, shades, tmp_path):
    folder = tmp_path / "images"
    (folder / "train" / "a").mkdir(parents=True)
    for number, path in enumerate(sorted((shades / "train" / "dark").glob("*.png"))[:8]):
        (folder / "train" / "a" / f"{number}.png").write_bytes(path.read_bytes() if number < 7 else b"no image")
    command = ["collapse", "--layers", checkpoint, "--data", folder, *HERE, "-b", 2]
    ran = run_ranks(server, "ssltool", *command, limit=100)
    assert ran.returncode == 1
    assert "7.png" in ran.stderr and "Traceback" not in ran.stderr
