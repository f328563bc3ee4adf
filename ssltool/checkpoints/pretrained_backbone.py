"""The backbone of a checkpoint as a module that is ready to use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn

from ssltool.checkpoints.load import load_pretrained
from ssltool.config import NetworkSettings
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.views import standardise
from ssltool.data.workers import eval_pixels
from ssltool.training.progress import quiet


@dataclasses.dataclass(frozen=True)
class EvalTransform:
    """The validation transform: converts a PIL image to a normalised float32 tensor (3, S, S)."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = eval_pixels(image.convert("RGB"), self.preprocessing)
        return standardise(pixels[None].float() / 255.0, self.preprocessing)[0]


class PretrainedBackbone(nn.Module):
    """A pretrained backbone in eval mode: ``backbone(images)`` maps (N, 3, S, S) to representations (N, ``dim``).

    ``transform`` converts a PIL image to an input as the network was trained for, ``image_size`` is S, and ``arch`` is
    the architecture's name.
    """

    def __init__(self, backbone: nn.Module, dim: int, arch: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim, self.arch, self.image_size = dim, arch, preprocessing.size
        self.transform: Callable[[Image.Image], Tensor] = EvalTransform(preprocessing)
        self.eval()

    @classmethod
    def load(
        cls, path: str, *, arch: str | None = None, stem: str | None = None, key: str | None = None, device: str
    ) -> PretrainedBackbone:
        """Reads a checkpoint; see ``ssltool.load_backbone``."""
        settings = NetworkSettings(pretrained=str(path), arch=arch, stem=stem, key=key)
        with quiet():
            network = load_pretrained(settings, torch.device(device), ranks=True)
        method = network.method
        return cls(method.backbone, method.backbone_dim, network.origin["arch"], network.preprocessing)

    def forward(self, images: Tensor) -> Tensor:
        """Representations (N, dim) of ``images`` (N, 3, S, S)."""
        representations: Tensor = self.backbone(images)
        return representations
