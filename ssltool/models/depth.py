"""Layer-wise decay of the learning rate: parameter groups by the depth of their layer."""

from __future__ import annotations

from typing import TypedDict

from torch import nn

from ssltool.errors import SSLToolError
from ssltool.models.backbones import family_of_backbone


class LayerGroup(TypedDict):
    """An optimizer group: parameters, and the factor of their learning rate."""

    params: list[nn.Parameter]
    scale: float


def layer_groups(backbone: nn.Module, decay: float = 1.0) -> list[LayerGroup]:
    """Optimizer groups of a backbone's trainable parameters, one for each layer, from the input to the output.

    Layer-wise decay, Sec. 3.1 of ELECTRA (arXiv:2003.10555), with layers numbered as in BEiT (arXiv:2106.08254): the
    learning rate of layer i is ``decay ** (depth - i)`` times the head's, which is layer ``depth``. The layers of a
    ResNet are its stem (0) and its four stages (1 to 4), so its head is layer 5; wide ResNets of CIFAR have three
    stages. The layers of a ViT are its embedding (0) and its blocks (1 to L); its last norm counts with the head
    (L + 1). timm's networks have the layers that timm declares, torchvision's have their modules in order; the last
    norm counts with the head there too.

    Args:
        decay: in (0, 1]; with 1 all learning rates are equal.

    Raises:
        SSLToolError: if ``decay`` is not 1 and the architecture declares no layers, or a parameter has no layer.
    """
    names = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    family = family_of_backbone(backbone)
    numbers = None if family is None else family.layers(backbone)
    if numbers is None:
        if decay != 1.0:
            raise SSLToolError(f"a {type(backbone).__name__} declares no layers; use --layer-decay 1")
        return [{"params": [backbone.get_parameter(name) for name in names], "scale": 1.0}]
    depth = 1 + max((number for number in numbers.values() if number is not None), default=0)
    groups: dict[int, list[nn.Parameter]] = {}
    for name in names:
        number = numbers[name]
        groups.setdefault(depth if number is None else number, []).append(backbone.get_parameter(name))
    return [{"params": groups[i], "scale": decay ** (depth - i)} for i in sorted(groups)]
