"""A queue of earlier embeddings: negatives for MoCo, neighbours for NNCLR and NNSiam, relations for ReSSL."""

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
    """The last ``size`` embeddings of width ``dim``, of length 1; random ones at first. The same on every rank.

    ``rows`` (size, dim) holds them, ``added`` counts all that ever entered.
    """

    rows: Tensor
    added: Tensor

    def __init__(self, size: int, dim: int, batch_size: int) -> None:
        """Raises ``SSLToolError`` if the queue is shorter than a batch, which would overwrite itself."""
        super().__init__()
        if size < batch_size:
            raise SSLToolError(f"--set queue={size} cannot hold one batch of {batch_size}; make it at least that long")
        self.register_buffer("rows", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("added", torch.zeros((), dtype=torch.int64))
        self._known_full = False

    def is_full(self) -> bool:
        """Whether no random row is left."""
        self._known_full = self._known_full or int(self.added) >= len(self.rows)  # asks a GPU only until it is
        return self._known_full

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Replaces the oldest embeddings by all ranks' ``rows`` (N, D), scaled to length 1."""
        rows = F.normalize(gather(rows.detach()).to(self.rows.dtype), dim=1)
        places = (self.added + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[places] = rows
        self.added.add_(len(rows))

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """The stored embedding with the largest cosine, for each of ``rows`` (N, D)."""
        found: Tensor = self.rows[_most_alike(rows.float(), self.rows)]
        return found


@without_autocast
def _most_alike(rows: Tensor, others: Tensor) -> Tensor:
    return (rows @ others.mT).argmax(dim=1)


def check_queue(name: str, rows: Tensor, queue: Tensor) -> None:
    """Refuses a queue that is no (K, D) for rows (N, D).

    Raises:
        SSLToolError: with both shapes.
    """
    if queue.dim() != 2 or queue.shape[1:] != rows.shape[1:]:
        raise SSLToolError(
            f"{name} takes a queue (K, D) for rows (N, D); found {tuple(queue.shape)} for {tuple(rows.shape)}"
        )


def queue_warnings(options: Any, run: RunFacts) -> list[str]:
    """What is likely to go wrong with a queue of ``options.queue`` embeddings."""
    found = []
    if options.queue % run.batch_size:
        found.append(
            f"queue={options.queue} is not a multiple of the batch ({run.batch_size}): it works, but the oldest batch "
            "leaves it in two parts, unlike in published runs"
        )
    if options.queue > run.images:
        found.append(
            f"queue={options.queue} is longer than the {run.images} images: it holds several embeddings of each, "
            "old ones and, at first, random ones; try --set queue="
            f"{max(run.batch_size, run.images // 2 // run.batch_size * run.batch_size)}"
        )
    return found
