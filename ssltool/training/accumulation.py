"""Gradient accumulation: a batch is trained in parts, the micro-batches, whose gradients are summed.

The sum is the gradient of the whole batch if the loss is a mean over images and no network has batch norm. With batch
norm, images are normalised with the statistics of their micro-batch.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Method


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """``count`` equal parts of a batch, which share its memory; each has the whole support."""

    size = len(batch.labels) // count

    def part(start: int) -> Batch:
        rows = slice(start, start + size)
        views = [view[rows] for view in batch.views]
        boxes = None if batch.boxes is None else batch.boxes[rows]
        return Batch(views, batch.labels[rows], batch.rows[rows], batch.support, batch.first + start, boxes)

    return [part(start) for start in range(0, size * count, size)]


def check_accumulation(name: str, method: Method, batch_size: int, count: int, ranks: int) -> None:
    """Checks that the method ``name`` can be trained on batches of ``batch_size`` in ``count`` parts on ``ranks``.

    Raises:
        UsageError: if its loss compares the images of a batch.
        SSLToolError: if the parts are not equal, or smaller than the method's smallest batch.
    """
    if count == 1:
        return
    if method.compares_images:
        raise UsageError(
            f"--accumulate {count} would change the loss of {name}, which compares the images of a batch with one "
            "another; leave it out, and save memory with --checkpoint-activations or --precision bf16"
        )
    if batch_size % (count * ranks):
        over = "" if ranks == 1 else f" on {ranks} ranks"
        raise SSLToolError(
            f"--batch-size {batch_size} is not divisible into {count} equal micro-batches{over}; change one of them"
        )
    if batch_size // count < method.min_batch_size:
        raise SSLToolError(
            f"--accumulate {count} makes micro-batches of {batch_size // count}; {name} needs at least "
            f"{method.min_batch_size}: lower it to at most {batch_size // method.min_batch_size}"
        )


def accumulation_notes(method: Method, batch_size: int, count: int) -> list[str]:
    """What ``--accumulate`` changes about the training of ``method``."""
    if count == 1 or not has_batch_norm(method):
        return []
    return [
        f"--accumulate {count}: batch norm uses the statistics of micro-batches of {batch_size // count} images, not "
        f"of the batch of {batch_size}"
    ]


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a layer of ``module`` is a batch norm, synchronised or not."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())
