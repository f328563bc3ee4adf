"""Data-parallel training of a network on several ranks: DistributedDataParallel, with batch norm over all of them."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssltool.training.distributed import all_reduce_sum, gather, group_shard

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
        mean, variance = _statistics(x.detach(), self.eps)
        count = x.numel() // x.shape[1] * group_shard().world  # all ranks have equally many rows
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, variance, self.eps)
        return normalised


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and population variance (C,) of the channels of ``x`` (N, C, ...) over all ranks, by one exchange."""
    wide = x if x.dtype == torch.float64 else x.float()
    _, mean, inverse = torch.native_batch_norm(wide, None, None, None, None, True, 0.0, eps)
    means, variances = gather(torch.stack([mean, inverse.pow(-2) - eps])[None]).unbind(dim=1)
    mean = means.mean(dim=0)
    return mean, variances.mean(dim=0) + (means - mean).square().mean(dim=0)


class _Normalise(torch.autograd.Function):
    """Batch norm of ``x`` by the statistics over all ranks. Their gradient is part of that of ``x``, by one exchange:
    that of a loss which is summed over the ranks."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradients[0], x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        all_reduce_sum(sums)
        inverse = torch.rsqrt(variance + ctx.eps)
        sums = sums / (x.numel() // x.shape[1] * group_shard().world)
        slope, offset = sums * (inverse if weight is None else weight * inverse)
        slope = slope * inverse
        shape = [1, -1] + [1] * (x.dim() - 2)
        of_x = of_x - (x * slope.view(shape) + (offset - slope * mean).view(shape))
        return of_x.to(x.dtype), *((None, None) if weight is None else (of_weight, of_bias)), None, None, None


class _Sync1d(_SyncMixin, nn.BatchNorm1d):
    pass


class _Sync2d(_SyncMixin, nn.BatchNorm2d):
    pass
