"""How one of several ranks ends: the others end, too, and one rank prints why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ssltool.errors import AnotherRankFailed, Interrupted, SSLToolError, UsageError, first_line
from ssltool.training.peers import BEAT, Failure, Peers, described
from ssltool.training.signals import StopRequest, finish_in_spite_of_sigterm


@contextmanager
def ending(peers: Peers, leave: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Context manager that tells the ``peers`` how this rank ends, and calls ``leave`` if it does not fail."""
    stopped: Interrupted | None = None
    try:
        yield
    except Interrupted as interrupted:
        stopped = interrupted
    except (Exception, KeyboardInterrupt) as error:
        finish_in_spite_of_sigterm()
        # The group is not destroyed: other ranks may be waiting in a collective.
        if (ended := _explained(error, peers)) is error:
            raise
        raise ended from error
    peers.close(done=True)
    leave()
    if stopped is not None:
        raise stopped


@contextmanager
def ending_together(peers: Peers) -> Iterator[None]:
    """Context manager for ranks without collectives, as ``distributed.separate_ranks``."""
    peers.listens = True
    with _heard(peers), ending(peers):
        stopped: Interrupted | None = None
        try:
            yield
        except Interrupted as interrupted:
            stopped = interrupted
        if peers.rank == 0:
            _wait_for_others(peers)
            if peers.signal and stopped is None:
                stopped = Interrupted(peers.signal, "the rows of rank 0")
        elif stopped is not None and (failure := peers.find()):  # a launcher stops the ranks that are left
            raise _of_rank(failure, peers)
        if stopped is not None:
            raise stopped


@contextmanager
def _heard(peers: Peers) -> Iterator[None]:
    """Context manager that lets the others read how rank 0 failed, before the store ends with it."""
    try:
        yield
    except (SSLToolError, RuntimeError):
        if peers.rank == 0 and not peers.by_torchrun:
            time.sleep(2 * BEAT)
        raise


def agreed_signal(peers: Peers, number: int) -> int:
    """The number of the signal that any rank got, or 0; ``number`` is that of this rank.

    Raises:
        SSLToolError: if another rank failed or is gone.
    """
    if peers.noticed is not None:
        raise _of_rank(peers.noticed, peers)
    if number and not peers.signal:
        peers.stop(number)
    return number or peers.signal


def _wait_for_others(peers: Peers) -> None:
    with StopRequest() as stop:
        while not peers.are_done():
            if agreed_signal(peers, stop.number):
                peers.doubt()
            time.sleep(0.1)


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
        code = 1 + isinstance(error, UsageError)
        return AnotherRankFailed(code=code) if same and isinstance(error, SSLToolError) else error
    return _of_rank(failure, peers)


def _of_rank(failure: Failure, peers: Peers) -> SSLToolError:
    """The error of this rank after the ``failure`` of another one, of which one rank prints the line."""
    return SSLToolError(described(failure)) if failure.reporter == peers.rank else AnotherRankFailed()
