"""torchvision's classification networks, ``torchvision:MODEL``, optionally with arguments of its builders.

Their output is what the last linear layer reads. ResNets and ViTs are those of ``resnet.py`` and ``vit.py``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ConvNeXt, DenseNet, MaxVit, MNASNet, MobileNetV2, MobileNetV3, ShuffleNetV2, SqueezeNet
from torchvision.models.vision_transformer import VisionTransformer

from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import UsageError, unknown
from ssltool.models.arch_name import ArchName
from ssltool.models.counterpart import PYTHON, Counterpart, call
from ssltool.models.library import LibraryModels
from ssltool.models.resnet import FAMILY as RESNETS
from ssltool.models.resnet import torchvision_resnets
from ssltool.models.vit import ViT, ViTShape, counterpart_of

LIBRARY = "torchvision"

HEADS = ("fc", "classifier", "head", "heads")
"""Names of the modules after the pooling."""

SEQUENCES = ("features", "layers", "blocks", "trunk_output")
"""Names of modules whose children are layers."""

READ_BY: dict[type[nn.Module], str] = {SqueezeNet: "classifier", MaxVit: "classifier"}
"""The module that reads the last feature map, where that is not ``avgpool``."""

MADE_BY: dict[type[nn.Module], str] = {
    DenseNet: "features",  # its ReLU works in place
    MNASNet: "layers",
    MobileNetV2: "features",
    ShuffleNetV2: "conv5",
}
"""The module that makes the last feature map, in networks that pool without a module."""

TAKEN: dict[type[nn.Module], tuple[str, ...]] = {ConvNeXt: (), MobileNetV3: ("width_mult", "reduced_tail", "dilated")}
"""Networks that ignore unknown arguments, and those that their builders take."""

WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}
DEFAULTS: dict[str, dict[str, Any]] = {"googlenet": WITHOUT_AUXILIARY, "inception_v3": WITHOUT_AUXILIARY}
"""Arguments that leave out auxiliary classifiers."""


@functools.cache
def classifiers() -> list[str]:
    """The names of torchvision's networks for classification."""
    return sorted(torchvision.models.list_models(module=torchvision.models))


class TorchvisionModels(LibraryModels):
    """All classification networks of torchvision, without their last linear layer and the dropout before it."""

    library = LIBRARY
    listing = "python -c \"from torchvision import models; print(*models.list_models(module=models), sep='\\n')\""
    refused: ClassVar[dict[str, str]] = {
        "image_size": "give --image-size",
        "weights": "give the weights with --pretrained",
        **dict.fromkeys(("num_classes", "aux_logits"), "a backbone has no classifier"),
        **dict.fromkeys(("progress", "init_weights"), "it does not change the network"),
    }

    def models(self) -> list[str]:
        return classifiers()

    def check_name(self, arch: ArchName) -> None:
        if arch.model in classifiers():
            return
        if arch.model in torchvision.models.list_models():
            raise UsageError(f"{LIBRARY}:{arch.model} is not for classification; choose another of its networks")
        raise unknown("torchvision architecture", arch.model, classifiers())

    def meant_by(self, name: str) -> list[str]:
        model = name.removeprefix(f"{LIBRARY}/")
        return [f"{LIBRARY}:{model}"] if model.partition(",")[0] in classifiers() else []

    def create(self, arch: ArchName, image_size: int) -> nn.Module:
        settings = DEFAULTS.get(arch.model, {}) | arch.settings
        if arch.model.startswith("vit_"):
            return _vit(arch.model, image_size, settings)
        if arch.model in torchvision_resnets():
            settings = {"zero_init_residual": True} | settings  # as ssltool's own
        if arch.model.startswith("maxvit_"):
            settings |= {"input_size": (image_size, image_size)}
        return _without_classifier(_network(arch.model, settings))

    def features(self, backbone: nn.Module, images: Tensor) -> Any:
        if isinstance(backbone, ViT):
            return backbone.tokens(images)
        seen: list[Tensor] = []
        if module := MADE_BY.get(type(backbone)):
            hook = backbone.get_submodule(module).register_forward_hook(lambda _, __, out: seen.append(out))
        else:
            reader = backbone.get_submodule(READ_BY.get(type(backbone), "avgpool"))
            hook = reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            backbone(images)
        finally:
            hook.remove()
        return seen[0]

    def layers(self, backbone: nn.Module) -> dict[str, int | None] | None:
        """The layers are the network's modules in their order; what follows the pooling counts with the head."""
        units = {name: _unit(name) for name, _ in backbone.named_parameters()}
        order = list(dict.fromkeys(unit for unit in units.values() if unit is not None))
        return {name: None if unit is None else order.index(unit) for name, unit in units.items()}

    def preprocessing(self, name: str, image_size: int | None) -> Preprocessing:
        transform = torchvision.models.get_model_weights(self.parsed(name).model).DEFAULT.transforms()
        own = Preprocessing(
            size=transform.crop_size[0],
            resize=transform.resize_size[0],
            interpolation=transform.interpolation.value,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )
        return own if image_size is None else own.at(image_size)

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        arch = self.parsed(name)
        with torch.device("meta"):
            backbone = self.create(arch, image_size)
        if library in (PYTHON, LIBRARY):
            return _own_counterpart(arch, backbone, image_size)
        if arch.model in torchvision_resnets() and not arch.settings:
            return RESNETS.counterpart(library, arch.model, stem="imagenet", image_size=image_size)
        if isinstance(backbone, ViT) and backbone.mlp_dim == 4 * backbone.hidden_dim and not arch.settings:
            heads, layers = backbone.encoder.layers[0].num_heads, len(backbone.encoder.layers)  # type: ignore[union-attr]
            shape = ViTShape(backbone.hidden_dim, layers, int(heads), backbone.patch_size)  # type: ignore[arg-type]
            return counterpart_of(library, shape, image_size)
        return None


