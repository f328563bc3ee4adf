"""Folders of transformers and timm: what is read from them, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import socket
from pathlib import Path

import pytest
import torch
from hub_helpers import CASES, PIXELS, VIT, close, edit, folder, network, timm_folder, transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from helpers import error_message
from ssltool.checkpoints.convert import read_checkpoint
from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.checkpoints.named_backbone import left_out_modules
from ssltool.config import FinetuneConfig, SaveReprsConfig
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations
from ssltool.stages.finetune import run as finetune

CPU = torch.device("cpu")
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "resample": 3,
    "size": {"height": 40, "width": 40},
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """An attempt to open a connection fails the test."""

    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(path: object, **settings) -> Pretrained:
    return load_pretrained(SaveReprsConfig(pretrained=str(path), device="cpu", **settings), CPU)


def refused(path: Path, *parts: str) -> None:
    """Checks that reading ``path`` is an error of one line with these ``parts``."""
    with pytest.raises(SSLToolError) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in (*parts, str(path if path.is_dir() else path.parent)))


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_every_class_is_read_from_the_folder_that_it_writes(tmp_path, case):
    checkpoint, found = read_checkpoint(folder(tmp_path / case, case))
    assert checkpoint.config["program"] == found.layout.program == "transformers"
    heads = {"pooler", "classifier", "cls_classifier", "distillation_classifier", "decoder", "mask_token"}
    heads |= {"predictor", "text_model", "text_projection", "visual_projection", "logit_scale", "logit_bias"}
    assert {name.rpartition(".")[2] for name in found.ignored} <= heads


@torch.no_grad()
def test_a_file_of_pickled_tensors_and_shards_hold_the_same_network(tmp_path):
    whole = folder(tmp_path / "whole")
    expected = load(whole).method.backbone(PIXELS)
    weights = load_file(whole / "model.safetensors")
    pickled, sharded = (folder(tmp_path / name) for name in ("pickled", "sharded"))
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    network("ViTModel").save_pretrained(sharded / "of", max_shard_size="10KB")
    assert len(list((sharded / "of").glob("model-*.safetensors"))) > 2
    for path in (pickled, pickled / "pytorch_model.bin", sharded / "of", whole / "model.safetensors"):
        assert torch.equal(load(path).method.backbone(PIXELS), expected)


@torch.no_grad()
def test_weights_of_half_precision_are_read_as_float32(tmp_path):
    path = folder(tmp_path / "half")
    halves = {name: tensor.half() for name, tensor in load_file(path / "model.safetensors").items()}
    save_file(halves, path / "model.safetensors", metadata={"format": "pt"})
    edit(path / "config.json", dtype="float16", torch_dtype="float16")
    expected = network("ViTModel")
    expected.load_state_dict({name: tensor.half().float() for name, tensor in expected.state_dict().items()})
    found = load(path).method.backbone
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32}
    close(found(PIXELS), expected(PIXELS).last_hidden_state[:, 0])


def test_the_preprocessing_of_the_folder_goes_with_the_network(tmp_path):
    network = load(folder(tmp_path / "vit", processor=PROCESSOR))
    transform = Preprocessing(40, 40, True, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert network.preprocessing == network.run.preprocessing() == transform
    assert network.image_size == 40 and network.origin["preprocessing"]["mean"] == [0.1, 0.2, 0.3]


def test_without_a_processor_the_transform_is_assumed_and_said(tmp_path, capsys):
    network = load(folder(tmp_path / "vit"))
    assert "preprocessor_config.json: assumed" in capsys.readouterr().err
    assert network.preprocessing.mean == (0.5, 0.5, 0.5) and network.image_size == 32


@torch.no_grad()
def test_a_network_for_video_reads_an_image_as_equal_frames(tmp_path, capsys):
    path, model = folder(tmp_path / "vjepa2", "VJEPA2Model"), network("VJEPA2Model")
    transformers().VJEPA2VideoProcessor(crop_size=40, resample=3).save_pretrained(path)
    found = load(path)
    assert found.preprocessing == Preprocessing(40, 45, interpolation="bicubic")
    assert "16 frames" in capsys.readouterr().err and "predictor" not in " ".join(found.method.state_dict())
    frames = torch.stack([PIXELS, PIXELS], dim=1)
    torch.testing.assert_close(
        found.method.backbone(PIXELS), model(frames).last_hidden_state.mean(dim=1), rtol=1e-5, atol=1e-5
    )
    (path / "video_preprocessor_config.json").unlink()
    assert load(path).preprocessing.at(384) == Preprocessing(384, 438, crop_pct=0.875)


def test_a_processor_beside_a_tokenizer_is_found(tmp_path):
    path = folder(tmp_path / "clip", "CLIPModel")
    (path / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR, "tokenizer": {}}))
    assert load(path).preprocessing.resize == 40


def test_a_finetuned_network_keeps_the_preprocessing(tmp_path, shades):
    path = folder(tmp_path / "vit", processor=PROCESSOR | {"size": 32})
    config = FinetuneConfig(
        data=str(shades), pretrained=str(path), epochs=1, batch_size=16, workers=0, out=str(tmp_path / "run")
    )
    finetune(config)
    again = load(next((tmp_path / "run").glob("finetuned_pretrained*.pt")))
    assert again.preprocessing == load(path).preprocessing
    assert again.run.backbone.arch == load(path).run.backbone.arch


def test_a_folder_goes_through_save_reprs(tmp_path, ssltool):
    path = folder(tmp_path / "vit", processor=PROCESSOR | {"size": 32})
    done = ssltool(
        "save-reprs", "--pretrained", path, "--sample", "4", "-j", 0, "-o", tmp_path / "r.pt", "--device", "cpu"
    )
    assert done.code == 0, done.err
    meta = Representations.load(tmp_path / "r.pt").meta
    assert meta["program"] == "transformers" and meta["arch"].startswith("transformers:vit,")


# Refused


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "bert"}, ("bert", "dinov2")),
        ({"model_type": ["vit"]}, ("model type",)),
        ({"model_type": "new", "auto_map": {"AutoModel": "code.Model"}}, ("auto_map", "new")),
        ({"hidden_size": "32"}, ("vit",)),
        ({"hidden_size": -32}, ("vit",)),
        ({"hidden_size": 64}, ("vit",)),
        ({"hidden_size": 1e400}, ("hidden_size",)),
        ({"num_hidden_layers": 10**9}, ("num_hidden_layers",)),
        ({"num_hidden_layers": 3}, ("vit",)),
        ({"num_hidden_layers": 1}, ("unexpected",)),
        ({"intermediate_size": 63}, ("another shape",)),
        ({"image_size": 64}, ("vit",)),
        ({"image_size": [32, 48]}, ("square",)),
        ({"num_channels": 1}, ("channels",)),
        ({"hidden_act": {"a": 1}}, ("vit",)),
        ({"quantization_config": {"bits": 4}}, ("quantised",)),
    ],
)
def test_configurations_of_other_networks_are_one_line(tmp_path, changes, parts):
    path = folder(tmp_path / "vit")
    edit(path / "config.json", **changes)
    refused(path, *parts)


def test_a_missing_tensor_is_named(tmp_path):
    path = folder(tmp_path / "vit")
    weights = load_file(path / "model.safetensors")
    del weights["layernorm.bias"]
    weights["spare"] = torch.zeros(10_000)
    save_file(weights, path / "model.safetensors")
    refused(path, "missing", "layernorm.bias")


def test_a_folder_without_weights_says_what_it_has(tmp_path):
    path = folder(tmp_path / "vit")
    (path / "model.safetensors").rename(path / "tf_model.h5")
    refused(path, "model.safetensors", "tf_model.h5")


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        ({"layernorm.bias": "../secret.safetensors"}, ("../secret",)),
        ({"layernorm.bias": "/etc/passwd"}, ("/etc/passwd",)),
        ({"layernorm.bias": ".."}, ("folder",)),
        ({"layernorm.bias": "gone.safetensors"}, ("gone.safetensors",)),
        ({"layernorm.bias": 3}, ("weight_map",)),
        ({"none": "model-00001-of-00002.safetensors"}, ("none",)),
        ([], ("weight_map",)),
        (None, ("weight_map",)),
    ],
)
def test_damaged_lists_of_shards_are_one_line(tmp_path, damage, parts):
    path = folder(tmp_path / "vit")
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": damage}))
    refused(path, *parts)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"model_type": NaN}', "\xff"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    path = folder(tmp_path / "vit")
    (path / "config.json").write_bytes(text.encode("latin-1"))
    refused(path)


def test_links_are_followed_and_their_loops_are_one_line(tmp_path):
    path = folder(tmp_path / "vit")
    weights = path / "model.safetensors"
    weights.rename(tmp_path / "blob")
    weights.symlink_to(tmp_path / "blob")
    assert load(path).image_size == 32
    weights.unlink()
    weights.symlink_to(weights.name)
    refused(path, "model.safetensors")
    weights.unlink()
    weights.symlink_to(os.devnull)
    refused(path, "model.safetensors")


def test_nothing_in_a_folder_is_executed(tmp_path, capsys):
    path, proof = folder(tmp_path / "vit"), tmp_path / "executed"
    code = f"open({str(proof)!r}, 'w')\n"
    for name in ("code.py", "modeling.py", "__init__.py", "configuration.py"):
        (path / name).write_text(code)
    edit(
        path / "config.json", auto_map={"AutoModel": "code.Model", "AutoConfig": "code.Config"}, trust_remote_code=True
    )
    (path / "preprocessor_config.json").write_text(
        json.dumps(PROCESSOR | {"auto_map": {"AutoImageProcessor": "code.X"}, "image_processor_type": "code.X"})
    )
    assert load(path).preprocessing.size == 40
    assert "auto_map" in capsys.readouterr().err and not proof.exists()

    class Hostile:
        def __reduce__(self):
            return exec, (code,)

    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Hostile()}))
    refused(path, "pytorch_model.bin")
    torch.save({"a": Hostile()}, path / "pytorch_model.bin")  # read without the object, hence without weights
    refused(path)
    assert not proof.exists()


def test_other_folders_are_no_networks(trained, ssltool, tmp_path):
    refused(trained, "checkpoint.pt")
    message = error_message(ssltool("save-reprs", "--pretrained", tmp_path))
    assert "is a folder" in message and "config.json" in message


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        ("transformers:vit", True),
        ("transformers:vit,hidden_size=32", True),
        ("transformers:vit,hidden_size=64", False),
        ("resnet50", False),
    ],
)
def test_an_architecture_that_is_given_must_be_that_of_the_folder(tmp_path, given, fits):
    path = folder(tmp_path / "vit")
    if fits:
        assert load(path, arch=given).image_size == 32
        return
    with pytest.raises(SSLToolError, match="--arch") as error:
        load(path, arch=given)
    assert given in str(error.value) and "hidden_size=32" in str(error.value)


# timm

TINY_TIMM = {
    "resnet18": {"act_layer": "silu", "global_pool": "max", "output_stride": 16},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2, "global_pool": "avg", "num_classes": 7},
    "vit_small_patch14_dinov2": {"img_size": 28, "embed_dim": 32, "num_heads": 2, "depth": 2},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "num_classes": 0},
    "swin_tiny_patch4_window7_224": {
        "img_size": 56,
        "embed_dim": 12,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 2, 2),
    },
}


@pytest.mark.parametrize("name", TINY_TIMM)
@pytest.mark.parametrize("safe", [True, False])
@torch.no_grad()
def test_folders_of_timm_give_what_timms_classifier_reads(tmp_path, name, safe):
    path, model = timm_folder(tmp_path / name, name, safe=safe, **TINY_TIMM[name])
    network = load(path)
    assert network.run.backbone.arch.startswith(f"timm:{name}")
    cfg = json.loads((path / "config.json").read_text())["pretrained_cfg"]
    size = cfg["input_size"][-1]
    assert network.image_size == size and list(network.preprocessing.mean) == cfg["mean"]
    assert network.preprocessing.interpolation == cfg["interpolation"]
    pixels = torch.randn(2, 3, size, size)
    close(network.method.backbone(pixels), model.forward_head(model.forward_features(pixels), pre_logits=True))


def test_the_pooling_that_early_versions_of_timm_write_is_used(tmp_path):
    path, _ = timm_folder(tmp_path / "r", act_layer="silu")
    edit(path / "config.json", model_args={"act_layer": "silu"}, global_pool="max")
    assert load(path).run.backbone.arch == "timm:resnet18,act_layer=silu,global_pool=max"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"architecture": "resnet81"}, "resnet81"),
        ({"architecture": "hf-hub:x/y"}, "x/y"),
        ({"architecture": 5}, "architecture"),
        ({"architecture": "resnet34"}, "resnet34"),
        ({"num_classes": 3}, "resnet18"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "checkpoint_path"),
        ({"model_args": {"in_chans": 1}}, "channels"),
        ({"model_args": {"block_args": 5}}, "resnet18"),
        ({"model_args": {"base_width": 10**9}}, "base_width"),
        ({"model_args": [1]}, "model_args"),
        ({"pretrained_cfg": {"input_size": [3, 224, 200]}}, "square"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "mean"),
        ({"pretrained_cfg": {"crop_pct": 0}}, "crop_pct"),
        ({"pretrained_cfg": {"interpolation": "random"}}, "random"),
    ],
)
def test_configurations_of_timm_that_do_not_fit_are_one_line(tmp_path, changes, part):
    path, _ = timm_folder(tmp_path / "r")
    edit(path / "config.json", **changes)
    refused(path, part)


def test_sources_in_a_configuration_of_timm_are_not_read(tmp_path):
    path, _ = timm_folder(tmp_path / "r")
    cfg = json.loads((path / "config.json").read_text())["pretrained_cfg"]
    edit(path / "config.json", pretrained_cfg=cfg | {"source": "local-dir", "file": "/nowhere", "custom_load": "hf"})
    assert load(path).run.backbone.arch == "timm:resnet18"


# inspect


def test_inspect_describes_folders(tmp_path, ssltool):
    ours = folder(tmp_path / "clip", "CLIPModel", PROCESSOR)
    theirs, _ = timm_folder(tmp_path / "timm")
    broken = folder(tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    done = ssltool("inspect", ours, ours / "model.safetensors", theirs, broken, "--json")
    assert done.code == 0, done.err
    one, file, two, three = done.json["files"]
    assert (one["kind"], one["program"], one["width"]) == ("checkpoint", "transformers", VIT["hidden_size"])
    assert one["image_size"] == one["preprocessing"]["resize"] == 40
    assert {"text_model", "logit_scale"} <= set(one["left_out"])
    assert file["arch"] == one["arch"] and file["sha256"] and "sha256" not in one
    assert (two["program"], two["arch"], two["left_out"]) == ("timm", "timm:resnet18", ["fc"])
    assert three["kind"] == "weights" and "no weights" in three["problem"]


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@given(st.lists(NAMES, unique=True), st.lists(NAMES, unique=True))
def test_each_weight_that_is_left_out_is_in_a_module_that_is_named(others, used):
    others = [name for name in others if name not in used]
    modules = left_out_modules(others, used)
    for name in others:
        assert any(name == module or name.startswith(f"{module}.") for module in modules)
    assert len(modules) <= len(others)
