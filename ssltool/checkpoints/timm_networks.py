"""Reads weights that ssltool's own networks cannot hold into networks of timm, and V-JEPA 2 into one of transformers.

The names of the weights show the family; names and shapes show the library's model and its arguments, which are part of
the architecture's name. The weights are then compared with that model, built on the meta device: each of its weights
must be there, and each weight of the file must be used, belong to a head, or be known to have no effect.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.checkpoints.checkpoint_layouts import HEADS
from ssltool.checkpoints.match_architecture import COUNTER, Mismatch
from ssltool.checkpoints.side_settings import SideSettings
from ssltool.checkpoints.timm_beit import OF_A_LAYER, SHARED, derive_beit
from ssltool.checkpoints.timm_convnets import derive_convnext, derive_efficientnet, derive_resnet, derive_swin
from ssltool.checkpoints.timm_derivation import Derivation, Source, Weights, check_dimensions
from ssltool.checkpoints.timm_vits import derive_dinov3, derive_vit
from ssltool.checkpoints.unknown_networks import nearest_name
from ssltool.checkpoints.vjepa_weights import derive_vjepa, is_for_video
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone, family_of

BUFFERS = ("relative_position_index", "attn_mask", "rope_embed.periods", COUNTER)
"""Ends of the names of values that timm computes."""

CONVERT = (
    "; if timm reads the file by timm.create_model(NAME, checkpoint_path=FILE), save the state_dict() of this, and "
    "read that file"
)
"""What to do about weights that are not those of the architecture that the user names."""

Derive = Callable[[Source], Derivation]


@dataclass(frozen=True)
class TimmNetwork:
    """A network of timm with weights.

    Attributes:
        arch: ``timm:NAME`` with arguments.
        image_size: the side of its images in pixels.
        weights: all its weights and buffers.
        left_out: the weights of the file that it does not have.
        assumed: what the weights do not show.
    """

    arch: str
    image_size: int
    weights: Weights
    left_out: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def derivation_of(weights: Iterable[str]) -> Derive | None:
    """The function that finds the model of a network with these names; None if the family is unknown."""
    names = set(weights)
    for anchors, derive in FAMILIES:
        if any(anchor in names for anchor in anchors):
            return derive
    return None


def _derive_vit(source: Source) -> Derivation:
    return derive_vjepa(source) if is_for_video(source.weights) else derive_vit(source)


FAMILIES: tuple[tuple[tuple[str, ...], Derive], ...] = (
    (("layers.0.blocks.0.attn.relative_position_bias_table",), derive_swin),
    (("stages.0.blocks.0.conv_dw.weight", "downsample_layers.0.0.weight"), derive_convnext),
    (("rope_embed.periods",), derive_dinov3),
    ((OF_A_LAYER, SHARED), derive_beit),
    (("patch_embed.proj.weight",), _derive_vit),
    (("layer1.0.conv1.weight",), derive_resnet),
    (("conv_stem.weight",), derive_efficientnet),
)
"""Parameters that only networks of a family have, and how to find the model; tried in this order."""


def match_timm(source: Source) -> TimmNetwork | None:
    """The network of timm that the weights belong to; None if their family is unknown.

    Raises:
        Mismatch: if the weights are not exactly those of the network that they are most like.
        SSLToolError: if they do not show which network it is.
        UsageError: if timm is not installed.
    """
    derive = derivation_of(source.weights)
    if derive is None:
        return None
    check_dimensions(source)
    return _compare(source, derive(source))


def fit_named(source: Source, arch: str) -> TimmNetwork:
    """The network ``arch``, of timm or another library, with the weights.

    Their names may be those of ``arch``, of a known family, or any that timm's own filter of this model translates.

    Raises:
        Mismatch: if the weights are not exactly those of ``arch``.
        UsageError: if timm is not installed, or does not have ``arch``.
    """
    derive = derivation_of(source.weights)
    given = Derivation(arch, {}, dict(source.weights))
    tries = [given]
    if derive is not None:
        try:
            check_dimensions(source)
            derived = derive(dataclasses.replace(source, settings=SideSettings({"num_heads": 1})))  # ``arch`` has them
        except SSLToolError:
            pass
        else:
            tries.append(Derivation(arch, {}, derived.weights, derived.image_size, derived.left_out))
    sizes = [t.image_size for t in tries if t.image_size is not None] or _size_of_map(source.weights)
    filtered = _filtered(arch, sizes[0] if sizes else None, source.weights)
    if filtered is not None:
        tries.append(Derivation(arch, {}, filtered[0], None, filtered[1]))
    errors: list[Mismatch] = []
    for attempt in tries:
        attempt.image_size = attempt.image_size or (sizes[0] if sizes else None)
        try:
            return _compare(source, attempt, arch)
        except Mismatch as error:
            errors.append(error)
    raise min(errors, key=lambda error: error.count)


def _size_of_map(weights: Weights) -> list[int]:
    """The side of the images in pixels that positions on a map (1, H, W, d) show, as SAM's are; else empty."""
    positions, kernel = (weights.get(name, torch.empty(0)) for name in ("pos_embed", "patch_embed.proj.weight"))
    return [positions.shape[1] * kernel.shape[-1]] if positions.dim() == 4 and kernel.dim() == 4 else []


