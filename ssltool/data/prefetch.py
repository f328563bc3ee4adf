"""Batches that a GPU makes while it computes the step before."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssltool.data.loader import Batch


def ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """``batches``, whose copies and views are computed on a stream of their own, next to the steps of the caller.

    The caller queues its step before it asks for the next batch, so the kernels of both run at the same time. On other
    devices than CUDA this is ``batches``.
    """
    if device.type != "cuda":
        yield from batches
        return
    side = torch.cuda.Stream(device)

    def following() -> Batch | None:
        with torch.cuda.stream(side):
            return next(batches, None)

    while (batch := following()) is not None:
        main = torch.cuda.current_stream(device)
        main.wait_stream(side)
        for tensor in _tensors(batch):
            tensor.record_stream(main)  # its memory is not reused before the step is done
        yield batch


def _tensors(batch: Batch) -> list[Tensor]:
    support = [] if batch.support is None else _tensors(batch.support)
    boxes = [] if batch.boxes is None else [batch.boxes]
    return [*batch.views, batch.labels, batch.rows, *boxes, *support]
