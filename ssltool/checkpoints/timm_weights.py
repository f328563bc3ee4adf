"""The backbone among the weights of a model of timm, from a folder of ``timm.models.save_for_hf`` or published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.named_backbone import NamedBackbone, left_out_modules
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, unknown
from ssltool.files.schema import boolean, conform, either, integer, listing, mapping, nested, optional, real, text
from ssltool.models.arch_name import check_values, compose
from ssltool.models.backbones import build_backbone
from ssltool.models.timm_models import LIBRARY, preprocessing_of, timm_package
from ssltool.settings import Settings

SIDE = integer(1, 2**16)
STATISTICS = listing(real(), 3)
PRETRAINED_CFG = mapping(
    optional={
        "input_size": listing(SIDE, 3),
        "num_classes": optional(integer(0, 2**20)),
        "crop_pct": real(0.01, 10),
        **dict.fromkeys(("crop_mode", "interpolation"), text(100)),
        **dict.fromkeys(("mean", "std"), STATISTICS),
    },
    other=nested(),
)
CONFIG = mapping(
    {"architecture": text(200, minimum=1)},
    {
        "pretrained_cfg": PRETRAINED_CFG,
        "model_args": optional(mapping(other=nested())),
        "num_classes": optional(integer(0, 2**20)),
        "global_pool": optional(either(text(100), boolean())),
    },
    nested(),
)
"""The ``config.json`` of a folder of timm."""

SET_HERE = ("num_classes", "img_size", "in_chans")
"""Arguments of a model that follow from other settings here."""

REFUSED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only")
"""Arguments of ``create_model`` that are no settings of a network: they load other weights, or build something else."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def read_timm(config: Settings, weights: Mapping[str, Tensor], path: object) -> NamedBackbone:
    """The backbone of a folder of timm, by its ``config.json``, which is the file ``path``, and its ``weights``.

    Raises:
        SSLToolError: if a setting is not as it should be, or the weights are not those of the architecture.
    """
    config = conform(config, CONFIG, path)
    cfg = config.get("pretrained_cfg") or conform(config, PRETRAINED_CFG, path)  # timm before 0.9 had one dict
    args = dict(config.get("model_args") or {})
    for name in REFUSED:
        if args.get(name):
            raise SSLToolError(f"{path}: model_args has {name}, which is no setting of a network; remove it")
    channels = args.get("in_chans") or (cfg.get("input_size") or [3])[0]
    if channels != 3:
        raise SSLToolError(f"{path}: the network reads images of {channels} channels; ssltool's images have 3")
    size = _square(args.get("img_size"), path) or _square(list(cfg.get("input_size") or [])[1:], path)
    classes = config.get("num_classes", cfg.get("num_classes"))
    args = {key: value for key, value in args.items() if key not in (*SET_HERE, *REFUSED)}
    pool = args.pop("global_pool", config.get("global_pool"))  # early versions write it outside of model_args only
    if pool is not None and pool != _own_pool(config["architecture"], args):
        args["global_pool"] = pool
    own = {} if size is None else {"input_size": [3, size, size]}
    return select_backbone(config["architecture"], args, {**cfg, **own}, weights, classes, label_offset=None)


