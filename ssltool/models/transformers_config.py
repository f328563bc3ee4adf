"""The vision models of transformers that ssltool has: their types, their settings, and names made of these."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ssltool.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ssltool.errors import SSLToolError, UsageError, first_line, unknown
from ssltool.files.misfit import name_keys
from ssltool.models.arch_name import check_values, compose, parse
from ssltool.models.family import TokenLayout
from ssltool.settings import Settings

LIBRARY = "transformers"

CLASS_TOKEN, MEAN, POOLED = "class token", "mean of the patches", "pooled output"
"""What becomes the representation: the class token after the last norm, the mean over the patch tokens after it, or
what the library's class returns as ``pooler_output``."""

HALF = ((0.5,) * 3, (0.5,) * 3)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Channel means and standard deviations of published networks."""

NOT_USED = (
    *("out_features", "out_indices", "stage_names", "reshape_hidden_states", "apply_layernorm"),  # of a detector
    *("mask_ratio", "norm_pix_loss", "encoder_stride"),  # of the loss
    *("pooler_act", "pooler_output_size", "projection_dim"),  # of modules after the representation
    *("frames_per_clip", "num_pooler_layers"),  # of videos and their classifier
)
"""Settings that do not change the representation."""

OF_THE_DECODER = ("decoder_", "pred_")
"""How the names of the settings of MAE's decoder and V-JEPA's predictor begin."""

FIXED: Settings = {"mask_ratio": 0.0, "pred_num_hidden_layers": 0}
"""Settings that are the same in all networks: no patch is masked, and nothing is predicted."""


@dataclass(frozen=True)
class ModelType:
    """How the outputs of a model type become representations.

    Attributes:
        output: ``CLASS_TOKEN``, ``MEAN`` or ``POOLED``.
        layout: the order of its tokens; None if it computes feature maps.
        statistics: the mean and standard deviation of the published networks.
        options: arguments of the library's class.
        grid: the setting of the image size from which rotary positions are computed; empty if there is none.
        omitted: modules of the library's class that do not change the representation.
        note: what the representation differs in from the one that the program evaluates, in a few words.
    """

    output: str
    layout: TokenLayout | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    options: Mapping[str, Any] = field(default_factory=dict)
    grid: str = ""
    omitted: tuple[str, ...] = ()
    note: str = ""


_WITH_CLASS, _WITHOUT_CLASS = TokenLayout(), TokenLayout(class_token=False)
_NO_POOLER = {"add_pooling_layer": False}
_ONE_TUBELET = "each image is repeated to one tubelet; V-JEPA 2's evaluation repeats it to 16 frames or more"

MODEL_TYPES: Mapping[str, ModelType] = {
    "vit": ModelType(CLASS_TOKEN, _WITH_CLASS, HALF, _NO_POOLER),
    "deit": ModelType(CLASS_TOKEN, TokenLayout(registers=1), options=_NO_POOLER),  # its distillation token
    "dinov2": ModelType(CLASS_TOKEN, _WITH_CLASS),
    "dinov2_with_registers": ModelType(CLASS_TOKEN, _WITH_CLASS),
    "dinov3_vit": ModelType(CLASS_TOKEN, _WITH_CLASS),
    "dinov3_convnext": ModelType(POOLED),
    "vit_mae": ModelType(CLASS_TOKEN, _WITH_CLASS),
    "vit_msn": ModelType(CLASS_TOKEN, _WITH_CLASS),
    "ijepa": ModelType(MEAN, _WITHOUT_CLASS),
    "vjepa2": ModelType(MEAN, _WITHOUT_CLASS, grid="crop_size", omitted=("predictor",), note=_ONE_TUBELET),
    "resnet": ModelType(POOLED),
    "convnext": ModelType(POOLED),
    "convnextv2": ModelType(POOLED),
    "swin": ModelType(POOLED),
    "swinv2": ModelType(POOLED),
    "clip_vision_model": ModelType(POOLED, _WITH_CLASS, CLIP),
    "siglip_vision_model": ModelType(POOLED, _WITHOUT_CLASS, HALF),
    "siglip2_vision_model": ModelType(POOLED, _WITHOUT_CLASS, HALF),
}
"""The supported model types, by the library's names."""

TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}
"""Model types with a text encoder, and the type of their image encoder."""


def transformers_package() -> Any:
    """The package ``transformers``.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise UsageError(
            "models of transformers need the package transformers: pip install 'ssltool[transformers]'"
        ) from error


def parsed_name(name: str) -> tuple[str, Settings]:
    """The model type and the settings of an architecture's name.

    Raises:
        UsageError: if the name has another form, or the type is not supported.
    """
    arch = parse(name)
    if arch is None:
        raise UsageError(f"{name} has no library; write {LIBRARY}:MODEL_TYPE")
    model_type = TOWERS.get(arch.model, arch.model)
    if model_type not in MODEL_TYPES:
        raise unknown("model type of transformers", arch.model, MODEL_TYPES)
    return model_type, arch.settings


def build_config(model_type: str, settings: Settings) -> Any:
    """The library's configuration of a model type in ``MODEL_TYPES``.

    Raises:
        SSLToolError: if the type has no such setting, or a value does not fit.
    """
    check_values(settings)
    own = own_settings(model_type)
    extra = [key for key in settings if key not in own and key != "image_size"]
    if extra:
        raise SSLToolError(f"{LIBRARY}:{model_type} has no setting {name_keys(extra)}; it has {', '.join(sorted(own))}")
    values = {key: value for key, value in settings.items() if key in own}
    try:
        config = transformers_package().AutoConfig.for_model(model_type, **values)
        channels = getattr(config, "in_chans", getattr(config, "num_channels", 3))
    except Exception as error:  # transformers checks types and values with exceptions of several kinds
        raise SSLToolError(f"{LIBRARY}:{model_type} cannot have these settings: {first_line(error)}") from error
    if channels != 3:
        raise SSLToolError(f"{LIBRARY}:{model_type} reads images of {channels} channels; ssltool's images have 3")
    return config


def name_of_config(model_type: str, settings: Mapping[str, Any]) -> str:
    """The architecture's name for a ``config.json`` with these ``settings``; keys that the library does not have, or
    that do not change the representation, are left out.

    Raises:
        SSLToolError: if a value does not fit.
    """
    own = own_settings(model_type)
    with quiet():
        config = build_config(model_type, {key: value for key, value in settings.items() if key in own}).to_dict()
        default = build_config(model_type, {}).to_dict()
    if "image_size" in own:
        size = config["image_size"]
        config["image_size"] = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
        if type(config["image_size"]) is not int:
            raise SSLToolError(f"{LIBRARY}:{model_type} reads images of {size} pixels; ssltool's inputs are square")
        default["image_size"] = None  # always named, since the positional embeddings are of this size
    used = [key for key in own if key not in _not_used(model_type) and not key.startswith(OF_THE_DECODER)]
    return compose(LIBRARY, model_type, {key: config[key] for key in used if config[key] != default.get(key)})


def _not_used(model_type: str) -> set[str]:
    """``NOT_USED``, and what has no effect with this type: Swin's width follows from ``embed_dim``, and a convolutional
    network has no image size."""
    derived = {"hidden_size", "num_layers"} if model_type.startswith("swin") else set()
    return derived | ({"image_size"} if "convnext" in model_type else set()) | set(NOT_USED)


def own_settings(model_type: str) -> list[str]:
    """The settings that a model type has beside those of all configurations."""
    package = transformers_package()
    own = package.AutoConfig.for_model(model_type).to_dict()
    return sorted(own.keys() - package.PretrainedConfig().to_dict().keys())


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the reports of transformers."""
    logging = transformers_package().logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
