"""The layers of a backbone from its input to its output, and learning rates that grow with depth."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssltool.errors import SSLToolError
from ssltool.models.backbones import family_of_backbone


def layer_groups(backbone: nn.Module, decay: float = 1.0) -> list[dict[str, Any]]:
    """Optimizer groups of a backbone's trainable parameters, from the input on: ``params``, and ``scale``, their share
    of the learning rate.

    Layer-wise decay, Sec. 3.1 of ELECTRA (arXiv:2003.10555), with the counting of BEiT (arXiv:2106.08254): the rate of
    layer i is ``decay ** (depth - i)`` of the head's, which is layer ``depth``. A ResNet's layers are its stem (0) and
    its four stages (1 to 4), so its head is layer 5; a ViT's are its embedding (0) and its blocks (1 to L), and its
    last norm counts with the head (L + 1). ``decay`` in (0, 1]; at 1 all rates are equal.

    Raises:
        SSLToolError: for another decay than 1 and an architecture that declares no layers, or a parameter of no layer.
    """
    names = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    family = family_of_backbone(backbone)
    if family is None or not family.declares_layers:
        if decay != 1.0:
            raise SSLToolError(f"a {type(backbone).__name__} declares no layers; use --layer-decay 1")
        return [{"params": [backbone.get_parameter(name) for name in names], "scale": 1.0}]
    numbers = {name: family.layer_of(name) for name in names}
    depth = 1 + max((number for number in numbers.values() if number is not None), default=0)
    groups: dict[int, list[nn.Parameter]] = {}
    for name in names:
        number = numbers[name]
        groups.setdefault(depth if number is None else number, []).append(backbone.get_parameter(name))
    return [{"params": groups[i], "scale": decay ** (depth - i)} for i in sorted(groups)]
