"""From the weights of one network in a file to a network that ssltool can build: one of its own, or one of timm."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ssltool.checkpoints.checkpoint_layouts import HEADS, TIMM, CheckpointLayout
from ssltool.checkpoints.efficientnet_names import ANCHOR, match_efficientnet
from ssltool.checkpoints.match_architecture import (
    BackboneSpec,
    Mismatch,
    NotOurs,
    add_batch_counters,
    match_backbone,
)
from ssltool.checkpoints.parameter_names import NamingScheme
from ssltool.checkpoints.timm_convnets import double_width
from ssltool.checkpoints.timm_derivation import LIBRARY, Source
from ssltool.checkpoints.timm_networks import TimmNetwork, fit_named, match_timm
from ssltool.checkpoints.timm_vits import PATCHES, TRAINING_ONLY
from ssltool.checkpoints.vjepa_weights import is_for_video
from ssltool.errors import SSLToolError
from ssltool.models.arch_name import compose, parse
from ssltool.models.backbones import is_known
from ssltool.models.transformers_config import LIBRARY as TRANSFORMERS
from ssltool.models.wide_resnet import wide_shape

SAME_AS_OURS = re.compile(r"resnet(18|34|50|101|152)|vit_(tiny|small|base|large)_patch\d+_\d+")
"""timm's names of networks that ssltool has too, with the same outputs."""


@dataclass(frozen=True)
class Network:
    """A network and its weights.

    Attributes:
        spec: how it is built.
        weights: its state dict.
        left_out: names of modules in the file that it does not have.
        assumed: what neither the weights nor settings show, in words.
    """

    spec: BackboneSpec
    weights: Mapping[str, Tensor]
    left_out: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def find_network(
    source: Source, layout: CheckpointLayout, scheme: NamingScheme, *, arch: str | None, stem: str | None
) -> Network:
    """The network with the weights of ``source``: one of ssltool's own if it is exactly the same, else one of timm.

    ``arch`` and ``stem`` are the user's.

    Raises:
        SSLToolError: if the weights are not exactly those of a network, or contradict ``arch`` or ``stem``.
        UsageError: if ``arch`` is unknown.
    """
    if ANCHOR in source.weights:
        return _efficientnet(source, arch, stem)
    if arch is not None and parse(arch) is not None:
        return _of_library(fit_named(source, arch), stem)
    named = None if layout.names_program or arch is not None else _saved_name(source)
    if named is not None:
        return _of_library(fit_named(source, named), stem)
    try:
        if arch is None and _shown_to_differ(source):
            raise NotOurs(f"the network in {source.path} computes something else than ssltool's")
        if not scheme.ours:
            raise NotOurs(f"the network in {source.path} is none of ssltool's own")
        return _own(source, layout, scheme, arch, stem)
    except NotOurs as error:
        if scheme.wide:  # timm has none
            raise
        other = _other_library(source, error)
    if arch is not None:
        raise SSLToolError(f"--arch is {arch}, but {source.path} contains {other.arch}; leave it out")
    return _of_library(other, stem)


def _other_library(source: Source, error: NotOurs) -> TimmNetwork:
    """The network of timm, or ``error`` where that is nearer to what the file contains."""
    library = TRANSFORMERS if is_for_video(source.weights) else LIBRARY
    if importlib.util.find_spec(library) is None:
        raise SSLToolError(f"{error}; for networks of {library}: pip install 'ssltool[{library}]'") from error
    try:
        found = match_timm(source)
    except SSLToolError as other:
        nearer = isinstance(other, Mismatch) and isinstance(error, Mismatch) and error.count <= other.count
        if nearer or (isinstance(error, Mismatch) and error.incomplete):
            raise error from None
        raise
    if found is None:
        raise error
    return found


def _efficientnet(source: Source, arch: str | None, stem: str | None) -> Network:
    heads = list(dict.fromkeys(name.split(".")[0] for name in source.weights if name.split(".")[0] in HEADS))
    backbone = {name: held for name, held in source.weights.items() if name.split(".")[0] not in heads}
    found, size, weights = match_efficientnet(source.path, backbone, arch, stem)
    return Network(BackboneSpec(found, "auto", size), weights, heads)


