"""Distributed training under torchrun; the only module that imports torch.distributed.

On a single process all collectives are the identity. Collectives used in losses are differentiable. Their gradient is
that of the mean loss over all ranks, as DistributedDataParallel's gradient averaging expects.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ssltool.data.loader import Shard
from ssltool.errors import AnotherRankFailed, Interrupted, SSLToolError, UsageError, first_line
from ssltool.training.launch import launch, one_process, require_address, started_by_srun, started_by_torchrun
from ssltool.training.peers import Peers, common_name, described
from ssltool.training.progress import info
from ssltool.training.signals import finish_in_spite_of_sigterm

CPU = torch.device("cpu")

KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    # torch before 2.13
    else "broadcast_buffers": False
}
"""The argument of DistributedDataParallel by which buffers are not broadcast before each forward pass."""


def shard_from_env() -> Shard:
    """Rank and world size from the launch environment; requires no process group."""
    return Shard(launch().rank, launch().world)


def under_torchrun() -> bool:
    """Whether this process was started as one of several ranks."""
    return launch().world > 1


def local_rank() -> int:
    """The rank of this process on its machine, which is also its GPU index."""
    return launch().local_rank


@contextmanager
def process_group(device: torch.device, backend: str) -> Iterator[Shard]:
    """Context manager that initialises the process group and yields the shard of this rank.

    Raises:
        SSLToolError: if the backend does not support the device, or the ranks do not find each other.
    """
    if not under_torchrun():
        yield Shard()
        return
    if backend == "nccl" and device.type != "cuda":
        raise SSLToolError(f"--dist-backend nccl requires --device cuda; found {device.type}; use gloo")
    # Flags and counts use gloo on the CPU, so that exchanging them does not synchronise with the device.
    chosen = backend if backend != "auto" else "nccl" if device.type == "cuda" else "gloo"
    store, peers = _meet()
    stopped: Interrupted | None = None
    try:
        _connect("cpu:gloo,cuda:nccl" if chosen == "nccl" else chosen, store, peers)
        yield Shard(dist.get_rank(), dist.get_world_size())
    except Interrupted as interrupted:
        stopped = interrupted
    except (Exception, KeyboardInterrupt) as error:
        finish_in_spite_of_sigterm()
        # The group is not destroyed: other ranks may be waiting in a collective.
        if (ended := _explained(error, peers)) is error:
            raise
        raise ended from error
    peers.close(done=True)
    dist.destroy_process_group()
    if stopped is not None:
        raise stopped


def _explained(error: BaseException, peers: Peers) -> BaseException:
    """The error that this rank ends with: of several ranks that end for one reason, one prints it."""
    if isinstance(error, AnotherRankFailed):
        peers.find()  # a launcher ends all ranks with the first: let the one that prints prepare for that
        peers.close(done=False)
        return error
    failure = None
    if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
        failure = peers.find()  # a collective fails with an error of this type if another rank is gone
    own = failure is None
    failure = failure or peers.report(peers.rank, first_line(error))
    peers.close(done=False)
    if own:
        same = failure.rank != peers.rank and failure.why == first_line(error)
        return AnotherRankFailed() if same and isinstance(error, SSLToolError) else error
    return SSLToolError(described(failure)) if failure.reporter == peers.rank else AnotherRankFailed()


JOIN_SECONDS = 600.0
"""How long the ranks wait for each other at the start."""


def _meet() -> tuple[PrefixStore, Peers]:
    """Waits until all ranks have started, and returns a store for this start of them."""
    address, here = require_address(), launch()
    rank_zero_info(f"waiting for the {here.world} ranks at {address}")
    try:
        store = _store(address)
        name = common_name(store, here.rank, here.world, JOIN_SECONDS)
        own = PrefixStore(f"{name}/peers", _store(address))
    except (RuntimeError, ValueError, SSLToolError) as error:
        raise _apart(error) from error
    own.set_timeout(timedelta(seconds=10))
    return PrefixStore(name, store), Peers(own, here, address, started_by_torchrun())


def _connect(backend: str, store: PrefixStore, peers: Peers) -> None:
    """Initialises the process group."""
    try:
        dist.init_process_group(backend, store=store, rank=launch().rank, world_size=launch().world)
    except (RuntimeError, ValueError) as error:
        if peers.find():
            raise
        raise _apart(error) from error


def _apart(error: Exception) -> SSLToolError:
    return SSLToolError(
        f"the {launch().world} ranks did not find each other at {require_address()} ({first_line(error)}); check that "
        f"all were started, or {one_process()}"
    )


def _store(address: str) -> Any:
    """A new connection to the store of the ranks. torchrun hosts it, or else rank 0."""
    here = launch()
    url = f"tcp://{address}" if started_by_srun() else "env://"
    return next(rendezvous(url, here.rank, here.world, timeout=timedelta(seconds=JOIN_SECONDS)))[0]


def is_main() -> bool:
    """Whether this is rank 0, which prints and writes files; requires no process group."""
    return launch().rank == 0


def all_reduce_mean(values: Tensor) -> Tensor:
    """Element-wise mean over the ranks, float64 on the CPU; no gradient."""
    values = values.detach().cpu().double()
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def group_shard() -> Shard:
    """Rank and world size of the process group, also of one that another program initialised."""
    return Shard(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Shard()


def all_reduce_max(value: int, device: torch.device = CPU) -> int:
    """The maximum of ``value`` over the ranks, exchanged on ``device``."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def gather(rows: Tensor) -> Tensor:
    """Concatenates the ``rows`` (N, ...) of all W ranks to (W N, ...); differentiable.

    A loss of gathered rows has the same value on all ranks. Its averaged gradient equals that of a single process with
    the whole batch.
    """
    if not dist.is_initialized():
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


