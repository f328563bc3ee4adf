"""The other ranks of a run: whether all have started, which one failed and why, and which one is gone.

A rank whose collective fails knows only that a connection was closed. The ranks therefore share a store of keys. A rank
that fails writes why before it ends. One that is killed cannot, so each rank counts up a number every ``BEAT`` seconds,
and the others find the one whose number stands still. If the network to the store is cut, no operation of the store
returns: a second thread finds that.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ssltool.errors import SSLToolError, first_few
from ssltool.training.launch import Launch
from ssltool.training.progress import info

BEAT = 1.0
"""Seconds between signs of life."""

GONE = 4
"""A rank is gone if it gave no sign of life for as many beats, and a collective failed."""

SILENT = 14
"""A rank is gone if it gave no sign of life for as many beats. A process ends by itself as many beats after it saw that
another failed, if its main thread waits for that rank and will not notice."""

DONE = "done"


@dataclass(frozen=True)
class Failure:
    """That ``rank`` failed, ``why``, and the rank that reports it: the first that found it, or the rank itself."""

    rank: int
    why: str
    reporter: int


def common_name(store: Any, rank: int, world: int, seconds: float) -> str:
    """Waits until all ranks have started, and returns a name of this start that is the same on all of them.

    The store may outlive the ranks: after a restart by torchrun it has the keys of the earlier start, among them
    addresses where nobody listens any more. Keys under the name are those of this start. A rank asks with a key that
    nobody else knows, so that an answer of an earlier start is not taken for one of this.

    Args:
        store: a store of torch.distributed, which all ranks share.
        seconds: how long to wait.

    Raises:
        SSLToolError: if a rank has not started by then; it names the rank.
    """
    end = time.monotonic() + seconds
    name, missing = _answer_all(store, world, end) if rank == 0 else _ask(store, rank, world, end)
    if missing:
        raise SSLToolError(f"rank {first_few(missing)} of {world} did not start within {seconds:g} s")
    return name


def _answer_all(store: Any, world: int, end: float) -> tuple[str, list[int]]:
    """Chooses the name. Returns it with the ranks that did not start."""
    name, waiting = secrets.token_hex(8), [*range(1, world)]
    while waiting and time.monotonic() < end:
        for rank in waiting:
            if store.check([f"asks/{rank}"]):
                store.set("answer/" + store.get(f"asks/{rank}").decode(), name)
        waiting = [rank for rank in waiting if not store.check([f"{name}/started/{rank}"])]
        time.sleep(0.05)
    if not waiting:
        store.set(f"{name}/complete", "")
    return name, waiting


def _ask(store: Any, rank: int, world: int, end: float) -> tuple[str, list[int]]:
    """Asks for the name. Returns it with the ranks that did not start."""
    key, name = secrets.token_hex(8), ""
    store.set(f"asks/{rank}", key)
    while time.monotonic() < end:
        if not name and store.check([f"answer/{key}"]):
            name = store.get(f"answer/{key}").decode()
            store.set(f"{name}/started/{rank}", "")
        if name and store.check([f"{name}/complete"]):
            return name, []
        time.sleep(0.05)
    return name, [r for r in range(1, world) if not store.check([f"asks/{r}"])] or [0]


class Peers:
    """Gives signs of life in a thread, and notices failures of other ranks, until ``close``.

    Rank 0 looks after all others, and these after rank 0, so that the work does not grow with the square of the ranks.

    Args:
        store: a store of torch.distributed with a connection of its own, for keys of this start of the ranks only.
        here: the place of this process among the others.
        address: where the store is, for messages.
        by_torchrun: whether torchrun is the parent of this process and holds the store. When it is gone, the process
            gets a SIGTERM. Without torchrun, rank 0 holds the store.
    """

    def __init__(self, store: Any, here: Launch, address: str, by_torchrun: bool) -> None:
        self.store, self.rank, self.by_torchrun = store, here.rank, by_torchrun
        self.store_name = f"the store of the ranks at {address}"
        self.watched: Sequence[int] = range(1, here.world) if here.rank == 0 else [0]
        # Prints what no rank can be chosen for, because the store is gone: one on each machine.
        self.speaks = here.local_rank == 0 or (here.rank == 1 and not by_torchrun)
        self.parent = os.getppid() if by_torchrun else None
        self.noticed: Failure | None = None  # what the thread has found, before it ends the process
        self.listens, self.signal = False, 0  # whether to look for ``stop``, and the number that any rank has given it
        self._numbers: dict[int, tuple[bytes, int]] = {}
        self._lost, self._closed, self._ended = False, threading.Event(), threading.Event()
        self._beats = 0
        self._threads = [
            threading.Thread(target=work, name="peers", daemon=True) for work in (self._watch, self._watch_network)
        ]
        for thread in self._threads:
            thread.start()

    def close(self, *, done: bool) -> None:
        """Ends the threads, as they must before the process ends. A rank that is ``done`` with its part is not
        missed."""
        self._closed.set()
        self._threads[0].join()
        if done and not self._lost:
            self._try("set", f"alive/{self.rank}", DONE)
        self._ended.set()
        self._threads[1].join()

    def report(self, rank: int, why: str) -> Failure:
        """Says that ``rank`` failed, and returns the first failure that a rank reported."""
        mine = Failure(rank, why, self.rank)
        return self._read(self._try("compare_set", "failed", "", json.dumps(vars(mine)))) or mine

    def stop(self, number: int) -> None:
        """Tells all ranks that this one stops after the signal ``number``."""
        self._try("set", "signal", str(number))
        self.signal = number

    def doubt(self) -> None:
        """From now on, a rank is gone after fewer beats without a sign of life."""
        self._try("set", "doubt", "")

    def are_done(self) -> bool:
        """Whether all ranks that this one watches were done when it last looked."""
        return all(self._numbers.get(rank, (b"", 0))[0] == DONE.encode() for rank in self.watched)

    def find(self) -> Failure | None:
        """The failure that made a collective of this rank fail; None if all ranks live."""
        self.doubt()
        end = time.monotonic() + (GONE + 2) * BEAT
        while time.monotonic() < end and not self._lost:
            if failure := self._failed():
                return failure
            time.sleep(BEAT / 10)
        return self._without_store() if self._lost else None

    def _try(self, operation: str, *arguments: Any) -> Any:
        """An operation of the store; None if the store is gone."""
        try:
            return getattr(self.store, operation)(*arguments)
        except RuntimeError:  # also of the types of torch.distributed
            self._lost = True
            return None

    def _without_store(self, why: str = "") -> Failure:
        why = why or f"is gone, and with it {self.store_name}"
        return Failure(0, f"or its torchrun {why}" if self.by_torchrun else why, self.rank if self.speaks else -1)

    def _read(self, text: bytes | None) -> Failure | None:
        return Failure(**json.loads(text)) if text else None

    def _failed(self) -> Failure | None:
        return self._read(self._try("get", "failed")) if self._try("check", ["failed"]) else None

    def _watch(self) -> None:
        seen = 0
        while not self._closed.wait(BEAT):
            self._beats += 1
            if self.parent is not None and os.getppid() != self.parent:
                self._stop_without_parent()
                self.parent = None
            if self._lost:
                self.noticed = self.noticed or self._without_store()
                continue
            self._try("set", f"alive/{self.rank}", str(self._beats))
            if self.listens and self._try("check", ["signal"]):
                self.signal = int(self._try("get", "signal") or 0)
            failure = self.noticed = self._failed() or self._missing()
            seen = seen + 1 if failure else 0
            if failure and seen > SILENT:
                self._end(failure)

    def _watch_network(self) -> None:
        """Ends the process if the other thread waits for the store, and the main thread stays in one call. A run that
        goes on without the store, while torchrun is suspended, is left alone."""
        place: tuple[FrameType | None, int] = (None, 0)
        beats = count = 0
        while not self._ended.wait(BEAT):
            if self._beats != beats:
                beats, count, place = self._beats, 0, (None, 0)
                continue
            frame = sys._current_frames().get(threading.main_thread().ident or 0)
            before, place = place, (frame, frame.f_lasti if frame else 0)
            count = count + 1 if place == before else 0
            if count >= 2 * SILENT:
                why = f"did not answer for {count * BEAT:g} s: it hangs, or the network to {self.store_name} is cut"
                self._end(self._without_store(why))

    def _missing(self) -> Failure | None:
        """Counts the beats since each watched rank gave a sign of life, and reports the first that is gone. A process
        that was suspended itself counts nothing meanwhile."""
        limit = GONE if self._try("check", ["doubt"]) else SILENT
        for rank in self.watched:
            known = self._try("check", [f"alive/{rank}"])
            value = self._try("get", f"alive/{rank}") if known else b""
            if self._lost:
                return None
            before, count = self._numbers.get(rank, (b"", -1))
            count = count + 1 if value == before else 0
            self._numbers[rank] = (value, count)
            if count >= limit and value != DONE.encode():
                return self.report(rank, f"gave no sign of life for {count * BEAT:g} s: it was killed, or hangs")
        return None

    def _stop_without_parent(self) -> None:
        if self.speaks:
            info(f"torchrun (process {self.parent}) is gone: stopping as after SIGTERM")
        os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, failure: Failure) -> None:
        """Ends this process, whose main thread waits in a collective for a rank that failed."""
        if failure.reporter == self.rank:
            info(f"error: {described(failure)}")
        sys.stderr.flush()
        os._exit(1)


def described(failure: Failure) -> str:
    """The message of an error, on the rank that found that another one is gone."""
    again = "what was saved is whole; start the command again, a training with --resume auto"
    return f"rank {failure.rank} {failure.why}; {again}"
