"""The processes that measure something together: which part is whose, and how their results become one.

``Ranks`` is one process alone. ``distributed.measuring_ranks`` gives those of a process group, so that the modules that
measure need no ``torch.distributed``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from ssltool.data.shard import Shard

T = TypeVar("T")


class Ranks:
    """The ranks of a measurement. Every rank must make the same calls in the same order."""

    rank = 0
    world = 1

    def span(self, count: int) -> range:
        """The numbers below ``count`` that this rank handles, as ``Shard.span``."""
        return Shard(self.rank, self.world).span(count)

    def same_errors(self) -> AbstractContextManager[None]:
        """Context manager in which an ``SSLToolError`` of one rank is raised on all. No rank waits for another one
        inside, except in ``from_main``."""
        return nullcontext()

    def from_main(self, compute: Callable[[], T]) -> T:
        """What ``compute`` returns on rank 0, the only one that calls it, on all ranks; an ``SSLToolError`` is raised
        on all."""
        return compute()

    def merged(self, value: T, merge: Callable[[T, T], T]) -> T:
        """The values of all ranks, merged in pairs, in the order of the ranks. Only that of rank 0 is complete: use it
        in ``from_main``. A rank holds two values at most."""
        return value

    def gathered(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        return [value]


ALONE = Ranks()
