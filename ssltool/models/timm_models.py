"""timm's architectures, ``timm:MODEL``, optionally with arguments of its ``create_model`` (``,output_stride=8``)."""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.arch_name import ArchName
from ssltool.models.counterpart import PYTHON, Counterpart, call
from ssltool.models.library import LibraryModels
from ssltool.models.masking import Masking

LIBRARY = "timm"

HUB = f"{LIBRARY}/"
"""How timm's models are named on the Hugging Face hub."""

SIZES: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {})
"""Arguments of models that are built for an image size. The first lets them take other sizes too."""

SHOWN = 20
"""Tags that an error message lists."""

FINAL_NORM = "norm."
"""The prefix of the norm after the last layer, which timm groups with that layer."""


def timm_package() -> Any:
    """The package ``timm``.

    Raises:
        UsageError: if it is not installed.
    """
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise UsageError("architectures of timm need the package timm: pip install 'ssltool[timm]'") from error


class TimmModels(LibraryModels):
    """All models of timm, without their classifier: their output is what timm's classifier reads."""

    library = LIBRARY
    listing = "python -c \"import timm; print(*timm.list_models('*convnext*'), sep='\\n')\""
    refused: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("img_size", "dynamic_img_size"), "give --image-size"),
        **dict.fromkeys(
            ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
            "give the weights with --pretrained",
        ),
        **dict.fromkeys(("num_classes", "in_chans", "features_only", "out_indices"), "a backbone has no such choice"),
        **dict.fromkeys(("device", "dtype"), "give --device and --precision"),
        **dict.fromkeys(("scriptable", "exportable", "no_jit"), "it does not change the network"),
    }

    def models(self) -> list[str]:
        try:
            return list(timm_package().list_models())
        except UsageError:
            return []

    def check_name(self, arch: ArchName) -> None:
        timm = timm_package()
        base, dot, tag = arch.model.partition(".")
        if not timm.is_model(base) or ":" in arch.model:
            raise UsageError(f"unknown timm architecture '{base}'; {self._similar(base, timm.list_models())}")
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
        if dot and tag not in tags:
            raise UsageError(f"timm has no weights {arch.model}; {self._similar(tag, tags)}")

    def _similar(self, name: str, known: list[str]) -> str:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        if near:
            return f"did you mean {' or '.join(near)}?"
        return f"known: {', '.join(known)}" if 0 < len(known) <= SHOWN else f"list the names with {self.listing}"

    def meant_by(self, name: str) -> list[str]:
        try:
            timm = timm_package()
        except UsageError:
            return []
        model = name.removeprefix(HUB)
        return [f"{LIBRARY}:{model}"] if timm.is_model(re.split("[.,]", model)[0]) else []

    def create(self, arch: ArchName, image_size: int) -> nn.Module:
        return _sized(timm_package(), arch, image_size)[0]

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        if library not in (PYTHON, LIBRARY):
            return None
        arch = self.parsed(name)
        with torch.device("meta"):
            arguments = arch.settings | _sized(timm_package(), arch, image_size)[1]
        function, values = "timm.create_model", [arch.model]
        if None in arguments.values():  # create_model leaves them out
            function, values = f"timm.model_entrypoint({arch.model.partition('.')[0]!r})", []
        build = f"import timm\nmodel = {call(function, *values, num_classes=0, **arguments)}"
        return Counterpart(arch.model, arguments, build)

    def features(self, backbone: nn.Module, images: Tensor) -> Any:
        return backbone.forward_features(images)  # type: ignore[operator]

    def takes_masks(self, backbone: nn.Module) -> bool:
        """Those of timm's plain ViTs that add positions to square patches and drop none of them."""
        plain = importlib.import_module("timm.models.vision_transformer").VisionTransformer
        if type(backbone) is not plain or backbone.pos_embed is None or self.patch_size(backbone) is None:
            return False
        network: Any = backbone
        height, width = network.patch_embed.patch_size
        return bool(height == width and isinstance(network.patch_drop, nn.Identity))

    def masked_tokens(self, backbone: nn.Module, images: Tensor, masking: Masking) -> Tensor:
        if not self.takes_masks(backbone):
            return super().masked_tokens(backbone, images, masking)
        network: Any = backbone
        embedded = network.patch_embed(images)  # (N, P, D), or (N, H, W, D) if the network takes several sizes
        patches = masking.replace(embedded.flatten(1, -2))
        tokens = network._pos_embed(patches.view(embedded.shape))
        prefix = network.num_prefix_tokens
        tokens = torch.cat([tokens[:, :prefix], masking.select(tokens[:, prefix:])], dim=1)
        out: Tensor = network.norm(network.blocks(network.norm_pre(tokens)))
        return out

    def layers(self, backbone: nn.Module) -> dict[str, int | None] | None:
        """timm's own groups; parameters of the head and of the norm before it count with the head."""
        matcher = getattr(backbone, "group_matcher", None)
        if matcher is None:
            return None
        groups = importlib.import_module("timm.models._manipulate").group_with_matcher
        names = [name for name, _ in backbone.named_parameters()]
        classifier = "(classifier)"  # a name that no matcher knows
        numbers = groups([(name, name) for name in [*names, classifier]], matcher(coarse=False), reverse=True)
        with_head = {name for name in names if name.startswith(FINAL_NORM) or numbers[name] == numbers[classifier]}
        return {name: None if name in with_head else int(numbers[name]) for name in names}

    def preprocessing(self, name: str, image_size: int | None) -> Preprocessing:
        config = timm_package().get_pretrained_cfg(self.parsed(name).model, allow_unregistered=True)
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


def _sized(timm: Any, arch: ArchName, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """timm's network for images of this size, and the arguments that say so; none if it takes any."""
    for more in SIZES:
        sizes = {"img_size": image_size, **more}
        try:
            return _create(timm, arch, **sizes), sizes
        except TypeError as error:
            if not any(key in str(error) for key in sizes):
                raise
    return _create(timm, arch), {}


def _create(timm: Any, arch: ArchName, **size: Any) -> nn.Module:
    """timm's network. ``timm.create_model`` would leave out settings that are None."""
    base, _, tag = arch.model.partition(".")
    create = timm.model_entrypoint(base)
    backbone: nn.Module = create(pretrained_cfg=tag or None, num_classes=0, **size, **arch.settings)
    return backbone
