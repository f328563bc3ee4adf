"""A FIFO queue of earlier embeddings: negatives for MoCo and ReSSL, nearest neighbours for NNCLR and NNSiam."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.errors import SSLToolError
from ssltool.methods.base import RunFacts
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


class Queue(nn.Module):
    """The last ``size`` L2-normalised embeddings of width ``dim``, initially random. Identical on all ranks.

    ``rows`` (size, dim) holds the embeddings; ``added`` counts all embeddings added so far.
    """

    rows: Tensor
    added: Tensor

    def __init__(self, size: int, dim: int, batch_size: int) -> None:
        """Raises ``SSLToolError`` if the queue is smaller than a batch."""
        super().__init__()
        if size < batch_size:
            raise SSLToolError(
                f"--set queue={size} must be at least the batch size ({batch_size}); raise it, or lower --batch-size"
            )
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        self._known_full = False

    def is_full(self) -> bool:
        """Whether all random rows have been replaced."""
        self._known_full = self._known_full or int(self.added) >= len(
            self.rows
        )  # cached: reading ``added`` waits for the device
        return self._known_full

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Replaces the oldest embeddings with the L2-normalised ``rows`` (N, D) of all ranks."""
        rows = F.normalize(gather(rows.detach()).to(self.rows.dtype), dim=1)
        positions = (self.added + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[positions] = rows
        self.added.add_(len(rows))

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """The stored embedding with the largest cosine similarity to each of ``rows`` (N, D)."""
        found: Tensor = self.rows[_nearest(rows.float(), self.rows)]
        return found


@without_autocast
def _nearest(rows: Tensor, others: Tensor) -> Tensor:
    return (rows @ others.mT).argmax(dim=1)


def check_queue(name: str, rows: Tensor, queue: Tensor) -> None:
    """Checks that the queue is (K, D) for rows (N, D).

    Raises:
        SSLToolError: if it is not.
    """
    if queue.dim() != 2 or queue.shape[1:] != rows.shape[1:]:
        raise SSLToolError(
            f"{name} expects a queue (K, D) for rows (N, D); found {tuple(queue.shape)} for {tuple(rows.shape)}"
        )


def queue_warnings(options: Any, run: RunFacts) -> list[str]:
    """Warnings about a queue of ``options.queue`` embeddings."""
    found = []
    if options.queue % run.batch_size:
        found.append(
            f"queue={options.queue} is not a multiple of the batch size ({run.batch_size}): old batches are replaced "
            "in two parts, unlike in published runs"
        )
    if options.queue > run.images:
        found.append(
            f"queue={options.queue} is more than the number of images ({run.images}): it holds several outdated "
            "embeddings per image, and random ones at first; try --set queue="
            f"{max(run.batch_size, run.images // 2 // run.batch_size * run.batch_size)}"
        )
    return found