FAMILY = TorchvisionModels()


def _network(model: str, settings: dict[str, Any]) -> nn.Module:
    """torchvision's network, on torch's default device. RegNets compute their widths with tensors, which the meta
    device does not allow."""
    with torch.device("cpu") if model.startswith("regnet_") else contextlib.nullcontext():
        network: nn.Module = torchvision.models.get_model(model, weights=None, **settings)
    if type(network) in TAKEN:
        taken = {*inspect.signature(type(network).__init__).parameters, *TAKEN[type(network)]}
        for name in settings:
            if name not in taken:
                raise TypeError(f"unexpected keyword argument '{name}'")
    return network.to(torch.get_default_device())


def _vit(model: str, image_size: int, settings: dict[str, Any]) -> ViT:
    """torchvision's ViT ``model`` as a ``ViT``, which also returns patch tokens."""
    with torch.device("meta"):
        shape: VisionTransformer = torchvision.models.get_model(model, weights=None, image_size=image_size, **settings)
    block: Any = shape.encoder.layers[0]
    sizes = (image_size, shape.patch_size, len(shape.encoder.layers), block.num_heads, shape.hidden_dim, shape.mlp_dim)
    vit = ViT(*sizes, **settings)
    vit.heads = nn.Identity()  # type: ignore[assignment]
    return vit


def _without_classifier(network: nn.Module) -> nn.Module:
    """``network`` without its last linear layer and the dropout before it, which is what remains of the head."""
    name = next(name for name in HEADS if hasattr(network, name))
    head = getattr(network, name)
    if isinstance(network, SqueezeNet):  # its classifier is a convolution before the pooling
        network.classifier = nn.Sequential(head[-1])
    elif isinstance(head, nn.Sequential):
        del head[-1]
        while len(head) and isinstance(head[-1], nn.Dropout):
            del head[-1]
    else:
        setattr(network, name, nn.Identity())
    return network


def _own_counterpart(arch: ArchName, backbone: nn.Module, image_size: int) -> Counterpart:
    """torchvision's network as it builds it; ``backbone`` shows what remains of its classifier."""
    own: dict[str, Any] = {"image_size": image_size} if arch.model.startswith("vit_") else {}
    own |= {"input_size": (image_size, image_size)} if arch.model.startswith("maxvit_") else {}
    arguments = DEFAULTS.get(arch.model, {}) | arch.settings | own
    name = next(name for name in HEADS if hasattr(backbone, name))
    head, rest = getattr(backbone, name), "torch.nn.Identity()"
    if isinstance(backbone, SqueezeNet):
        rest = f"torch.nn.Sequential(model.{name}[-1])"
    elif isinstance(head, nn.Sequential) and len(head):
        rest = f"model.{name}[:{len(head)}]"
    build = f"model = {call(f'torchvision.models.{arch.model}', **arguments)}\nmodel.{name} = {rest}"
    return Counterpart(arch.model, arguments, f"import torch, torchvision\n{build}")


def _unit(parameter: str) -> str | None:
    """The module of a layer, to which ``parameter`` belongs; None if it follows the last sequence of layers."""
    first, *more = parameter.split(".")
    if first in (*HEADS, "norm"):
        return None
    return f"{first}.{more[0]}" if first in SEQUENCES else first
