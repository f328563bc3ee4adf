"""The network that is exported, and what a target does with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.checkpoints.described_weights import Description
from ssltool.checkpoints.load import Pretrained
from ssltool.checkpoints.match_architecture import BackboneSpec
from ssltool.checkpoints.setting_names import PROGRAM
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError
from ssltool.models.backbones import family_of, resolve_stem
from ssltool.models.counterpart import Counterpart

TOLERANCE = 1e-4
"""Maximum difference of representations, relative to the largest value."""

IMAGES = 3
"""Number of images that are compared; it differs from that with which a graph is recorded."""


class NoCounterpart(SSLToolError):
    """A target has nothing that computes exactly what the network does."""


@dataclass(frozen=True)
class Exported:
    """A backbone in eval mode, on the CPU in float32, and the facts that are written beside its weights.

    Attributes:
        image_size: the side of the images that it was built for.
        width: the width of its representations.
    """

    backbone: nn.Module
    width: int
    arch: str
    stem: str
    image_size: int
    preprocessing: Preprocessing
    program: str
    method: str
    epoch: int | None

    @classmethod
    def of(cls, network: Pretrained) -> Exported:
        """The backbone of a network that was read."""
        spec, origin = network.run.backbone, network.origin
        stem = resolve_stem(spec.arch, spec.stem, spec.image_size)
        return cls(
            *(network.method.backbone, network.method.backbone_dim, spec.arch, stem, spec.image_size),
            *(network.preprocessing, origin[PROGRAM], origin["method"], origin["epoch"]),
        )

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict."""
        return {name: tensor.detach().contiguous() for name, tensor in self.backbone.state_dict().items()}

    @property
    def name(self) -> str:
        """The architecture, and its stem if it is not the usual one."""
        return self.arch if self.stem in ("auto", "imagenet") else f"{self.arch} with the stem {self.stem}"

    def counterpart(self, library: str) -> Counterpart | None:
        """The same network in ``library``; None if it has none."""
        return family_of(self.arch).counterpart(library, self.arch, stem=self.stem, image_size=self.image_size)

    def describe(self, *, with_network: bool = True) -> Description:
        """What is written beside the weights; ``with_network`` if nothing else says how the network is built."""
        spec = BackboneSpec(self.arch, self.stem, self.image_size) if with_network else None
        return Description(self.program, self.method, self.epoch, self.preprocessing, spec)

    def images(self, count: int = IMAGES) -> Tensor:
        """Random images, the same in every run."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(count, 3, self.image_size, self.image_size, generator=generator)

    def check_same(self, other: Callable[[Tensor], Tensor], what: str) -> None:
        """Checks that ``other`` computes the same as the backbone.

        Raises:
            NoCounterpart: if its representations of random images differ.
        """
        images = self.images()
        with torch.inference_mode():
            expected, found = self.backbone(images), other(images)
        same = expected.shape == found.shape
        difference = (expected - found).abs().max().item() if same else float("inf")
        if not difference <= TOLERANCE * max(expected.abs().max().item(), 1e-12):
            raise NoCounterpart(
                f"{what} of {self.name} does not compute the same: representations differ by {difference:.2g}"
            )

    def comment(self) -> str:
        """Comments in Python that say what ``model`` is."""
        side, steps = self.image_size, self.preprocessing.describe()
        kept = f"; images of {side} x {side} are not resized" if self.preprocessing.keeps_size else ""
        return (
            f"# model(images) maps float32 images (N, 3, {side}, {side}) to representations (N, {self.width}).\n"
            f"# Transform of pixels in 0 to 1: {steps}{kept}"
        )


@dataclass(frozen=True)
class Plan:
    """What a target writes.

    Attributes:
        write: writes it, atomically.
        load: code that loads it: Python that defines ``model(images)``, or if not ``in_python``, a shell command.
    """

    write: Callable[[], object]
    load: str
    in_python: bool = True
