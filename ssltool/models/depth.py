"""The layers of a backbone from its input to its output, and rates that grow with depth."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

STAGE = re.compile(r"layer(\d+)\.")
BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.")


def layer_groups(backbone: nn.Module, decay: float = 1.0) -> list[dict[str, Any]]:
    """Optimiser groups of a backbone's parameters that learn, from the input on: ``params``, and ``scale``, the share
    of the learning rate that they get.

    Layer-wise decay, Sec. 3.1 of ELECTRA (arXiv:2003.10555), with the counting of BEiT (arXiv:2106.08254): the rate of
    layer i is ``decay ** (depth - i)`` of the head's, which is layer ``depth``. A ResNet's layers are its stem (0) and
    its four stages (1 to 4), so its head is layer 5; a ViT's are its embedding (0) and its blocks (1 to L), and its
    last norm counts with the head (L + 1). ``decay`` in (0, 1]; at 1 all learn alike.
    """
    names = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    numbers = {name: _layer(name) for name in names}
    depth = 1 + max(number for number in numbers.values() if number is not None)
    groups: dict[int, list[nn.Parameter]] = {}
    for name in names:
        number = numbers[name]
        groups.setdefault(depth if number is None else number, []).append(backbone.get_parameter(name))
    return [{"params": groups[i], "scale": decay ** (depth - i)} for i in sorted(groups)]


def _layer(name: str) -> int | None:
    """The layer of a parameter by torchvision's names; None is the head's."""
    if stage := STAGE.match(name):
        return int(stage[1])
    if block := BLOCK.match(name):
        return int(block[1]) + 1
    return None if name.startswith("encoder.ln.") else 0
