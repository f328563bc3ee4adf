"""Vision models of transformers, ``transformers:MODEL_TYPE``, optionally with settings of the configuration.

``transformers:vit,hidden_size=384`` is the library's class of the type ``vit``, built from its configuration. Nothing
is downloaded, and no code of a repository is run.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, first_line
from ssltool.models.counterpart import PYTHON, Counterpart, call
from ssltool.models.family import Family, TokenLayout
from ssltool.models.transformers_config import (
    CLASS_TOKEN,
    FIXED,
    LIBRARY,
    MEAN,
    MODEL_TYPES,
    POOLED,
    build_config,
    own_settings,
    parsed_name,
    quiet,
    transformers_package,
)
from ssltool.settings import Settings


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
        if self.patch is not None and self.kind.grid:
            for layer in self.model.encoder.layer:  # the positions of its patches are those of a grid of this size
                layer.attention.grid_size = size // self.patch
            return self.model(images[:, None], skip_predictor=True)  # one frame, which the library repeats
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
        model_type, settings = parsed_name(name)
        with quiet():
            config = build_config(model_type, {"image_size": image_size} | settings)
            for key in [key for key in FIXED if hasattr(config, key)]:
                setattr(config, key, FIXED[key])
            try:
                model = transformers_package().AutoModel.from_config(config, **MODEL_TYPES[model_type].options)
                for module in MODEL_TYPES[model_type].omitted:
                    delattr(model, module)
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
        model_type, settings = parsed_name(name)
        mean, std = MODEL_TYPES[model_type].statistics
        size = settings.get("image_size", Preprocessing.size)
        if "num_patches" in own_settings(model_type):  # SigLIP 2, whose patches are of a square image
            config = build_config(model_type, settings)
            size = math.isqrt(config.num_patches) * config.patch_size
        own = Preprocessing(mean=mean, std=std)  # type: ignore[arg-type]  # three each
        if grid := MODEL_TYPES[model_type].grid:
            size = getattr(build_config(model_type, settings), grid)
            own = dataclasses.replace(own, crop_pct=0.875)  # whose resized side is rounded down
        return own.at(size if image_size is None else image_size)

    def depends_on_size(self, backbone: nn.Module, size: int) -> bool:
        """Whether the positional embeddings are made for the image size. Those of a name with ``image_size``, and those
        of SigLIP 2, are resized to each input by the library."""
        if not isinstance(backbone, TransformersBackbone) or "image_size" in parsed_name(backbone.name)[1]:
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
        model_type, settings = parsed_name(name)
        own, grid = own_settings(model_type), backbone.kind.grid
        arguments: Settings = ({"image_size": image_size} if "image_size" in own else {}) | settings
        arguments |= {key: value for key, value in FIXED.items() if key in own} | ({grid: image_size} if grid else {})
        build = (
            "import torch, transformers\n"
            f"config = {call('transformers.AutoConfig.for_model', model_type, **arguments)}\n"
            f"encoder = {_call_with('transformers.AutoModel.from_config', 'config', backbone.kind.options)}"
            + "".join(f"\ndel encoder.{module}" for module in backbone.kind.omitted)
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
    if backbone.kind.grid:
        given = "images[:, None], skip_predictor=True"
    elif backbone.patch is not None and backbone.model_type == "siglip2_vision_model":
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
