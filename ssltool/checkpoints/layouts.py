"""Whose file it is: the table of the programs' layouts, by the names of what they save.

A layout says which of the networks in a file is the backbone, namely the one that its program itself evaluates: the
student or online network where a program takes that one, the teacher of DINO.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssltool.checkpoints.parameter_names import Family, networks_in
from ssltool.errors import SSLToolError
from ssltool.registry import Registry

# Under which key programs keep their weights, the one that they evaluate first: DINO its teacher, timm the moving
# average where there is one.
CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")

# What wraps a network while it is trained: DistributedDataParallel, torch.compile.
WRAPPERS = ("module.", "_orig_mod.")

# What may follow a backbone under its own prefix; it is left out, and named.
HEADS = ("fc", "head", "heads", "pre_logits", "linear", "classifier", "projection_head", "prototypes")

# Heads of attention in timm, which DINO and nearly all others follow: 64 dimensions each. MoCo v3's vit_small has 12.
TIMMS: Mapping[str, int] = {"vit_small": 6}
MOCOS: Mapping[str, int] = {}


@dataclass(frozen=True)
class Layout:
    """A file of ``program`` has its backbone under ``prefix``, ``has`` these beginnings of names or entries at its top
    level, and ``lacks`` those.

    ``method`` is our name of how it was trained, None where that is not told apart. ``stem`` is the one that a 3x3
    convolution means there, None where the program has no such. ``heads`` are those of ViTs that have not as many as
    ours of that name; None where they are not known.
    """

    program: str
    method: str | None
    prefix: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    stem: str | None = None
    heads: Mapping[str, int] | None = field(default_factory=lambda: TIMMS)

    def fits(self, names: Collection[str], entries: Collection[str]) -> bool:
        """Whether a file with these names of weights and these entries at its top level is laid out so."""

        def found(mark: str) -> bool:
            return mark in entries or any(name.startswith(mark) for name in names)

        return all(map(found, self.has)) and not any(map(found, self.lacks))


_PAPERS = "noncontrastive-ssl"
_BYOLS = ("base_encoder.fc.3.weight", "momentum_encoder.")

CHECKPOINT_LAYOUTS: Registry[Layout] = Registry(
    "checkpoint layout",
    __name__,
    {
        "noncontrastive-ssl/distill": Layout(_PAPERS, "distill", "", ("teacher_mean",)),
        "moco": Layout("moco", "moco", "encoder_q.", ("encoder_k.",)),
        "noncontrastive-ssl/byol": Layout(
            _PAPERS, "byol", "base_encoder.", _BYOLS, ("base_encoder.fc.4.running_mean",)
        ),
        "moco-v3": Layout("moco-v3", "mocov3", "base_encoder.", ("momentum_encoder.",), heads=MOCOS),
        "noncontrastive-ssl/nnsiam": Layout(_PAPERS, "nnsiam", "encoder.", ("predictor.", "queue_ptr")),
        "simsiam": Layout("simsiam", "simsiam", "encoder.", ("predictor.",), ("classifier.",), heads=MOCOS),
        "solo-learn/mocov3": Layout(
            "solo-learn",
            "mocov3",
            "backbone.",
            ("classifier.", "momentum_projector.", "predictor."),
            ("projector.0.bias",),
            "small-padded",
            {"vit_tiny": 12},
        ),
        "solo-learn": Layout("solo-learn", None, "backbone.", ("classifier.",), stem="small-padded"),
        "solo-learn/encoder": Layout(
            "solo-learn", None, "encoder.", ("classifier.",), stem="small-padded"
        ),  # as earlier versions call it
        "barlowtwins": Layout("barlowtwins", "barlow", "backbone.", ("projector.", "bn.running_mean")),
        "vicreg": Layout("vicreg", "vicreg", "backbone.", ("projector.",)),
        "dino": Layout("dino", "dino", "backbone.", ("head.last_layer.",)),
        "lightly/vit": Layout("lightly", None, "backbone.vit."),
        "lightly/projection-head": Layout("lightly", None, "backbone.", ("projection_head.",)),
        "lightly/lightning": Layout("lightly", None, "backbone.", ("pytorch-lightning_version",)),
        "lightly/teacher-vit": Layout("lightly", None, "teacher_backbone.vit."),
        "lightly/teacher": Layout("lightly", None, "teacher_backbone."),
        "swav/deepcluster": Layout("swav", "deepcluster", "", ("prototypes.prototypes0.",)),
        "swav": Layout("swav", "swav", "", ("projection_head.",)),
        "torchvision/vit": Layout("torchvision", None, "", ("conv_proj.",)),
        "timm/vit": Layout("timm", None, "", ("patch_embed.",)),
        "torchvision": Layout("torchvision", None, "", heads=None),  # and whoever saves a bare ResNet
    },
)
"""In the order in which they are tried."""


def weights_in(entries: dict[str, Any]) -> dict[str, Tensor]:
    """The weights among a file's ``entries``, wherever its program keeps them, without what wraps a network while it is
    trained; empty if there are none."""
    inner = [entries[key] for key in CONTAINERS if isinstance(entries.get(key), dict)]
    found = next((weights for weights in map(_tensors, inner) if weights), _tensors(entries))
    while wrapper := next((w for w in WRAPPERS if found and all(name.startswith(w) for name in found)), ""):
        found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return found


def _tensors(entries: dict[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}


def recognise(path: str, names: Collection[str], entries: Collection[str]) -> tuple[Layout, Family]:
    """Whose layout these names of weights and entries at the top level of ``path`` are, and how the backbone's parts
    are called. A single network under a prefix that no program in the table has is taken, as an unknown program's.

    Raises:
        SSLToolError: if there is no network among the names, or several and no telling which.
    """
    networks = networks_in(names)
    for layout in CHECKPOINT_LAYOUTS.values():
        if layout.prefix in networks and layout.fits(names, entries):
            return layout, networks[layout.prefix]
    if not networks:
        some = ", ".join(list(names)[:4]) or "none"
        raise SSLToolError(
            f"{path} holds no ResNet and no ViT that ssltool knows; its weights are {some}, ...; "
            "ssltool inspect --keys lists them"
        )
    if len(networks) > 1:
        raise SSLToolError(
            f"{path} holds several networks ({', '.join(networks)}) and none of the layouts that ssltool knows; "
            "save the one that you mean by itself"
        )
    ((prefix, family),) = networks.items()
    return Layout("unknown", None, prefix, heads=None), family
