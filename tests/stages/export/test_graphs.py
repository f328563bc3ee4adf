"""TorchScript and ONNX: programs for any number of images that need neither ssltool nor a library of networks."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import onnx
import pytest
import torch
from export_helpers import assert_same, described, export

import ssltool as package
from checkpoint_helpers import noise
from ssltool.errors import SSLToolError

VIT = "timm:vit_tiny_patch16_224,depth=1,embed_dim=48"


@pytest.mark.parametrize(
    ("arch", "size"),
    [("resnet18_w8", 32), ("vit_small_depth3_p8", 32), (VIT, 32), ("torchvision:shufflenet_v2_x0_5", 64)],
)
def test_a_torchscript_program_computes_the_same_for_any_number_of_images(tmp_path, arch, size):
    source = described(tmp_path / "a.safetensors", arch, size)
    assert_same(export(source, "torchscript")["load"], source, size)


@pytest.mark.parametrize("arch", ["resnet18_w8", "vit_small_depth3_p8"])
def test_an_onnx_model_computes_the_same_and_nothing_but_the_result_is_printed(ssltool, tmp_path, arch):
    source = described(tmp_path / "a.safetensors", arch)
    done = ssltool("export", source, "--to", "onnx", "--json")
    assert done.code == 0, done.err
    assert done.err.count("\n") == 2  # what was read, and its transform
    assert_same(done.json["load"], source)
    model = onnx.load(done.json["path"])
    assert {entry.key for entry in model.metadata_props} >= {"arch", "method", "preprocessing"}
    sides = model.graph.input[0].type.tensor_type.shape.dim
    assert sides[0].dim_param and [side.dim_value for side in sides[1:]] == [3, 32, 32]


def test_the_network_of_a_run_is_used_by_another_python_process(ssltool, trained, tmp_path):
    """The code as printed, in a process where ssltool cannot be imported."""
    code = ssltool("export", trained / "checkpoint.pt", "--to", "state_dict", "-o", tmp_path / "out.pth").out
    code = code.partition("\n\n")[2]
    torch.save(noise(16), tmp_path / "images.pt")
    program = (
        f"import sys; sys.modules['ssltool'] = None\n{code}\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r})\n"
        f"torch.save(model(images).detach(), {str(tmp_path / 'found.pt')!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    with torch.inference_mode():
        expected = package.load_backbone(str(trained / "checkpoint.pt"))(noise(16))
    torch.testing.assert_close(torch.load(tmp_path / "found.pt", weights_only=True), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_of_onnx_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, missing):
    source = described(tmp_path / "a.safetensors", "resnet18_w8")
    found = importlib.import_module

    def without(name: str, *args: object) -> object:
        if name == missing:
            raise ImportError(name)
        return found(name, *args)

    monkeypatch.setattr("ssltool.stages.export.graphs.importlib.import_module", without)
    with pytest.raises(SSLToolError, match=rf"{missing}: pip install 'ssltool\[onnx\]'"):
        export(source, "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(("to", "recorder"), [("torchscript", "torch.jit.trace"), ("onnx", "torch.onnx.export")])
def test_a_network_that_cannot_be_recorded_is_refused_with_another_target(tmp_path, monkeypatch, to, recorder):
    source = described(tmp_path / "a.safetensors", "resnet18_w8")

    def fail(*args: object, **settings: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(recorder, fail)
    with pytest.raises(SSLToolError, match=r"resnet18_w8 .*no such operator; use --to safetensors") as refused:
        export(source, to)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_program_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    source = described(tmp_path / "a.safetensors", "resnet18_w8")
    record = torch.jit.trace
    monkeypatch.setattr("torch.jit.trace", lambda model, images, **more: record(model, images[:1] * 0, **more))
    monkeypatch.setattr("torch.jit.load", lambda file: lambda images: torch.zeros(len(images), 64))
    with pytest.raises(SSLToolError, match=r"does not compute the same.* use --to"):
        export(source, "torchscript")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
