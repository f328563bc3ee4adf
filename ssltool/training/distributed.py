"""Distributed training under torchrun; the only module that imports torch.distributed.

On a single process all collectives are the identity. Collectives used in losses are differentiable. Their gradient is
that of the mean loss over all ranks, as DistributedDataParallel's gradient averaging expects.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from ssltool.data.shard import Shard
from ssltool.errors import AnotherRankFailed, Interrupted, SSLToolError, UsageError, first_line
from ssltool.training.ending import ending, ending_together
from ssltool.training.launch import (
    has_address,
    launch,
    one_process,
    require_address,
    started_by_srun,
    started_by_torchrun,
)
from ssltool.training.peers import Peers, common_name
from ssltool.training.progress import info, is_quiet, quiet, stdout_to_stderr
from ssltool.training.ranks import ALONE, Ranks
from ssltool.training.separate_ranks import ConnectedRanks, SeparateRanks

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])

CPU = torch.device("cpu")


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
    store, peers = _meet()
    with ending(peers, dist.destroy_process_group):
        _connect("cpu:gloo,cuda:nccl" if chosen == "nccl" else chosen, store, peers)
        yield Shard(dist.get_rank(), dist.get_world_size())


@contextmanager
def separate_ranks() -> Iterator[SeparateRanks]:
    """Context manager for ranks that work without collectives; if one fails or is stopped, all end.

    Rank 0 waits until all are done. One process, and ranks without an address where they meet, are on their own.
    """
    if not under_torchrun() or dist.is_initialized() or not has_address():
        yield SeparateRanks()
        return
    store, peers = _meet()
    with ending_together(peers):
        yield ConnectedRanks(peers, store, launch().world)


JOIN_SECONDS = 600.0
"""How long the ranks wait for each other at the start."""

WAIT_HOURS = 24.0
"""How long ranks wait for one that does more than they, such as listing the images. ``Peers`` notices one that died."""


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
    return PrefixStore(name, store), Peers(own, here, address, started_by_torchrun())


def _connect(backend: str, store: PrefixStore, peers: Peers) -> None:
    """Initialises the process group."""
    try:
        here, limit = launch(), timedelta(hours=WAIT_HOURS)
        with stdout_to_stderr():  # Gloo prints there in torch 2.8 and 2.9
            dist.init_process_group(backend, timeout=limit, store=store, rank=here.rank, world_size=here.world)
    except (RuntimeError, ValueError) as error:
        if peers.find():
            raise
        raise SSLToolError(
            f"the {launch().world} ranks met at {require_address()}, but did not connect to each other "
            f"({first_line(error)}); on several machines, set GLOO_SOCKET_IFNAME to the network interface that they "
            f"share, as `ip address` names it (with NCCL also NCCL_SOCKET_IFNAME)"
        ) from error


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
    """Context manager that raises an error on all ranks if one raises ``SSLToolError`` or ``Interrupted``, to avoid
    deadlocks. The ranks exchange a flag on ``device``. The blocks may be nested: the flag of a rank that fails outside
    of an inner block answers those of the ranks inside. What a block raises must leave the outer ones, too.

    Raises:
        SSLToolError: that of the first rank that failed; on the others ``AnotherRankFailed``.
        Interrupted: if the first rank raised it.
    """
    failure: SSLToolError | Interrupted | None = None
    try:
        yield
    except (SSLToolError, Interrupted) as error:
        if error.on_all_ranks:
            raise
        failure = error
    if not dist.is_initialized():
        if failure:
            raise failure
        return
    own = dist.get_world_size() - dist.get_rank()  # the lowest rank that failed has the highest flag
    found = all_reduce_max(_flag_of(failure, own), device)
    if found:
        raised = failure if failure and found >> FAILURE_BITS == own else _failure_of(found)
        raised.on_all_ranks = True
        raise raised


FAILURE_BITS = 9
"""Bits of a flag that say how a rank failed: the number of a signal, and two of an ``SSLToolError``."""


def _flag_of(failure: SSLToolError | Interrupted | None, place: int) -> int:
    if failure is None:
        return 0
    if isinstance(failure, Interrupted):
        return place << FAILURE_BITS | failure.number << 2
    return place << FAILURE_BITS | failure.resumable << 1 | isinstance(failure, UsageError)


def _failure_of(flag: int) -> SSLToolError | Interrupted:
    """What a rank raises because of the flag of another one."""
    number = flag >> 2 & (1 << FAILURE_BITS - 2) - 1
    return Interrupted(number) if number else AnotherRankFailed(code=1 + flag % 2, resumable=flag >> 1 & 1 == 1)


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


def rank_zero_info(text: str) -> None:
    """Prints a line on stderr on rank 0."""
    if is_main():
        info(text)
