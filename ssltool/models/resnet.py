"""ResNets: torchvision's, the collapse paper's variants, and those of another base width (``resnet18_w16``)."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from ssltool.errors import SSLToolError
from ssltool.models.counterpart import PYTHON, Counterpart, call
from ssltool.models.family import Family
from ssltool.models.small_map_conv import use_small_map_convolutions

# The collapse paper's variants: (block, layers, width per group).
VARIANTS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int]] = {
    "resnet18_bottleneck_w64": (Bottleneck, [2, 2, 2, 2], 64),
    "resnet18_bottleneck_w96": (Bottleneck, [2, 2, 2, 2], 96),
    "resnet18_bottleneck_w128": (Bottleneck, [2, 2, 2, 2], 128),
    "resnet50_nobottleneck": (BasicBlock, [5, 6, 9, 4], 64),
}

# ResNets whose name may contain a base width: (block, layers).
NARROW: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet200": (Bottleneck, [3, 24, 36, 3]),
}

# First convolution of each stem (kernel, stride, padding); only the first is followed by max-pooling. solo-learn pads
# its 3x3 convolution by 2 pixels.
STEM_CONVS = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "small-stride2": (3, 2, 1), "small-padded": (3, 1, 2)}


STAGE = re.compile(r"layer(\d+)\.")


@functools.cache
def torchvision_resnets() -> list[str]:
    """Names of torchvision's ResNets, including wide ResNets and ResNeXts."""
    return sorted(name for name in torchvision.models.list_models(module=torchvision.models) if "resne" in name)


class ResNets(Family):
    """All ResNets; their stem is one of ``STEM_CONVS``."""

    settings = frozenset({"stem", "zero_init_residual"})
    declares_layers = True
    pools_last_layer = True

    def names(self) -> list[str]:
        narrow = [f"{base}_w{width}" for base in NARROW for width in (16, 32)]
        return [*torchvision_resnets(), *VARIANTS, *narrow]

    def matches(self, name: str) -> bool:
        return name in torchvision_resnets() or name in VARIANTS or _narrow(name) is not None

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        model = _resnet(name, zero_init_residual)
        dim = model.fc.in_features
        model.fc = nn.Identity()  # type: ignore[assignment]
        if stem != "imagenet":
            model.conv1 = _first_conv(model.bn1.num_features, *STEM_CONVS[stem])
            model.maxpool = nn.Identity()  # type: ignore[assignment]
        use_small_map_convolutions(model)
        return model, dim

    def owns(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, ResNet)

    def layer_of(self, parameter: str) -> int | None:
        """The stem is layer 0, the four stages are layers 1 to 4."""
        if stage := STAGE.match(parameter):
            return int(stage[1])
        if parameter.startswith(("conv1.", "bn1.")):
            return 0
        raise SSLToolError(f"the layer of {parameter} is unknown: a ResNet has no such parameter")

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        if not isinstance(backbone, ResNet):
            return super().last_layer(backbone, images)
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
        for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            x = stage(x)
        return x

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        if library == PYTHON:
            return Counterpart(name, build=_build_code(name, stem))
        if stem != "imagenet":
            return None
        if library == "transformers":
            return _in_transformers(name)
        if name not in torchvision_resnets():
            return None
        if library == "timm":
            return Counterpart(name, build=f"import timm\nmodel = {call('timm.create_model', name, num_classes=0)}")
        return Counterpart(name, build=_build_code(name, stem)) if library == "torchvision" else None


FAMILY = ResNets()


def _narrow(arch: str) -> re.Match[str] | None:
    name = re.fullmatch(r"(resnet\d+)_w(\d+)", arch)
    return name if name and name[1] in NARROW and int(name[2]) > 0 and int(name[2]) % 2 == 0 else None


