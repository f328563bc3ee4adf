"""The registry of checkpoint layouts: how other programs name what they save.

A layout gives the prefix of the backbone. If a file holds several networks, this is the one that the program itself
evaluates, such as the online network in MoCo v3 and the teacher in DINO.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssltool.checkpoints.parameter_names import NamingScheme, find_naming_schemes
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.registry import Registry

CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
"""Top-level keys of the weights. Those that a program evaluates come first: DINO's teacher, timm's moving average."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes added by DistributedDataParallel and torch.compile."""

HEADS = ("fc", "_fc", "head", "heads", "pre_logits", "linear", "classifier", "projection_head", "prototypes")
"""Modules that are not part of the backbone although they may have its prefix; they are ignored and listed."""

TIMM_HEADS: Mapping[str, int] = {"vit_small": 6}
"""Attention heads in timm, DINO and most other programs where they differ from ssltool's (MoCo v3's): one for every 64
dimensions. MoCo v3's vit_small has 12."""

MOCO_HEADS: Mapping[str, int] = {}


@dataclass(frozen=True)
class CheckpointLayout:
    """The layout of the checkpoints of a program.

    Args:
        program: the name of the program.
        method: ssltool's name of the method that trained the network; None if the file does not show it.
        prefix: the prefix of the backbone's parameters.
        requires: prefixes of parameter names, or top-level keys, that a file of this layout contains.
        excludes: prefixes of parameter names, or top-level keys, that a file of this layout does not contain.
        stem: the stem of ResNets whose first convolution is 3x3; None if the program has none.
        heads: attention heads of ViTs that have another number than ssltool's ViT of the same size, by ssltool's
            name; None if they are unknown.
    """

    program: str
    method: str | None
    prefix: str
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    stem: str | None = None
    heads: Mapping[str, int] | None = field(default_factory=lambda: TIMM_HEADS)

    def matches(self, names: Collection[str], entries: Collection[str]) -> bool:
        """Whether a file with these parameter ``names`` and top-level ``entries`` has this layout."""

        def present(marker: str) -> bool:
            return marker in entries or any(name.startswith(marker) for name in names)

        return all(map(present, self.requires)) and not any(map(present, self.excludes))


_PAPER = "noncontrastive-ssl"
"""The code of the collapse paper."""

CHECKPOINT_LAYOUTS: Registry[CheckpointLayout] = Registry(
    "checkpoint layout",
    __name__,
    {
        "noncontrastive-ssl/distill": CheckpointLayout(_PAPER, "distill", "", ("teacher_mean",)),
        "moco": CheckpointLayout("moco", "moco", "encoder_q.", ("encoder_k.",)),
        "noncontrastive-ssl/byol": CheckpointLayout(
            _PAPER,
            "byol",
            "base_encoder.",
            ("base_encoder.fc.3.weight", "momentum_encoder."),
            ("base_encoder.fc.4.running_mean",),
        ),
        "moco-v3": CheckpointLayout("moco-v3", "mocov3", "base_encoder.", ("momentum_encoder.",), heads=MOCO_HEADS),
        "noncontrastive-ssl/nnsiam": CheckpointLayout(_PAPER, "nnsiam", "encoder.", ("predictor.", "queue_ptr")),
        "simsiam": CheckpointLayout(
            "simsiam", "simsiam", "encoder.", ("predictor.",), ("classifier.",), heads=MOCO_HEADS
        ),
        "solo-learn/mocov3": CheckpointLayout(
            "solo-learn",
            "mocov3",
            "backbone.",
            ("classifier.", "momentum_projector.", "predictor."),
            ("projector.0.bias",),
            "small-padded",
            {"vit_tiny": 12},
        ),
        "solo-learn": CheckpointLayout("solo-learn", None, "backbone.", ("classifier.",), stem="small-padded"),
        "solo-learn/encoder": CheckpointLayout(
            "solo-learn", None, "encoder.", ("classifier.",), stem="small-padded"
        ),  # earlier versions
        "barlowtwins": CheckpointLayout("barlowtwins", "barlow", "backbone.", ("projector.", "bn.running_mean")),
        "vicreg": CheckpointLayout("vicreg", "vicreg", "backbone.", ("projector.",)),
        "dino": CheckpointLayout("dino", "dino", "backbone.", ("head.last_layer.",)),
        "lightly/vit": CheckpointLayout("lightly", None, "backbone.vit."),
        "lightly/projection-head": CheckpointLayout("lightly", None, "backbone.", ("projection_head.",)),
        "lightly/lightning": CheckpointLayout("lightly", None, "backbone.", ("pytorch-lightning_version",)),
        "lightly/teacher-vit": CheckpointLayout("lightly", None, "teacher_backbone.vit."),
        "lightly/teacher": CheckpointLayout("lightly", None, "teacher_backbone."),
        "swav/deepcluster": CheckpointLayout("swav", "deepcluster", "", ("prototypes.prototypes0.",)),
        "swav": CheckpointLayout("swav", "swav", "", ("projection_head.",)),
        "torchvision/vit": CheckpointLayout("torchvision", None, "", ("conv_proj.",)),
        "timm/vit": CheckpointLayout("timm", None, "", ("patch_embed.",)),
        "efficientnet-pytorch": CheckpointLayout("EfficientNet-PyTorch", None, "", ("_conv_stem.",)),
        "torchvision": CheckpointLayout("torchvision", None, "", heads=None),  # and any bare ResNet
    },
)
"""Tried in this order; the first that matches is used."""


def extract_weights(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights among the top-level ``entries`` of a file, or in one of its ``CONTAINERS``, without the prefixes of
    ``WRAPPERS``; empty if there are none."""
    inner = [entries[key] for key in CONTAINERS if isinstance(entries.get(key), dict)]
    weights = next((tensors for tensors in map(_tensors, inner) if tensors), _tensors(entries))
    while wrapper := next((w for w in WRAPPERS if weights and all(name.startswith(w) for name in weights)), ""):
        weights = {name.removeprefix(wrapper): tensor for name, tensor in weights.items()}
    return weights


def _tensors(entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}


def detect_layout(path: str, names: Collection[str], entries: Collection[str]) -> tuple[CheckpointLayout, NamingScheme]:
    """Detects the layout of the file ``path`` from its parameter ``names`` and top-level ``entries``.

    If no registered layout matches and the file holds a single network, under any prefix, the program is "unknown".

    Returns:
        The layout, and the naming scheme of the backbone's parameters.

    Raises:
        SSLToolError: if the file holds no network, or several and no registered layout matches.
    """
    networks = find_naming_schemes(names)
    for layout in CHECKPOINT_LAYOUTS.values():
        if layout.prefix in networks and layout.matches(names, entries):
            return layout, networks[layout.prefix]
    if not networks:
        raise SSLToolError(
            f"{path} contains no ResNet or ViT that ssltool supports; its parameters are {name_keys(names, most=4)}; "
            "list all with ssltool inspect --keys"
        )
    if len(networks) > 1:
        raise SSLToolError(
            f"{path} contains several networks ({name_keys(networks)}) and matches no layout that ssltool supports; "
            "save the state_dict of one network"
        )
    ((prefix, scheme),) = networks.items()
    return CheckpointLayout("unknown", None, prefix, heads=None), scheme
