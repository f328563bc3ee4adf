"""torchvision's architectures: their outputs are what the last linear layer of torchvision's own network reads."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from ssltool.errors import SSLToolError, UsageError
from ssltool.models.backbones import build_backbone, family_of, last_layer, last_width, patch_tokens, token_layout
from ssltool.models.depth import layer_groups
from ssltool.models.family import TokenLayout

# Name, width, and the shape of the last layer for an image of 64 pixels: (T, D) or (D, H, W).
NETWORKS = [
    ("convnext_tiny", 768, (768, 2, 2)),
    ("densenet121", 1024, (1024, 2, 2)),
    ("efficientnet_b0", 1280, (1280, 2, 2)),
    ("googlenet", 1024, (1024, 2, 2)),
    ("mnasnet0_5", 1280, (1280, 2, 2)),
    ("mobilenet_v2", 1280, (1280, 2, 2)),
    ("mobilenet_v3_small", 1024, (576, 2, 2)),
    ("regnet_x_400mf", 400, (400, 2, 2)),
    ("resnet18", 512, (512, 2, 2)),
    ("shufflenet_v2_x0_5", 1024, (1024, 2, 2)),
    ("squeezenet1_1", 512, (512, 3, 3)),
    ("swin_t", 768, (768, 2, 2)),
    ("alexnet", 4096, (256, 1, 1)),
]
HEADS = ("fc", "classifier", "head")


def build(name: str, size: int = 64) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    return build_backbone(f"torchvision:{name}", image_size=size)


def last_linear(network: nn.Module) -> nn.Module:
    """The module that gives the scores of the classes."""
    return [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and 1000 in m.weight.shape[:1]][-1]


@pytest.mark.parametrize(("name", "width", "shape"), NETWORKS)
def test_a_network_of_torchvision_returns_what_its_last_linear_layer_reads(name, width, shape):
    backbone, found = build(name)
    more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    original = torchvision.models.get_model(name, weights=None, **more).eval()
    missing = original.load_state_dict(backbone.state_dict(), strict=False)
    assert not missing.unexpected_keys
    read: list[torch.Tensor] = []
    last_linear(original).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        out, last = backbone.eval()(images), last_layer(backbone, images)
        original(images)
    expected = read[0].mean(dim=(2, 3)) if read[0].dim() == 4 else read[0]  # SqueezeNet classifies, then pools
    torch.testing.assert_close(out, expected)
    assert found == width == out.shape[1]
    assert last.shape == (2, *shape)
    assert patch_tokens(backbone, images).shape[2] == last_width(backbone, width) == shape[0]


def test_torchvisions_resnet_is_ours_with_the_imagenet_stem():
    theirs = build("resnet18", 224)[0].eval()
    torch.manual_seed(0)
    ours = build_backbone("resnet18", stem="imagenet")[0].eval()
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(theirs(images), ours(images))
    assert torch.equal(last_layer(theirs, images), last_layer(ours, images))


def test_torchvisions_vit_has_its_outputs_and_gives_its_tokens():
    backbone, width = build("vit_b_32")
    original = torchvision.models.vit_b_32(image_size=64)
    original.heads = nn.Identity()
    original.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone.eval()(images), original.eval()(images))
    assert (width, token_layout(backbone)) == (768, TokenLayout())
    assert last_layer(backbone, images).shape == (1, 5, 768)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small", "vgg11"])
def test_the_dropout_before_the_classifier_is_left_out(name):
    with torch.device("meta"):
        backbone, _ = build(name)
    head = list(getattr(backbone, next(head for head in HEADS if hasattr(backbone, head))))
    assert not head or not isinstance(head[-1], (nn.Dropout, nn.Linear))


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t", "regnet_x_400mf", "densenet121", "efficientnet_b0"])
def test_rates_rise_from_the_first_layer_to_the_last(name):
    backbone, _ = build(name)
    names = {id(p): key for key, p in backbone.named_parameters()}
    scale = {names[id(p)]: group["scale"] for group in layer_groups(backbone, 0.5) for p in group["params"]}
    assert scale.keys() == dict(backbone.named_parameters()).keys()
    by_layer = [scale[key] for key, _ in backbone.named_parameters()]
    assert by_layer == sorted(by_layer)
    assert by_layer[0] < by_layer[-1]


@pytest.mark.parametrize(("name", "size"), [("convnext_tiny", 224), ("efficientnet_b1", 240), ("inception_v3", 299)])
def test_the_transform_is_that_of_torchvisions_weights(name, size):
    found = family_of(f"torchvision:{name}").preprocessing(f"torchvision:{name}", None)
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    assert (found.size, found.resize) == (size, transform.resize_size[0])
    assert found.interpolation == transform.interpolation.value
    assert (list(found.mean), list(found.std)) == (transform.mean, transform.std)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fasterrcnn_resnet50_fpn", "not for classification"),
        ("convnext_tin", "convnext_tiny"),
        ("convnext_tiny,weights=DEFAULT", "--pretrained"),
        ("convnext_tiny,foo=1", "foo"),
        ("mobilenet_v3_small,width_mult=0.5,foo=1", "foo"),
        ("inception_v3,aux_logits=true", "aux_logits"),
    ],
)
def test_what_is_no_backbone_of_torchvision_is_one_line(name, said):
    with pytest.raises(UsageError) as error:
        build(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_is_too_small_is_refused_with_sizes_that_work():
    with pytest.raises(SSLToolError, match="--image-size 64"):
        build("alexnet", 32)