def _first_conv(width: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    conv = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _resnet(arch: str, zero_init_residual: bool) -> ResNet:
    if arch in VARIANTS:
        block, layers, width = VARIANTS[arch]
        return ResNet(block, layers, width_per_group=width, zero_init_residual=zero_init_residual)
    narrow = _narrow(arch)
    if narrow:
        return _NarrowResNet(*NARROW[narrow[1]], width=int(narrow[2]), zero_init_residual=zero_init_residual)
    return torchvision.models.get_model(arch, weights=None, zero_init_residual=zero_init_residual)


class _NarrowResNet(ResNet):
    """A ResNet whose first stage has ``width`` channels instead of 64; the other stages are scaled likewise."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: list[int], *, width: int, zero_init_residual: bool
    ) -> None:
        self._width = width
        super().__init__(block, layers, zero_init_residual=zero_init_residual)
        self.conv1 = _first_conv(width, *STEM_CONVS["imagenet"])
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(8 * width * block.expansion, 1)  # the caller removes it

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == 64:
            self.inplanes = self._width
        inputs = self.inplanes
        stage = super()._make_layer(block, planes * self._width // 64, blocks, stride, dilate)
        if stride > 1 and inputs < 16:
            shape, device = (inputs, self.inplanes, 1, stride), stage[0].downsample[0].weight.device
            stage[0].downsample[0] = nn.utils.skip_init(_SubsampledConv, *shape, bias=False, device=device)
        return stage


class _SubsampledConv(nn.Conv2d):
    """A 1x1 convolution with a stride, computed on every ``stride``-th position.

    oneDNN writes beyond its memory in the backward pass of a 1x1 convolution with a stride, fewer than 16 input
    channels and the channels-last format (torch 2.14: the process is aborted).
    """

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = self.stride
        return nn.functional.conv2d(images[:, :, ::rows, ::columns], self.weight)


def _build_code(arch: str, stem: str) -> str:
    """Python that builds a ResNet with torchvision."""
    lines, width, narrow = ["import torch, torchvision"], 64, _narrow(arch)
    if narrow:
        block, layers = NARROW[narrow[1]]
        width = int(narrow[2])
        lines += [
            "class ScaledResNet(torchvision.models.ResNet):",
            "    def _make_layer(self, block, planes, *more, **settings):",
            f"        self.inplanes = {width} if planes == 64 else self.inplanes",
            f"        return super()._make_layer(block, planes * {width} // 64, *more, **settings)",
            "",
            f"model = ScaledResNet(torchvision.models.resnet.{block.__name__}, {layers})",
            f"model.bn1 = torch.nn.BatchNorm2d({width})",
        ]
    elif arch in VARIANTS:
        block, layers, group = VARIANTS[arch]
        lines.append(
            f"model = torchvision.models.ResNet(torchvision.models.resnet.{block.__name__}, {layers}, "
            f"width_per_group={group})"
        )
    else:
        lines.append(f"model = torchvision.models.{arch}()")
    if narrow or stem != "imagenet":
        kernel, stride, padding = STEM_CONVS[stem]
        lines.append(f"model.conv1 = torch.nn.Conv2d(3, {width}, {kernel}, {stride}, {padding}, bias=False)")
    removed = "model.fc" if stem == "imagenet" else "model.maxpool = model.fc"
    return "\n".join([*lines, f"{removed} = torch.nn.Identity()"])


def _in_transformers(arch: str) -> Counterpart | None:
    """The ``ResNetModel`` of transformers; None if its blocks are others."""
    with torch.device("meta"):
        model = _resnet(arch, zero_init_residual=False)
    stages: list[Any] = [model.layer1, model.layer2, model.layer3, model.layer4]
    first = stages[0][0]
    basic = isinstance(first, BasicBlock)
    if not basic and (first.conv2.groups > 1 or 4 * first.conv2.out_channels != first.conv3.out_channels):
        return None
    arguments = {
        "depths": [len(stage) for stage in stages],
        "embedding_size": model.bn1.num_features,
        "hidden_sizes": [(stage[0].conv2 if basic else stage[0].conv3).out_channels for stage in stages],
        "layer_type": "basic" if basic else "bottleneck",
    }
    return Counterpart("resnet", arguments, translate=lambda weights: {_theirs(n): w for n, w in weights.items()})


def _theirs(name: str) -> str:
    """The name in transformers of the parameter ``name`` of a ResNet."""
    for pattern, replacement in (
        (r"^(conv1|bn1)\.", r"embedder.embedder.\1."),
        (r"^layer(\d)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
        (r"downsample\.0\.", "shortcut.convolution."),
        (r"downsample\.1\.", "shortcut.normalization."),
        (r"(?<=embedder\.)conv1\.", "convolution."),
        (r"(?<=embedder\.)bn1\.", "normalization."),
        (r"conv(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.convolution."),
        (r"bn(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.normalization."),
    ):
        name = re.sub(pattern, replacement, name)  # type: ignore[arg-type]
    return name
