"""What the weights of a network show of timm's constructor, and the errors of weights that show too little."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssltool.checkpoints.side_settings import SideSettings
from ssltool.errors import SSLToolError
from ssltool.models.arch_name import compose

LIBRARY = "timm"

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """The weights of one network in a file, without its prefix, and what else is known of it.

    Attributes:
        path: the file.
        weights: all weights with the network's prefix, including those of heads.
        program: the program that wrote the file.
        heads: attention heads by the width of the network, where they are not one for every 64 dimensions.
        settings: the program's settings.
        certain: whether the program is known, and with it what weights do not show.
        mean_of_patches: whether the program takes the mean over the patches of a ViT.
    """

    path: str
    weights: Weights
    program: str
    heads: Mapping[int, int] = field(default_factory=dict)
    settings: SideSettings = field(default_factory=SideSettings)
    certain: bool = False
    mean_of_patches: bool = False


@dataclass
class Derivation:
    """An architecture of timm, or of another library, that weights belong to.

    Attributes:
        model: the library's name.
        settings: arguments that differ from those of ``model``.
        weights: the weights with the library's names, possibly with heads that its model does not have.
        image_size: the side of the images in pixels; None for that of the model.
        left_out: modules that do not affect the output.
        assumed: what the weights do not show, in words.
        library: the library.
    """

    model: str
    settings: dict[str, Any]
    weights: Weights
    image_size: int | None = None
    left_out: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    library: str = LIBRARY

    @property
    def arch(self) -> str:
        """The architecture's name."""
        return compose(self.library, self.model, self.settings)

    def omit(self, *patterns: str) -> None:
        """Leaves out the weights whose whole names match one of ``patterns``, which are regular expressions."""
        for name in [name for name in self.weights if any(re.fullmatch(pattern, name) for pattern in patterns)]:
            del self.weights[name]
            if name.split(".")[0] not in self.left_out:
                self.left_out.append(name.split(".")[0])

    def rename(self, *rules: tuple[str, str]) -> None:
        """Replaces each match of the rules' regular expressions in the names."""
        for pattern, replacement in rules:
            self.weights = {re.sub(pattern, replacement, name): tensor for name, tensor in self.weights.items()}


DIMENSIONS = (
    (r"patch_embed\.proj\.weight", (4, 5)),
    (r"pos_embed", (3, 4)),
    (r"cls_token|reg_token|register_tokens|storage_tokens|.*\.attn_mask", (3,)),
    (r"blocks\.[\d.]+\.mlp\.(fc1|fc2|w12|w1|w2|w3)\.weight|.*relative_position_bias_table|fc\.weight", (2,)),
    (r"rope_embed\.periods|.*\.qkv\.(bias|bias_mask)|layer\d\.0\.bn\d\.weight", (1,)),
    (r"layer\d\.0\.conv\d\.weight|conv_\w+\.weight|stages\.\d+\..*conv_dw\.weight", (4,)),
    (r".*weight", (1, 2, 3, 4, 5)),
)
"""The numbers of dimensions of weights from whose shapes an architecture is derived."""


def check_dimensions(source: Source) -> None:
    """Checks that the weights of ``source`` have elements, and as many dimensions as their names mean.

    Raises:
        SSLToolError: naming the first that has not.
    """
    for name, tensor in source.weights.items():
        allowed = next((dims for pattern, dims in DIMENSIONS if re.fullmatch(pattern, name)), None)
        if not tensor.numel() or (allowed is not None and tensor.dim() not in allowed):
            problem = f"{name} has the shape {tuple(tensor.shape)}, which no network has"
            raise cannot_read(source, problem, "save the weights again")


def cannot_read(source: Source, problem: str, remedy: str = "give its name in timm with -a timm:NAME") -> SSLToolError:
    """The error for a network that timm cannot hold, or whose weights do not show it."""
    return SSLToolError(f"{source.path}: {problem}; {remedy}")


def count(names: Iterable[str], pattern: str) -> int:
    """The number of different values of the first group of ``pattern``, which is matched at the start of ``names``."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})
