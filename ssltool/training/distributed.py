"""Distributed training under torchrun; the only module that imports torch.distributed.

On a single process all collectives are the identity. Collectives used in losses are differentiable. Their gradient is
that of the mean loss over all ranks, as DistributedDataParallel's gradient averaging expects.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssltool.config import DataSettings
from ssltool.data.loader import WorkerKilled
from ssltool.data.shard import Shard
from ssltool.errors import Interrupted, SSLToolError, first_line
from ssltool.training.launch import launch, one_process, require_address, started_by_srun
from ssltool.training.progress import info, is_quiet, quiet
from ssltool.training.ranks import ALONE, Ranks

T = TypeVar("T")

D = TypeVar("D", bound=DataSettings)
F = TypeVar("F", bound=Callable[..., None])

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
    """Context manager that initialises the process group and yields the shard of this rank. A group that the process
    has joined before is used and kept.

    Raises:
        SSLToolError: if the backend does not support the device, or the ranks do not find each other.
    """
    if not under_torchrun() or dist.is_initialized():
        yield group_shard()
        return
    if backend == "nccl" and device.type != "cuda":
        raise SSLToolError(f"--dist-backend nccl requires --device cuda; found {device.type}; use gloo")
    # Flags and counts use gloo on the CPU, so that exchanging them does not synchronise with the device.
    chosen = backend if backend != "auto" else "nccl" if device.type == "cuda" else "gloo"
    _join("cpu:gloo,cuda:nccl" if chosen == "nccl" else chosen)
    stopped: Interrupted | None = None
    try:
        yield Shard(dist.get_rank(), dist.get_world_size())
    except Interrupted as interrupted:
        stopped = interrupted
    # Not after other errors: other ranks may be waiting in a collective, and torchrun terminates them.
    dist.destroy_process_group()
    if stopped is not None:
        raise stopped


def _join(backend: str) -> None:
    """Initialises the process group, which waits until all ranks have started."""
    address, here = require_address(), launch()
    # torchrun's own meeting point is found by the variables; tasks of Slurm meet at the address.
    place: dict[str, Any] = {}
    if started_by_srun():
        place = {"init_method": f"tcp://{address}", "rank": here.rank, "world_size": here.world}
    rank_zero_info(f"waiting for the {here.world} ranks at {address}")
    try:
        dist.init_process_group(backend, **place)
    except (RuntimeError, ValueError) as error:
        raise SSLToolError(
            f"the {here.world} ranks did not find each other at {address} ({first_line(error)}); check that all were "
            f"started, or {one_process()}"
        ) from error


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


def all_reduce_sum(*tensors: Tensor) -> None:
    """Replaces the ``tensors``, of one type and device, by their sums over the ranks, in one exchange; no gradient."""
    if not dist.is_initialized():
        return
    if len(tensors) == 1 and tensors[0].is_contiguous():
        dist.all_reduce(tensors[0].detach())
        return
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(total.view_as(tensor))


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
    """Context manager that raises an ``SSLToolError`` on all ranks if one rank raises it, to avoid deadlocks. The ranks
    exchange a flag on ``device``."""
    failure: SSLToolError | None = None
    try:
        yield
    except SSLToolError as error:
        failure = error
    kinds = (SSLToolError, WorkerKilled)  # after the second, a run keeps what it has
    code = 0 if failure is None else 1 + isinstance(failure, WorkerKilled)
    if code := all_reduce_max(code, device):
        raise failure or kinds[code - 1]("another rank failed; see its error message")


def by_rank_zero(write: F) -> F:
    """Decorator of a function that all ranks call: rank 0 alone runs it, and all of them raise its ``SSLToolError``."""

    @functools.wraps(write)
    def on_ranks(*args: Any, **kwargs: Any) -> None:
        with raise_on_all_ranks():
            if is_main():
                write(*args, **kwargs)

    return on_ranks  # type: ignore[return-value]


def together(batches: Iterator[T]) -> Iterator[T]:
    """``batches``, of which all ranks have equally many; an ``SSLToolError`` of one rank is raised on all."""
    while True:
        with raise_on_all_ranks():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def from_rank_zero(make: Callable[[], T]) -> T:
    """The result of ``make()`` on rank 0, on all ranks; they raise its ``SSLToolError`` too. It must be picklable."""
    found: list[Any] = [None]
    with raise_on_all_ranks():
        if is_main():
            found = [make()]
    if dist.is_initialized():
        dist.broadcast_object_list(found, 0, device=CPU)
    result: T = found[0]
    return result


def open_on_ranks(open_data: Callable[[D], T], settings: D) -> T:
    """``open_data(settings)`` on each rank; an ``SSLToolError`` of one rank is raised on all. With ``--download``
    rank 0 is the first, and the only one that downloads."""
    opened: list[T] = []
    for downloads in (True, False) if settings.download else (None,):
        with raise_on_all_ranks():
            if downloads is None or downloads is is_main():
                opened.append(open_data(dataclasses.replace(settings, download=downloads is True)))
    return opened[0]


@contextmanager
def measuring_ranks() -> Iterator[Ranks]:
    """Context manager for stages that measure: the ranks of ``process_group``, of which only rank 0 prints messages.
    They exchange results on the CPU, whatever their devices are.

    In a program that has initialised a group of its own, each process measures alone.

    Raises:
        SSLToolError: as ``process_group``.
    """
    if not under_torchrun() or dist.is_initialized():
        yield ALONE
        return
    with process_group(CPU, "gloo") as shard, quiet(is_quiet() or shard.rank > 0):
        yield _GroupRanks(shard)


class _GroupRanks(Ranks):
    """The ranks of the process group."""

    def __init__(self, shard: Shard) -> None:
        self.rank, self.world = shard.rank, shard.world

    def same_errors(self) -> AbstractContextManager[None]:
        return raise_on_all_ranks()

    def from_main(self, compute: Callable[[], T]) -> T:
        return from_rank_zero(compute)

    def merged(self, value: T, merge: Callable[[T, T], T]) -> T:
        step = 1
        while step < self.world:  # a binary tree: each rank gives its value to the nearest one below that is left
            if self.rank % (2 * step):
                _send(value, self.rank - step)
                break
            if self.rank + step < self.world:
                value = merge(value, _receive(self.rank + step))
            step *= 2
        return value

    def gathered(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.world
        for rank in range(self.world):
            found = [value]
            dist.broadcast_object_list(found, rank, device=CPU)
            values[rank] = found[0]
        return values


class _Pickler(pickle.Pickler):
    """Pickles tensors of a GPU so that they are on that of the rank that reads them."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return Tensor.to, (value.cpu(), value.device.type)
        return NotImplemented


def _send(value: Any, rank: int) -> None:
    stream = io.BytesIO()
    _Pickler(stream, pickle.HIGHEST_PROTOCOL).dump(value)
    contents = torch.frombuffer(stream.getbuffer(), dtype=torch.uint8)
    dist.send(torch.tensor([len(contents)]), rank)
    dist.send(contents, rank)


def _receive(rank: int) -> Any:
    size = torch.empty(1, dtype=torch.int64)
    dist.recv(size, rank)
    contents = torch.empty(int(size), dtype=torch.uint8)
    dist.recv(contents, rank)
    return pickle.loads(contents.numpy().data)  # of another rank of this program


def wrap_ddp(model: nn.Module, device: torch.device, *, some_unused: bool = False) -> nn.Module:
    """Wraps ``model`` in DistributedDataParallel, with batch norm synchronised over the ranks. ``some_unused`` is
    whether some trainable parameters get no gradient.

    Buffers are not broadcast: running statistics, queues and centres are computed from the batches of all ranks.
    """
    settings = KEEP_BUFFERS | {"find_unused_parameters": some_unused}
    if not dist.is_initialized():
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