def _of_library(found: TimmNetwork, stem: str | None) -> Network:
    if stem not in (None, "auto"):
        raise SSLToolError(f"--stem {stem} has no effect with {found.arch}, which has no stem; leave it out")
    spec = BackboneSpec(found.arch, "auto", found.image_size)
    return Network(spec, found.weights, found.left_out, found.assumed)


def _own(source: Source, layout: CheckpointLayout, scheme: NamingScheme, arch: str | None, stem: str | None) -> Network:
    weights: dict[str, Tensor] = {}
    heads: dict[str, None] = {}  # an ordered set
    for name, held in source.weights.items():
        module = name.split(".")[0]
        if module in HEADS:
            heads[module] = None
        elif any(re.fullmatch(pattern, name) for pattern in scheme.unused):
            heads[name.rpartition(".")[0]] = None
        else:
            weights[scheme.rename(name)] = held
    unused = [name for name in weights if any(re.fullmatch(pattern, name) for pattern in TRAINING_ONLY)]
    left_out = dict.fromkeys(name.split(".")[0] for name in unused) | heads
    for name in unused:
        del weights[name]
    if scheme.wide:
        _check_first_stride(source)
    spec = match_backbone(source.path, weights, layout, arch=arch, stem=stem, wide=scheme.wide)
    if spec.stem == "imagenet" and not scheme.pooled:
        raise SSLToolError(
            f"{source.path}: the numbers of its modules show a 7x7 stem without pooling, which ssltool does not have; "
            "save its representations to a .npz file instead"
        )
    assumed = [] if layout.names_program or arch is not None else _assumptions(source, weights, spec.arch)
    if spec.stem in ("small", layout.stem) and stem in (None, "auto") and (layout.stem_assumes or layout.stem is None):
        assumed += layout.stem_assumes or ["a stem of stride 1 and no pooling (else --stem small-stride2)"]
    return Network(spec, add_batch_counters(weights, spec), list(left_out), assumed)


def _check_first_stride(source: Source) -> None:
    stride = source.settings.find(int, "first_stride")
    if stride not in (None, 1):
        raise SSLToolError(
            f"{source.path}: its settings say first_stride {stride}, and ssltool's wide ResNets have 1; save its "
            "representations to a .npz file instead"
        )


def _assumptions(source: Source, weights: Mapping[str, Tensor], arch: str) -> list[str]:
    """What the weights of ssltool's own network ``arch`` do not show and the program's settings do not say."""
    wide = wide_shape(arch)
    if wide is not None:
        return [str(wide.form)]
    settings = source.settings
    if "conv1.weight" not in weights:
        return [] if settings.act_layer is not None else ["GELU", "the class token is the output"]
    words = ["max pooling in the stem"] * (weights["conv1.weight"].shape[-1] == 7)
    words += ["ReLU", "no anti-aliasing"] * (settings.act_layer is None) + ["average pooling"] * (
        settings.global_pool is None
    )
    words += ["output stride 32"] * (settings.output_stride is None)
    return words


def _shown_to_differ(source: Source) -> bool:
    """Whether settings, or the classifier, show that the network computes something else than ssltool's own."""
    settings, resnet = source.settings, "layer1.0.conv1.weight" in source.weights
    if source.mean_of_patches and PATCHES in source.weights:
        return True
    activation, pools = ("relu", ("avg",)) if resnet else ("gelu", ("token", False))
    return (
        settings.act_layer not in (None, activation)
        or settings.global_pool not in (None, *pools)
        or (resnet and settings.output_stride not in (None, 32))
        or (resnet and double_width(source))
    )


def _saved_name(source: Source) -> str | None:
    """The name of timm's model that is among the settings of timm's training script, with its arguments, unless it is
    one that ssltool has too; None if there is none."""
    settings = source.settings
    if settings.arch is None or is_known(settings.arch) or importlib.util.find_spec(LIBRARY) is None:
        return None
    import timm

    prefix = "model_kwargs."
    arguments = {key.removeprefix(prefix): v for key, v in settings.values.items() if key.startswith(prefix)}
    if isinstance(settings.global_pool, str):
        arguments["global_pool"] = settings.global_pool
    if not timm.is_model(settings.arch) or (SAME_AS_OURS.fullmatch(settings.arch) and not arguments):
        return None
    return compose(TIMM, settings.arch, arguments)
