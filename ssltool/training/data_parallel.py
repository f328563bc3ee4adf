"""Data-parallel training of a network on several ranks: DistributedDataParallel, with batch norm over all of them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssltool.training.distributed import all_reduce_sum_with_gradient, group_shard

KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    # torch before 2.13
    else "broadcast_buffers": False
}
"""The argument of DistributedDataParallel by which buffers are not broadcast before each forward pass."""


def wrap_ddp(model: nn.Module, device: torch.device, *, some_unused: bool = False) -> nn.Module:
    """Wraps ``model`` in DistributedDataParallel, with batch norm synchronised over the ranks. ``some_unused`` is
    whether some trainable parameters get no gradient.

    Buffers are not broadcast: running statistics, queues and centres are computed from the batches of all ranks.
    """
    settings = KEEP_BUFFERS | {"find_unused_parameters": some_unused}
    if group_shard().world == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device.index], **settings)
    return DistributedDataParallel(_sync_batchnorm(model), **settings)


def gradient_exchange(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Context of the forward and backward pass of a part of a batch: the ranks exchange their summed gradients in that
    of the ``last`` part."""
    wrapped = getattr(model, "_orig_mod", model)  # of torch.compile
    return nullcontext() if last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()


def _sync_batchnorm(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.__class__ = _Sync1d if isinstance(module, nn.BatchNorm1d) else _Sync2d
    return model


class _SyncMixin:
    """Batch norm synchronised over the ranks, on any device; torch's SyncBatchNorm supports GPUs only."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[misc]
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        count = x.numel() // x.shape[1] * group_shard().world  # all ranks have equally many rows
        wide = x.float()
        mean = all_reduce_sum_with_gradient(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = all_reduce_sum_with_gradient(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)


class _Sync1d(_SyncMixin, nn.BatchNorm1d):
    pass


class _Sync2d(_SyncMixin, nn.BatchNorm2d):
    pass