def _compare(source: Source, found: Derivation, arch: str | None = None) -> TimmNetwork:
    named, arch = arch is not None, arch or found.arch
    size = found.image_size or family_of(arch).preprocessing(arch, None).size
    expected = _outline(arch, size)
    held = {name: tensor for name, tensor in found.weights.items() if name in expected}
    extra = [name for name in found.weights if name not in expected and not name.endswith(BUFFERS)]
    heads = [name for name in extra if name.split(".")[0] in HEADS]
    shapes = {name: tuple(found.weights[name].shape) for name in [*held, *extra] if name not in heads}
    wanted = {name: shape for name, shape in expected.items() if name in held or not name.endswith(COUNTER)}
    if shapes != wanted:
        raise Mismatch(source.path, shapes, wanted, arch, CONVERT if named else f"; {nearest_name(source.weights)}")
    weights = {name: held.get(name, torch.tensor(0)) for name in expected}
    left_out = [*found.left_out, *dict.fromkeys(name.split(".")[0] for name in heads)]
    return TimmNetwork(arch, size, weights, left_out, found.assumed)


@functools.lru_cache(maxsize=16)
def _outline(arch: str, image_size: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of ``arch``."""
    return {name: tuple(tensor.shape) for name, tensor in _on_meta(arch, image_size).state_dict().items()}


def _on_meta(arch: str, image_size: int) -> nn.Module:
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=image_size)
    return backbone


def _filtered(arch: str, image_size: int | None, weights: Weights) -> tuple[Weights, list[str]] | None:
    """The weights with the names that timm's own filter gives them, and the modules that it leaves out.

    A weight that it changes otherwise than by its shape keeps its name, so that it counts as unused. None if timm has
    no filter for this model, or it fails.
    """
    size = image_size or family_of(arch).preprocessing(arch, None).size
    model = _on_meta(arch, size)
    convert: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        weights = {name: value.clone() for name, value in weights.items()}  # each with storage of its own
        out = convert(dict(weights), model)
    except Exception:  # a filter may raise anything for weights that it does not know
        return None
    if not isinstance(out, dict) or not all(isinstance(value, Tensor) for value in out.values()):
        return None
    kept: dict[int, int] = {}  # how many elements of each storage
    for value in {(value.data_ptr(), value.numel()): value for value in out.values()}.values():
        storage = value.untyped_storage().data_ptr()
        kept[storage] = kept.get(storage, 0) + value.numel()
    unused = {
        name: value for name, value in weights.items() if kept.get(value.untyped_storage().data_ptr()) != value.numel()
    }
    training = [name for name in unused if name.split(".")[0] in ("mask_token", "projectors", "local_cls_norm")]
    return out | {name: value for name, value in unused.items() if name not in training}, training


def longest_name(arch: str) -> str:
    """The longest parameter name of ``arch``, by which it is found in a file.

    Raises:
        UsageError: if ``arch`` is unknown.
    """
    return max(_outline(arch, family_of(arch).preprocessing(arch, None).size), key=len)