def local_rows(rows: Tensor) -> Tensor:
    """The part of gathered ``rows`` that belongs to this rank."""
    return rows.chunk(dist.get_world_size())[dist.get_rank()] if dist.is_initialized() else rows


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _sum(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum(gradients[0])  # the loss of every rank depends on the sum


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The loss of every rank depends on these rows, so the gradients are summed.
        return _sum(gradients[0]).chunk(dist.get_world_size())[dist.get_rank()]


def _sum(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)  # autograd may reuse the given tensor
    dist.all_reduce(total)
    return total


def broadcast(tensor: Tensor) -> Tensor:
    """Broadcasts ``tensor`` from rank 0, in place. For results that may differ between ranks by rounding."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)
    return tensor


@contextmanager
def raise_on_all_ranks(device: torch.device = CPU) -> Iterator[None]:
    """Context manager that raises an error on all ranks if one rank raises an ``SSLToolError``, to avoid deadlocks. The
    ranks exchange a flag on ``device``.

    Raises:
        SSLToolError: that of the first rank that failed; on the others ``AnotherRankFailed``.
    """
    failure: SSLToolError | None = None
    try:
        yield
    except SSLToolError as error:
        failure = error
    if not dist.is_initialized():
        if failure:
            raise failure
        return
    rank, world = dist.get_rank(), dist.get_world_size()
    wrong_usage = isinstance(failure, UsageError)
    found = all_reduce_max(0 if failure is None else 2 * (world - rank) + wrong_usage, device)
    if found:
        first, code = world - found // 2, 1 + found % 2
        raise failure if failure and first == rank else AnotherRankFailed(code=code)


def wrap_ddp(model: nn.Module, device: torch.device) -> nn.Module:
    """Wraps ``model`` in DistributedDataParallel, with batch norm synchronised over the ranks.

    Buffers are not broadcast: running statistics, queues and centres are computed from the batches of all ranks.
    """
    if not dist.is_initialized():
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[device.index], **KEEP_BUFFERS)
    return DistributedDataParallel(_sync_batchnorm(model), **KEEP_BUFFERS)


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
        count = x.numel() // x.shape[1] * dist.get_world_size()  # all ranks have equally many rows
        wide = x.float()
        mean = _Sum.apply(wide.sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
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


def rank_zero_info(text: str) -> None:
    """Prints a line on stderr on rank 0."""
    if is_main():
        info(text)
