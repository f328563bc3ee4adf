"""Wide ResNets for images of 32 pixels (arXiv:1605.07146), as PAWS and solo-learn have them.

``wide_resnet28w2`` has 28 layers, and its stages have 2 x 16, 2 x 32 and 2 x 64 channels. Convolutions have biases;
norm and activation come before them. The two programs' networks differ in what no weight shows: PAWS's is
``wide_resnet28w2``, solo-learn's is ``wide_resnet28w2_leaky``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.errors import UsageError
from ssltool.models.counterpart import PYTHON, Counterpart
from ssltool.models.family import Family

STAGES = 3
STEM_WIDTH = 16
STAGE = re.compile(r"stages\.(\d+)\.")


@dataclass(frozen=True)
class Form:
    """What the weights of a wide ResNet do not show.

    Attributes:
        suffix: the end of the architecture's name.
        slope: the slope of the activation below 0: 0 for ReLU.
        eps: batch norm's epsilon.
        early: whether the stride of a stage is in the first convolution of its first block, not in the second.
        shared: stages in whose first block the shortcut also has the first norm and activation, if the width changes.
        raw: stages whose first block has no first norm and activation, if the width changes.
    """

    suffix: str
    slope: float
    eps: float
    early: bool
    shared: tuple[int, ...] = ()
    raw: tuple[int, ...] = ()

    def __str__(self) -> str:
        activation = f"LeakyReLU of slope {self.slope}" if self.slope else "ReLU"
        place = "first" if self.early else "second"
        return f"{activation}, batch norm's epsilon {self.eps}, strides in the {place} convolution of a block"

    def norm(self, width: int) -> nn.BatchNorm2d:
        """A norm of ``width`` channels."""
        return nn.BatchNorm2d(width, eps=self.eps)

    def activation(self) -> nn.Module:
        """The activation."""
        return nn.LeakyReLU(self.slope) if self.slope else nn.ReLU()


PLAIN = Form("", 0.0, 1e-5, early=False)
LEAKY = Form("_leaky", 0.1, 1e-3, early=True, shared=(0,), raw=(1, 2))
FORMS = {form.suffix: form for form in (PLAIN, LEAKY)}


@dataclass(frozen=True)
class WideShape:
    """The depth of a wide ResNet in layers, its width in multiples of 16 channels, and its form."""

    depth: int
    widening: int
    form: Form

    @property
    def name(self) -> str:
        """The architecture's name."""
        return f"wide_resnet{self.depth}w{self.widening}{self.form.suffix}"

    @property
    def blocks(self) -> int:
        """The number of blocks of a stage."""
        return (self.depth - 4) // (2 * STAGES)

    @property
    def widths(self) -> list[int]:
        """The channels of the stem and of each stage."""
        return [STEM_WIDTH, *(STEM_WIDTH * self.widening * 2**stage for stage in range(STAGES))]


def wide_shape(arch: str) -> WideShape | None:
    """The shape of the wide ResNet named ``arch``; None if ``arch`` is none of this module.

    Raises:
        UsageError: for a depth that is not 4 more than a multiple of 6.
    """
    name = re.fullmatch(r"wide_resnet([1-9]\d{0,2})w([1-9]\d?)(_leaky|)", arch)
    if name is None:
        return None
    depth = int(name[1])
    if depth < 10 or depth % 6 != 4:
        below = max(10, depth - (depth - 4) % 6)
        raise UsageError(f"{arch}: the depth is a multiple of 6, plus 4; use {below} or {below + 6}")
    return WideShape(depth, int(name[2]), FORMS[name[3]])


class Block(nn.Module):
    """A residual block with norm and activation before each of its two convolutions. ``bn1`` is None without them."""

    def __init__(self, inputs: int, outputs: int, strides: tuple[int, int], *, raw: bool, shared: bool, form: Form):
        super().__init__()
        first, second = strides
        self.shared, self.act = shared, form.activation()
        self.bn1 = None if raw else form.norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, first, 1)
        self.bn2 = form.norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, second, 1)
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, first * second)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.bn1 is None else self.act(self.bn1(x))
        x = y if self.shared else x
        out: Tensor = self.shortcut(x) + self.conv2(self.act(self.bn2(self.conv1(y))))
        return out


