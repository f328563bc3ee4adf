"""Ranks that work without collectives, each on its own rows."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ssltool.errors import Interrupted
from ssltool.training.ending import agreed_signal
from ssltool.training.peers import Peers
from ssltool.training.signals import StopRequest

T = TypeVar("T")

PIECE = 1 << 22
"""Bytes that are sent to the store at once, which refuses more than 8 MiB."""


class SeparateRanks:
    """A rank on its own: one process, or one that does not know where the others are."""

    def agreed(self, number: int) -> int:
        """The number of the signal that any rank got, or 0; ``number`` is that of this rank. Call it often.

        Raises:
            SSLToolError: if another rank failed or is gone.
        """
        return number

    def from_rank_zero(self, make: Callable[[], T]) -> T:
        """The result of ``make()`` on rank 0, on all ranks; of a rank on its own, that of its own call. It must be
        picklable.

        Raises:
            SSLToolError: if ``make`` or another rank fails.
            Interrupted: if a rank is stopped by a signal.
        """
        return make()


class ConnectedRanks(SeparateRanks):
    """One of ``world`` ranks that are connected by ``store``, whose keys are of this start of the ranks only."""

    def __init__(self, peers: Peers, store: Any, world: int) -> None:
        self._peers, self._store, self._world, self._results = peers, store, world, 0

    def agreed(self, number: int) -> int:
        return agreed_signal(self._peers, number)

    def from_rank_zero(self, make: Callable[[], T]) -> T:
        key = f"result/{self._results}"
        self._results += 1
        if self._peers.rank == 0:
            try:
                result = make()
            except Interrupted as stopped:
                self._peers.stop(stopped.number)
                raise
            data = pickle.dumps(result)
            starts = range(0, len(data), PIECE)
            for number, start in enumerate(starts):
                self._store.set(f"{key}/{number}", data[start : start + PIECE])
            self._store.set(key, str(len(starts)))
            return result
        with StopRequest() as stop:
            while not self._store.check([key]):
                if number := self.agreed(stop.number):
                    raise Interrupted(number)
                time.sleep(0.1)
        pieces = [f"{key}/{number}" for number in range(int(self._store.get(key)))]
        received: T = pickle.loads(b"".join(map(self._store.get, pieces)))
        if self._store.add(f"{key}/readers", 1) == self._world - 1:  # the last one: the store holds them in memory
            for piece in pieces:
                self._store.delete_key(piece)
        return received
