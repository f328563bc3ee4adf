"""timm's architectures, ``timm:MODEL``, optionally with arguments of its ``create_model`` (``,output_stride=8``)."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, UsageError, first_line, unknown
from ssltool.models.arch_name import ArchName, parse
from ssltool.models.family import Family, TokenLayout

LIBRARY = "timm"


def timm_package() -> Any:
    """The package ``timm``.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UsageError("architectures of timm need the package timm: pip install 'ssltool[timm]'") from error


class TimmModels(Family):
    """All models of timm, without their classifier: their output is what timm's classifier reads."""

    def names(self) -> list[str]:
        return []

    def matches(self, name: str) -> bool:
        return name.startswith(f"{LIBRARY}:")

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        arch, timm = _parsed(name), timm_package()
        if not timm.is_model(arch.model):
            raise unknown("timm architecture", arch.model, timm.list_models())
        try:
            backbone = _create(timm, arch, image_size)
        except (TypeError, ValueError, AssertionError, RuntimeError, NotImplementedError) as error:
            raise SSLToolError(f"timm cannot build {name} for {image_size} pixels: {first_line(error)}") from error
        backbone.architecture_name = name
        return backbone, int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)

    def owns(self, backbone: nn.Module) -> bool:
        return str(getattr(backbone, "architecture_name", "")).startswith(f"{LIBRARY}:")

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        prefix = getattr(backbone, "num_prefix_tokens", None)
        if prefix is None:
            return None
        class_token = getattr(backbone, "cls_token", None) is not None
        return TokenLayout(class_token, int(prefix) - class_token)

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        out: Tensor = backbone.forward_features(images)  # type: ignore[operator]
        if out.dim() == 4 and getattr(backbone, "output_fmt", "NCHW") == "NHWC":
            out = out.permute(0, 3, 1, 2)
        return out

    def preprocessing(self, name: str, image_size: int | None) -> Preprocessing:
        config = timm_package().get_pretrained_cfg(_parsed(name).model, allow_unregistered=True)
        return preprocessing_of({} if config is None else config.to_dict(), name, image_size)


FAMILY = TimmModels()


def preprocessing_of(pretrained_cfg: Mapping[str, Any], name: str, image_size: int | None = None) -> Preprocessing:
    """The transform that the ``pretrained_cfg`` of the model ``name`` describes, at its own size by default; what it
    lacks has timm's default.

    Raises:
        SSLToolError: if its own size is no square and none is given, or its images are padded.
    """
    data = timm_package().data.resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    _, height, width = data["input_size"]
    if image_size is None and height != width:
        raise SSLToolError(f"{name} is for images of {width} x {height} pixels; give a square with --image-size")
    if data["crop_mode"] == "border":
        raise SSLToolError(f"the images of {name} are padded to a square, which ssltool does not do; use another")
    size = int(image_size or width)
    return Preprocessing(
        size=size,
        resize=math.floor(size / data["crop_pct"]),
        crop_pct=data["crop_pct"],
        squash=data["crop_mode"] == "squash",
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )


def _parsed(name: str) -> ArchName:
    arch = parse(name)
    if arch is None:
        raise UsageError(f"{name} has no library; write {LIBRARY}:NAME")
    return arch


def _create(timm: Any, arch: ArchName, image_size: int) -> Any:
    """The model; with ``img_size``, if its parameters depend on it."""
    try:
        return timm.create_model(arch.model, num_classes=0, img_size=image_size, **arch.settings)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return timm.create_model(arch.model, num_classes=0, **arch.settings)
