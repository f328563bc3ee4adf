"""What is taken out of a network: every layer, module, token and place against the pass done by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, facts
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method
from ssltool.models.backbones import build_backbone
from ssltool.models.outputs import Features

CPU = torch.device("cpu")
SIZE = 16


def small(method: str = "byol", arch: str = "resnet18_w8", **options: object) -> Method:
    """A method on a small real backbone, in eval mode."""
    torch.manual_seed(0)
    stem = "small-stride2" if arch.startswith("resnet") else "auto"
    backbone, dim = build_backbone(arch, stem=stem, image_size=SIZE)
    widths = {"dim": 6, "hidden": 10} | options
    run = facts(second_backbone=lambda: build_backbone(arch, stem=stem, image_size=SIZE))
    return method_class(method)(backbone, dim, method_options(method, widths), run).eval()


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def take(method: Method, layer: str, **settings: str) -> Tensor:
    with torch.inference_mode():
        return Features(method, layer, **settings)(images())


def maps(backbone: nn.Module, upto: str) -> Tensor:
    """A ResNet's feature map behind one of its stages, part by part."""
    x = images()
    with torch.no_grad():
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(backbone, name)(x)
            if name == upto:
                return x
    raise AssertionError(upto)


def sequence(vit: nn.Module, upto: int) -> Tensor:
    """A ViT's tokens (N, 1 + P, D) behind its layer number ``upto``, part by part."""
    with torch.no_grad():
        patches = vit.conv_proj(images()).flatten(2).transpose(1, 2)
        x = torch.cat([vit.class_token.expand(len(patches), -1, -1), patches], dim=1) + vit.encoder.pos_embedding
        for layer in list(vit.encoder.layers)[: upto + 1]:
            x = layer(x)
    return x


VIT = "vit_w256_depth6"


@pytest.mark.parametrize("layer", ["backbone", "projector", "predictor"])
def test_the_three_layers_equal_the_methods_embeddings(layer):
    method = small()
    with torch.no_grad():
        assert torch.equal(take(method, layer), method.embed(images(), layer))


@pytest.mark.parametrize("stage", ["conv1", "layer1", "layer3"])
def test_a_resnet_module_gives_its_mean_or_a_row_per_position(stage):
    method = small()
    wanted = maps(method.backbone, stage)
    torch.testing.assert_close(take(method, f"backbone.{stage}"), wanted.mean(dim=(2, 3)))
    torch.testing.assert_close(take(method, f"backbone.{stage}", pool="mean"), wanted.mean(dim=(2, 3)))
    kept = take(method, f"backbone.{stage}", pool="none")
    side = wanted.shape[-1]
    assert side > 1
    for row in range(side):
        for column in range(side):
            torch.testing.assert_close(kept[:, row * side + column], wanted[:, :, row, column])


def test_the_positions_of_a_resnet_average_to_its_output():
    method = small(arch="resnet18_w16")
    large = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        kept = Features(method, "backbone", pool="none")(large)
        assert kept.shape == (2, 4, 128)
        torch.testing.assert_close(kept.mean(dim=1), method.backbone(large))
        torch.testing.assert_close(Features(method, "backbone", pool="mean")(large), method.backbone(large))


@pytest.mark.parametrize(
    ("layer", "upto"), [("backbone.encoder.layers.encoder_layer_1", 1), ("backbone.encoder.layers.encoder_layer_5", 5)]
)
def test_tokens_of_a_vit_module_can_be_selected(layer, upto):
    method = small(arch=VIT)
    wanted = sequence(method.backbone, upto)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(take(method, layer), wanted[:, 0], **close)
    torch.testing.assert_close(take(method, layer, tokens="cls"), wanted[:, 0], **close)
    torch.testing.assert_close(take(method, layer, tokens="patch"), wanted[:, 1:], **close)
    torch.testing.assert_close(take(method, layer, tokens="mean"), wanted[:, 1:].mean(dim=1), **close)


def test_the_tokens_of_a_vit_are_those_after_its_last_norm():
    method = small(arch=VIT)
    with torch.no_grad():
        wanted = method.backbone.encoder.ln(sequence(method.backbone, 5))
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(take(method, "backbone"), wanted[:, 0], **close)
    torch.testing.assert_close(take(method, "backbone", tokens="cls"), wanted[:, 0], **close)
    torch.testing.assert_close(take(method, "backbone", tokens="patch"), wanted[:, 1:], **close)
    torch.testing.assert_close(take(method, "backbone", tokens="mean"), wanted[:, 1:].mean(dim=1), **close)
    torch.testing.assert_close(take(method, "backbone.encoder.ln", tokens="patch"), wanted[:, 1:], **close)


