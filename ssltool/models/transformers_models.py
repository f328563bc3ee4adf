"""Vision models of transformers, ``transformers:MODEL_TYPE``, optionally with settings of the configuration.

``transformers:vit,hidden_size=384`` is the library's class of the type ``vit``, built from its configuration. Nothing
is downloaded, and no code of a repository is run.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from ssltool.errors import SSLToolError, UsageError, first_line, unknown
from ssltool.files.misfit import name_keys
from ssltool.models.arch_name import check_values, compose, parse
from ssltool.models.counterpart import PYTHON, Counterpart, call
from ssltool.models.family import Family, TokenLayout
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
)
"""Settings that do not change the representation."""

OF_THE_DECODER = "decoder_"
"""How the names of the settings of MAE's decoder begin."""


@dataclass(frozen=True)
class ModelType:
    """How the outputs of a model type become representations.

    Attributes:
        output: ``CLASS_TOKEN``, ``MEAN`` or ``POOLED``.
        layout: the order of its tokens; None if it computes feature maps.
        statistics: the mean and standard deviation of the published networks.
        options: arguments of the library's class.
    """

    output: str
    layout: TokenLayout | None = None
    statistics: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    options: Mapping[str, Any] = field(default_factory=dict)


_WITH_CLASS, _WITHOUT_CLASS = TokenLayout(), TokenLayout(class_token=False)
_NO_POOLER = {"add_pooling_layer": False}

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


