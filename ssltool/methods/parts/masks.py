"""Random masks of patches, drawn for the batch over all ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.models.backbones import patch_of


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the masks depend on the step
def drawn_masks(method: Method, batch: Batch, draw: Callable[[int, Generator], tuple[Tensor, ...]]) -> list[Tensor]:
    """The rows for ``batch``, on its device, of what ``draw(images, generator)`` returns for the images of a step over
    all ranks.

    The generator is that of the run's seed, the epoch and the step, so the masks of an image depend neither on the
    number of ranks nor on the parts into which a batch is accumulated.
    """
    labels = batch.labels
    generator = seeds.generator(method.run.seed, *method.now, seeds.Stream.MASKS)
    rows = slice(batch.first, batch.first + len(labels))
    return [of_any_length(drawn[rows].to(labels.device)) for drawn in draw(method.run.batch_size, generator)]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def of_any_length(tensor: Tensor) -> Tensor:
    """``tensor``, whose numbers of patches the compiler does not take for constants: they differ from step to step."""
    for dimension in range(1, min(tensor.dim(), 3)):
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)
    return tensor


def patches_of_view(method: Method) -> tuple[int, int]:
    """The side of a patch in pixels, and the number of patches along the side of a view.

    Raises:
        SSLToolError: if the backbone has no patches.
    """
    patch = patch_of(method.backbone)
    if patch is None:
        raise SSLToolError(f"a {type(method.backbone).__name__} has no patches to mask; use a ViT")
    return patch, method.run.image_size // patch


def random_order(images: int, patches: int, generator: Generator) -> Tensor:
    """A random order of the numbers of the patches of each image: (images, patches) int64."""
    return torch.rand(images, patches, generator=generator).argsort(dim=1)