def test_a_projector_of_patch_tokens_gives_a_row_per_position():
    method = small("teacher", VIT)
    with torch.no_grad():
        first = method.projector[0](method.backbone.tokens(images())[:, 1:])
        assert torch.equal(take(method, "backbone"), method.embed(images(), "backbone"))
    torch.testing.assert_close(take(method, "projector.0", pool="none"), first)
    torch.testing.assert_close(take(method, "projector.0"), first.mean(dim=1))
    torch.testing.assert_close(take(method, "backbone", tokens="cls"), take(method, "backbone.encoder.ln"))


@pytest.mark.parametrize("layer", ["projector.0", "predictor.1", "projector"])
def test_a_module_of_a_head_gives_its_output(layer):
    method = small()
    head, _, number = layer.partition(".")
    with torch.no_grad():
        x = method.embed(images(), "backbone" if head == "projector" else "projector")
        for part in getattr(method, head)[: int(number) + 1 if number else None]:
            x = part(x.clone())
    torch.testing.assert_close(take(method, layer), x)


def test_another_backbone_of_the_model_can_be_used():
    method = small()
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.mul_(1.1)
        wanted = method.teacher["backbone"](images())
    torch.testing.assert_close(take(method, "teacher.backbone"), wanted)
    assert not torch.allclose(take(method, "backbone"), wanted, rtol=0.01)
    inner = maps(method.teacher["backbone"], "layer2")
    torch.testing.assert_close(take(method, "teacher.backbone.layer2"), inner.mean(dim=(2, 3)))


def test_later_modules_are_not_run_and_the_hook_is_removed():
    method, calls = small(), []
    method.backbone.layer4.register_forward_hook(lambda *_: calls.append("layer4"))
    take(method, "backbone.layer3")
    assert calls == []
    take(method, "backbone")
    assert calls == ["layer4"]


def test_the_shape_is_known_without_images():
    method, vit = small(), small(arch=VIT)
    assert Features(method, "backbone").shape(SIZE, CPU) == (64,)
    assert Features(method, "backbone.layer1", pool="none").shape(SIZE, CPU) == (64, 8)
    assert Features(vit, "backbone", tokens="patch").shape(SIZE, CPU) == (16, 256)


def test_directions_are_known_for_layers_but_not_for_modules():
    method = small(hidden=4)
    assert Features(method, "backbone").directions == 64
    assert Features(method, "projector").directions == 4
    assert Features(method, "projector.0").directions is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("backbone.layer9", " backbone.layer"),
        ("layer3", "did you mean backbone.layer3"),
        ("projektor", " projector"),
        ("backbone.layer3.7", "backbone.layer3.0"),
        ("xyz", "backbone, predictor, projector, teacher"),
        ("", "backbone, predictor, projector, teacher"),
        ("backbone.", "'backbone.'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(SSLToolError, match=f"layer '{name}'") as error:
        Features(small(), name)
    assert hint in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("arch", "layer", "settings", "line"),
    [
        (
            "resnet18_w8",
            "backbone",
            {"tokens": "cls"},
            "--tokens cls: the output of --layer backbone has no class token",
        ),
        ("resnet18_w8", "backbone.layer3", {"tokens": "registers"}, "no registers, only 4 patches (2 x 2)"),
        (VIT, "backbone", {"tokens": "registers"}, "no registers, only a class token and 16 patches (4 x 4)"),
        ("resnet18_w8", "backbone", {"tokens": "patch", "pool": "none"}, "--pool none has no effect"),
        ("resnet18_w8", "projector", {"pool": "mean"}, "--pool mean has no effect with --layer projector"),
        ("resnet18_w8", "projector.0", {"pool": "none"}, "--pool none has no effect with --layer projector.0"),
        (VIT, "projector", {"tokens": "cls"}, "--tokens cls has no effect with --layer projector"),
        (VIT, "backbone", {"pool": "none"}, "--pool none has no effect with --layer backbone"),
        (VIT, "backbone", {"tokens": "patch", "pool": "none"}, "--pool none has no effect with --layer backbone"),
        (VIT, "backbone.conv_proj", {"tokens": "cls"}, "no class token, only 16 patches (4 x 4)"),
        ("resnet18_w8", "teacher.projector.0", {}, "--layer teacher.projector.0 is not called"),
        (VIT, "backbone.encoder", {}, "--layer backbone.encoder is not called"),
    ],
)
def test_settings_without_effect_and_modules_that_are_not_called_are_refused(arch, layer, settings, line):
    features = Features(small(arch=arch), layer, **settings)
    with pytest.raises(SSLToolError) as error:
        features.shape(SIZE, CPU)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_a_layer_that_the_model_does_not_have_is_refused():
    with pytest.raises(SSLToolError, match="--layer predictor"):
        Features(build("simclr"), "predictor").shape(8, CPU)


class Turned(nn.Module):
    """Puts the batch second."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).T


def test_an_output_without_one_item_per_image_is_refused():
    method = build("simclr")
    method.projector = nn.Sequential(Turned(), nn.Identity())
    with pytest.raises(SSLToolError, match=r"--layer projector\.0 .*\(8, 2\) .*2 images"):
        Features(method, "projector.0").shape(8, CPU)
