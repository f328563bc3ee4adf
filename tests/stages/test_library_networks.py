"""Networks of timm and torchvision in every stage, from pretraining to its diagnosis."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest
import torch

from helpers import same_bits
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import FinetuneConfig
from ssltool.errors import Interrupted, SSLToolError, UsageError
from ssltool.stages import finetune
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.prepare import prepare
from tiny_methods import TINY_METHODS

pytest.importorskip("timm")

VIT = "timm:vit_tiny_patch16_224,depth=2,embed_dim=48,num_heads=2,patch_size=8,drop_path_rate=0.3"
CNN = "timm:resnet18,layers=[1,1,1,1],stem_width=8,channels=[8,8,16,16]"


@pytest.fixture
def train(tiny):
    """Trains one of these networks: ``train(VIT, method="dino") -> run folder``."""

    def trained(arch: str, **changes):
        return pretrain(settings(tiny, arch, **changes))

    return trained


def settings(tiny, arch: str, **changes):
    own = {"dim": None, "pred_dim": None} if changes.get("method", "simsiam") != "simsiam" else {}
    return tiny(arch=arch, stem="auto", workers=0, **{"epochs": 1, **own, **changes})


@pytest.mark.parametrize("arch", [VIT, CNN])
def test_every_stage_reads_a_network_of_timm(train, shades, tmp_path, ssltool, arch):
    run = train(arch)
    checkpoint = run / "checkpoint.pt"
    assert json.loads((run / "config.json").read_text())["arch"] == arch
    common = (shades, "--pretrained", checkpoint, "--device", "cpu", "-j", 0)
    places = ("--tokens", "patch") if arch == VIT else ("--pool", "none")
    train_file, val_file = tmp_path / "train.pt", tmp_path / "val.pt"
    done = [
        ssltool("save-reprs", *common, "--split", "train", "-o", train_file),
        ssltool("save-reprs", *common, "--split", "val", "-o", val_file),
        ssltool("save-reprs", *common, *places, "-o", tmp_path / "places.pt"),
        ssltool("knn", train_file, val_file, "-k", 3),
        ssltool("collapse", train_file),
        ssltool("lincls", *common, "--epochs", 1, "-b", 16, "-o", tmp_path / "probe"),
        ssltool("finetune", *common, "--epochs", 1, "-b", 16, "--layer-decay", 0.5, "-o", tmp_path / "tuned"),
        ssltool(
            "scan",
            *common,
            "--epochs",
            1,
            "-b",
            16,
            "--clusters",
            3,
            "--threshold",
            0.1,
            "--selflabel-epochs",
            1,
            "-o",
            tmp_path / "scan",
        ),
        ssltool("inspect", checkpoint),
        ssltool("save-reprs", *common, "--random", "-o", tmp_path / "random.pt"),
    ]
    for ran in done:
        assert ran.code == 0, ran.err
    assert arch in done[-2].out


@pytest.mark.parametrize(
    ("arch", "method"),
    [
        *((arch, name) for arch in (VIT, CNN) for name in ("dino", "byol", "teacher", "swav", "mocov3")),
        *((VIT, name) for name in ("ibot", "dinov2")),
        (f"{VIT},class_token=False,global_pool=avg", "ibot"),
    ],
)
def test_methods_with_teachers_patches_and_small_crops_train_a_network_of_timm(train, arch, method):
    tiny_options = {key: value for key, value in TINY_METHODS[method].items() if key != "local_size"}
    options = tuple(f"{key}={value}" for key, value in tiny_options.items())
    saved = Checkpoint.load(train(arch, method=method, image_size=32, options=options) / "checkpoint.pt")
    assert saved.step == 3
    assert all(bool(t.isfinite().all()) for t in saved.state_dict.values() if t.is_floating_point())


def test_a_run_with_stochastic_depth_is_resumed_bit_for_bit(tiny, interrupt_at):
    whole = Checkpoint.load(pretrain(settings(tiny, VIT, epochs=2, out="whole")) / "checkpoint.pt")
    config = settings(tiny, VIT, epochs=2, out="parts")
    interrupt_at(4)
    with pytest.raises(Interrupted):
        pretrain(config)
    resumed = Checkpoint.load(pretrain(dataclasses.replace(config, resume="auto")) / "checkpoint.pt")
    assert same_bits(whole.state_dict, resumed.state_dict)


def test_small_crops_that_a_network_does_not_take_are_refused_before_training(tiny):
    options = ("local_crops=1", "local_size=12")
    with pytest.raises(SSLToolError, match="--set local_size"):
        pretrain(settings(tiny, VIT, method="dino", image_size=32, options=options))


def test_the_own_size_of_images_is_kept_where_the_network_can_be_built_for_it(train, capfd):
    assert json.loads((train(CNN, image_size=None) / "config.json").read_text())["image_size"] == 28
    assert "own size" not in capfd.readouterr().err


def test_a_network_that_does_not_take_the_images_own_size_gets_its_own(tiny, capfd):
    assert prepare(settings(tiny, VIT, image_size=None)).image_size == 224
    assert "28 pixels" in capfd.readouterr().err


def test_an_untrained_network_of_timm_has_the_librarys_size(shades, tmp_path, ssltool):
    out = tmp_path / "random.pt"
    ran = ssltool("save-reprs", shades, "--pretrained", "random", "-a", CNN, "--device", "cpu", "-j", 0, "-o", out)
    assert ran.code == 0, ran.err
    assert torch.load(out, weights_only=True)["meta"]["image_size"] == 224


def test_a_run_of_torchvisions_network_is_read_again(train, shades, tmp_path, ssltool):
    run = train("torchvision:shufflenet_v2_x0_5")
    out = tmp_path / "a.pt"
    ran = ssltool("save-reprs", shades, "--pretrained", run / "checkpoint.pt", "--device", "cpu", "-j", 0, "-o", out)
    assert ran.code == 0, ran.err
    assert torch.load(out, weights_only=True)["representations"].shape == (48, 1024)


def test_the_folder_of_a_run_has_a_name_without_colons(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pretrain(dataclasses.replace(settings(tiny, CNN), out=None))
    assert run.parent.name == "logs"
    assert not set(':,[]="') & set(run.name)


def test_a_wrong_setting_in_the_name_is_a_usage_error_before_the_data_is_read(tiny):
    with pytest.raises(UsageError, match="foo"):
        pretrain(settings(tiny, f"{CNN},foo=1", image_size=None))


def test_finetuning_with_stochastic_depth_is_resumed_bit_for_bit(train, shades, tmp_path, monkeypatch):
    run = train(VIT)
    fixed = {"pretrained": str(run / "checkpoint.pt"), "data": str(shades), "device": "cpu", "workers": 0}
    whole = FinetuneConfig(**fixed, epochs=2, batch_size=16, out=str(tmp_path / "whole"))
    parts = dataclasses.replace(whole, out=str(tmp_path / "parts"))
    finetune.run(whole)
    step, count = finetune._Finetuning.step, []

    def stepping(self, batch):
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    monkeypatch.setattr(finetune._Finetuning, "step", stepping)
    with pytest.raises(Interrupted):
        finetune.run(parts)
    finetune.run(dataclasses.replace(parts, resume="auto"))
    one, other = (Checkpoint.load(next((tmp_path / name).glob("finetuned_*.pt"))) for name in ("whole", "parts"))
    assert same_bits(one.state_dict, other.state_dict)