class WideResNet(nn.Sequential):
    """Maps images (N, 3, S, S) to the mean of the last feature map, (N, 64 x widening)."""

    def __init__(self, shape: WideShape) -> None:
        form, width = shape.form, shape.widths[-1]
        super().__init__(
            OrderedDict(
                stem=nn.Conv2d(3, STEM_WIDTH, 3, 1, 1),
                stages=nn.Sequential(*(_stage(shape, stage) for stage in range(STAGES))),
                norm=form.norm(width),
                act=form.activation(),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def feature_map(self, images: Tensor) -> Tensor:
        """What is pooled, (N, D, S / 4, S / 4)."""
        x = images
        for part in ("stem", "stages", "norm", "act"):
            x = self.get_submodule(part)(x)
        return x


def _stage(shape: WideShape, stage: int) -> nn.Sequential:
    form, (inputs, outputs) = shape.form, shape.widths[stage : stage + 2]
    stride, changed = (2 if stage else 1), inputs != outputs
    strides = (stride, 1) if form.early else (1, stride)
    raw, shared = changed and stage in form.raw, changed and stage in form.shared
    first = Block(inputs, outputs, strides, raw=raw, shared=shared, form=form)
    others = (Block(outputs, outputs, (1, 1), raw=False, shared=False, form=form) for _ in range(shape.blocks - 1))
    return nn.Sequential(first, *others)


class WideResNets(Family):
    """Wide ResNets of any depth and width, in both forms."""

    declares_layers = True
    pools_last_layer = True

    def names(self) -> list[str]:
        plain = [f"wide_resnet{name}" for name in ("16w4", "16w8", "28w2", "28w8", "28w10", "40w2")]
        return [*plain, "wide_resnet28w2_leaky", "wide_resnet28w8_leaky"]

    def matches(self, name: str) -> bool:
        return wide_shape(name) is not None

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        shape = wide_shape(name)
        if shape is None:
            raise UsageError(f"{name} is no wide ResNet; choose among {', '.join(self.names())}")
        return WideResNet(shape), shape.widths[-1]

    def owns(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, WideResNet)

    def layer_of(self, parameter: str) -> int | None:
        """The stem is layer 0, the three stages are layers 1 to 3; the last norm counts with the head."""
        if stage := STAGE.match(parameter):
            return int(stage[1]) + 1
        if parameter.startswith("stem."):
            return 0
        return None if parameter.startswith("norm.") else super().layer_of(parameter)

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        if not isinstance(backbone, WideResNet):
            return super().last_layer(backbone, images)
        return backbone.feature_map(images)

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        shape = wide_shape(name)
        return Counterpart(name, build=_build_code(shape)) if library == PYTHON and shape is not None else None


FAMILY = WideResNets()


def _build_code(shape: WideShape) -> str:
    """Python that builds a wide ResNet with PyTorch."""
    form = shape.form
    strides = "(stride, 1)" if form.early else "(1, stride)"
    return f"""from collections import OrderedDict
from torch import nn
norm, act = lambda width: nn.BatchNorm2d(width, eps={form.eps}), nn.{form.activation()}
class Block(nn.Module):
    def __init__(self, inputs, outputs, stage):
        super().__init__()
        changed, stride = inputs != outputs, 2 if stage else 1
        first, second = {strides} if changed else (1, 1)
        self.raw, self.shared = changed and stage in {form.raw}, changed and stage in {form.shared}
        self.bn1, self.bn2 = None if self.raw else norm(inputs), norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, first, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, second, 1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, first * second) if changed else nn.Identity()
    def forward(self, x):
        y = x if self.raw else act(self.bn1(x))
        return self.shortcut(y if self.shared else x) + self.conv2(act(self.bn2(self.conv1(y))))

stages, widths = nn.Sequential(), {shape.widths}
for stage, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
    blocks = [Block(inputs if i == 0 else outputs, outputs, stage) for i in range({shape.blocks})]
    stages.append(nn.Sequential(*blocks))
parts = {{"stem": nn.Conv2d(3, widths[0], 3, 1, 1), "stages": stages, "norm": norm(widths[-1]), "act": act}}
model = nn.Sequential(OrderedDict(parts, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))"""