class TransformersBackbone(nn.Module):
    """A model of transformers as a backbone. Its parameters have the library's names after the prefix ``model.``.

    ``backbone(images)`` maps (N, 3, S, S) to representations (N, ``width``).
    """

    def __init__(self, name: str, model: Any) -> None:
        super().__init__()
        self.name, self.model = name, model
        config = model.config
        self.model_type: str = config.model_type
        self.kind = MODEL_TYPES[self.model_type]
        self.patch: int | None = config.patch_size if self.layout is not None else None
        sizes = getattr(config, "hidden_sizes", None)
        self.width = int(sizes[-1] if sizes else getattr(model, "num_features", config.hidden_size))
        if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            self.resizing = {"interpolate_pos_encoding": True}
        else:
            self.resizing = {}

    @property
    def layout(self) -> TokenLayout | None:
        """The order of the tokens; None if it computes feature maps."""
        layout, registers = self.kind.layout, getattr(self.model.config, "num_register_tokens", 0)
        return TokenLayout(layout.class_token, registers) if layout and registers else layout

    def forward(self, images: Tensor) -> Tensor:
        """Representations (N, ``width``) of ``images`` (N, 3, S, S)."""
        out = self._outputs(images)
        if self.kind.output == CLASS_TOKEN:
            return out.last_hidden_state[:, 0]  # type: ignore[no-any-return]
        if self.kind.output == MEAN or out.pooler_output is None:  # SigLIP without its pooling head
            return out.last_hidden_state.mean(dim=1)  # type: ignore[no-any-return]
        return out.pooler_output.flatten(1)  # type: ignore[no-any-return]

    def last_layer(self, images: Tensor) -> Tensor:
        """The tokens (N, T, D) after the last norm, in the order of ``layout``, or a feature map (N, D, H, W)."""
        out: Tensor = self._outputs(images).last_hidden_state
        if self.model_type == "clip_vision_model":
            return self.model.post_layernorm(out)  # type: ignore[no-any-return]
        if self.layout is not None or out.dim() == 4:
            return out
        if self.model_type == "dinov3_convnext":  # the pooled output comes before the positions
            out = out[:, 1:]
        return out.mT.unflatten(2, (math.isqrt(out.shape[1]), -1))

    def _outputs(self, images: Tensor) -> Any:
        size = images.shape[-1]
        if self.patch is not None and size % self.patch:
            raise SSLToolError(
                f"images of {size} pixels do not fit patches of {self.patch} pixels ({self.name}); use a multiple, "
                f"such as --image-size {max(1, round(size / self.patch)) * self.patch}"
            )
        if self.patch is not None and self.model_type == "siglip2_vision_model":
            return self.model(**_patches(images, self.patch))
        if self.patch is not None and self.model_type == "vit_mae":  # the order of the patches, none of them left out
            order = torch.arange((size // self.patch) ** 2, device=images.device).expand(images.shape[0], -1)
            return self.model(images, noise=order, **self.resizing)
        return self.model(images, **self.resizing)


def _patches(images: Tensor, patch: int) -> dict[str, Tensor]:
    """The inputs of SigLIP 2 for images of any aspect ratio: patches (N, P, 3 * patch**2), mask and sizes."""
    side = images.shape[-1] // patch
    grid = images.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # (N, 3, rows, patch, columns, patch)
    rows = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    return {
        "pixel_values": rows,
        "pixel_attention_mask": torch.ones(rows.shape[:2], dtype=torch.int32, device=images.device),
        "spatial_shapes": torch.full((images.shape[0], 2), side, device=images.device),
    }


class TransformersModels(Family):
    """The vision models of transformers in ``MODEL_TYPES``, without heads."""

    def names(self) -> list[str]:
        return []  # most have hundreds of millions of parameters unless their settings say otherwise

    def completions(self, start: str) -> list[str]:
        return [name for name in (f"{LIBRARY}:{model_type}" for model_type in MODEL_TYPES) if name.startswith(start)]

    def matches(self, name: str) -> bool:
        return name.startswith(f"{LIBRARY}:")

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        model_type, settings = _parsed(name)
        with quiet():
            config = build_config(model_type, {"image_size": image_size} | settings)
            if getattr(config, "mask_ratio", None) is not None:
                config.mask_ratio = 0.0
            try:
                model = transformers_package().AutoModel.from_config(config, **MODEL_TYPES[model_type].options)
                backbone = TransformersBackbone(name, model)
            except Exception as error:  # transformers may raise anything if settings contradict each other
                raise SSLToolError(f"transformers cannot build {name}: {first_line(error)}") from error
        return backbone, backbone.width

    def owns(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, TransformersBackbone)

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        return backbone.layout if isinstance(backbone, TransformersBackbone) else None

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        if not isinstance(backbone, TransformersBackbone):
            return super().last_layer(backbone, images)
        return backbone.last_layer(images)

    def preprocessing(self, name: str, image_size: int | None) -> Preprocessing:
        model_type, settings = _parsed(name)
        mean, std = MODEL_TYPES[model_type].statistics
        size = settings.get("image_size", Preprocessing.size)
        if "num_patches" in _own_settings(model_type):  # SigLIP 2, whose patches are of a square image
            config = build_config(model_type, settings)
            size = math.isqrt(config.num_patches) * config.patch_size
        own = Preprocessing(mean=mean, std=std)  # type: ignore[arg-type]  # three each
        return own.at(size if image_size is None else image_size)

    def depends_on_size(self, backbone: nn.Module, size: int) -> bool:
        """Whether the positional embeddings are made for the image size. Those of a name with ``image_size``, and those
        of SigLIP 2, are resized to each input by the library."""
        if not isinstance(backbone, TransformersBackbone) or "image_size" in _parsed(backbone.name)[1]:
            return False
        names = [name for name, _ in backbone.named_parameters()]
        own = getattr(backbone.model.config, "image_size", None)
        return own not in (None, size) and any("position_embedding" in name for name in names)

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        if library not in (PYTHON, LIBRARY):
            return None
        with torch.device("meta"):
            backbone = self.build(
                name, stem=stem, image_size=image_size, stop_grad_conv1=False, zero_init_residual=False
            )[0]
        if not isinstance(backbone, TransformersBackbone):
            return None
        model_type, settings = _parsed(name)
        arguments: Settings = (
            {"image_size": image_size} if "image_size" in _own_settings(model_type) else {}
        ) | settings
        arguments |= {} if backbone.model_type != "vit_mae" else {"mask_ratio": 0.0}
        build = (
            "import torch, transformers\n"
            f"config = {call('transformers.AutoConfig.for_model', model_type, **arguments)}\n"
            f"encoder = {_call_with('transformers.AutoModel.from_config', 'config', backbone.kind.options)}"
        )
        prefix = "model."
        return Counterpart(
            *(model_type, arguments, build),
            translate=lambda weights: {key.removeprefix(prefix): tensor for key, tensor in weights.items()},
            prefix=prefix,
            variable="encoder",
            define=define_code(backbone, image_size),
        )


FAMILY = TransformersModels()


def load_code(backbone: TransformersBackbone, folder: str) -> str:
    """Python that loads the library's model from ``folder`` as ``encoder``."""
    load = _call_with("transformers.AutoModel.from_pretrained", repr(folder), backbone.kind.options)
    return f"import torch, transformers\nencoder = {load}"


def define_code(backbone: TransformersBackbone, size: int) -> str:
    """Python that defines ``model(images)``, what ``backbone`` returns for images of ``size`` pixels, by the library's
    model ``encoder``."""
    lines, given = ["def model(images):"], "images"
    if backbone.patch is not None and backbone.model_type == "siglip2_vision_model":
        side, patch = size // backbone.patch, backbone.patch
        lines += [
            f"    grid = images.unflatten(3, ({side}, {patch})).unflatten(2, ({side}, {patch}))",
            "    patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)",
            "    mask = torch.ones(patches.shape[:2], dtype=torch.int32)",
        ]
        shapes = f"torch.full((len(images), 2), {side})"
        given = f"pixel_values=patches, pixel_attention_mask=mask, spatial_shapes={shapes}"
    elif backbone.patch is not None and backbone.model_type == "vit_mae":
        given += f", noise=torch.arange({(size // backbone.patch) ** 2}).expand(len(images), -1)"
    if backbone.model_type != "siglip2_vision_model":
        given += "".join(f", {key}={value}" for key, value in backbone.resizing.items())
    pooled = backbone.kind.output == POOLED and getattr(backbone.model, "use_head", True)
    output = "last_hidden_state[:, 0]" if backbone.kind.output == CLASS_TOKEN else "last_hidden_state.mean(dim=1)"
    output = "pooler_output.flatten(1)" if pooled else output
    return "\n".join([*lines, f"    return encoder({given}).{output}"])


def _call_with(function: str, first: str, arguments: Mapping[str, Any]) -> str:
    return f"{function}({', '.join([first, *(f'{key}={value!r}' for key, value in arguments.items())])})"


def _parsed(name: str) -> tuple[str, Settings]:
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
    own = _own_settings(model_type)
    extra = [key for key in settings if key not in own and key != "image_size"]
    if extra:
        raise SSLToolError(f"{LIBRARY}:{model_type} has no setting {name_keys(extra)}; it has {', '.join(sorted(own))}")
    values = {key: value for key, value in settings.items() if key in own}
    try:
        config = transformers_package().AutoConfig.for_model(model_type, **values)
        channels = getattr(config, "num_channels", 3)
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
    own = _own_settings(model_type)
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


def _own_settings(model_type: str) -> list[str]:
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
