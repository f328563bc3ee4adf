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
    """Masks for ``batch``, on its device: its rows of what ``draw(images, generator)`` returns for the images of all
    ranks.

    The generator is seeded with the run's seed, the epoch and the step, so the masks of an image depend neither on the
    number of ranks nor on the micro-batches.
    """
    labels = batch.labels
    generator = seeds.generator(method.run.seed, *method.now, seeds.Stream.MASKS)
    rows = slice(batch.first, batch.first + len(labels))
    made = [drawn[rows].to(labels.device) for drawn in draw(method.run.batch_size, generator)]
    for tensor in made:
        for dimension in range(1, tensor.dim()):
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)  # numbers of patches may differ from step to step
    return made


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