def select_backbone(
    model: str, args: Settings, cfg: Settings, weights: Mapping[str, Any], classes: int | None, **overlay: Any
) -> NamedBackbone:
    """The backbone of timm's ``model`` with ``args`` among the ``weights`` of a file.

    timm translates the names and compares them with its own; it is given the tensors, and reads no file.

    Args:
        cfg: the ``pretrained_cfg`` that describes the inputs.
        classes: the number of classes of the classifier in the file; None for timm's own.
        overlay: what else differs from timm's ``pretrained_cfg``.

    Raises:
        SSLToolError: if timm does not have the architecture, or the weights are not exactly its weights.
    """
    timm = timm_package()
    if not timm.is_model(model):
        raise SSLToolError(str(unknown("timm architecture", model, timm.list_models())))
    check_values(args)
    preprocessing = _preprocessing(cfg, model)
    size = preprocessing.size
    arch = compose(LIBRARY, model.partition(".")[0], args)
    with torch.device("meta"):
        backbone = build_backbone(arch, image_size=size)[0].state_dict()
    needed, held = (sum(map(Tensor.numel, tensors.values())) for tensors in (backbone, _tensors(weights)))
    if needed > 2 * held:  # more than resized positional embeddings; found before memory is allocated
        raise SSLToolError(f"the weights have {held:,} values, but {arch} has {needed:,}")
    overlay |= {} if classes is None else {"num_classes": classes}
    full = _load(timm, model, args, size, weights, overlay)
    missing = [name for name in backbone if name not in full]
    if missing:
        raise SSLToolError(f"timm's {model} has no weights {', '.join(missing[:4])} when it has a classifier")
    others = [name for name in full if name not in backbone]
    selected = {name: full[name] for name in backbone}
    spec, left_out = BackboneSpec(arch, "auto", size), left_out_modules(others, list(backbone))
    return NamedBackbone(LIBRARY, spec, selected, left_out, preprocessing)


def _load(
    timm: Any, model: str, args: Settings, size: int, weights: Mapping[str, Any], overlay: Settings
) -> dict[str, Tensor]:
    """The state dict of the whole model with these weights."""
    elsewhere = dict.fromkeys(("url", "file", "hf_hub_id"))  # where timm's own pretrained_cfg would read them
    source = {"state_dict": dict(weights), "source": "", "custom_load": False} | elsewhere | overlay
    classes = overlay.get("num_classes", timm.get_pretrained_cfg(model).num_classes)
    args = {"pretrained": True, "pretrained_cfg_overlay": source, "num_classes": classes} | args
    try:
        try:
            built = timm.create_model(model, img_size=size, **args)
        except TypeError as error:  # only some models have the argument
            if "img_size" not in str(error):
                raise
            built = timm.create_model(model, **args)
    except Exception as error:  # timm may raise anything if the weights are another network's
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SSLToolError(f"timm cannot load the weights into {model}: {reason}") from error
    return built.state_dict()  # type: ignore[no-any-return]


def _tensors(value: Any, depth: int = 2) -> dict[str, Tensor]:
    """The tensors in a dict and the dicts in it, by their paths."""
    found: dict[str, Tensor] = {}
    for key, inner in value.items():
        if isinstance(inner, Tensor):
            found[str(key)] = inner
        elif isinstance(inner, Mapping) and depth:
            found |= {f"{key}/{name}": tensor for name, tensor in _tensors(inner, depth - 1).items()}
    return found


def _preprocessing(cfg: Settings, model: str) -> Preprocessing:
    """The transform of a ``pretrained_cfg``."""
    preprocessing = preprocessing_of(cfg, f"{LIBRARY}:{model}")
    if preprocessing.interpolation not in INTERPOLATIONS:
        raise SSLToolError(f"the interpolation {preprocessing.interpolation} is none of {', '.join(INTERPOLATIONS)}")
    return preprocessing


def _own_pool(model: str, args: Settings) -> Any:
    """The pooling of a model with ``args``; None if timm does not have the model."""
    timm = timm_package()
    if not timm.is_model(model):
        return None
    check_values(args)
    with torch.device("meta"):
        try:
            built = timm.create_model(model, **args)
        except Exception as error:  # arguments from a file may be of any kind
            raise SSLToolError(f"timm cannot build {model}: {' '.join(str(error).split())[:300]}") from error
    pools = (getattr(getattr(built, "head", None), "global_pool", None), getattr(built, "global_pool", None))
    return next((name for pool in pools if isinstance(name := getattr(pool, "pool_type", pool), str)), None)


def _square(size: Any, path: object) -> int | None:
    """The side of an image size, which may be a number or (height, width); None if there is none."""
    if not size:
        return None
    sides = set(size if isinstance(size, (list, tuple)) else [size])
    if len(sides) != 1 or type(side := sides.pop()) is not int:
        raise SSLToolError(f"{path}: the network reads images of size {size}; ssltool's inputs are square")
    return side
