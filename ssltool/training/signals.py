"""Stop requests: SIGTERM, SIGINT and SIGUSR1 are recorded, and the training loop saves and stops at its next step."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from ssltool.training.launch import launch
from ssltool.training.progress import info

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

BLOCKED = 20.0
"""Seconds after which one of several ranks ends that has not recorded a signal. Python runs handlers in the main thread
only, and that may wait for a rank that hangs. Launchers kill after 30 s."""


class StopRequest:
    """Context manager that records stop signals. ``number`` is 0, or the number of the latest signal. A SIGINT after
    another signal raises ``KeyboardInterrupt``. Outside the main thread, where Python allows no handlers, signals are
    left alone. One of several ranks ends with 128 + N and one line if it cannot record signal N for ``BLOCKED`` s."""

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None  # what ``set_wakeup_fd`` had before and has

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        if launch().world > 1:
            arrived, write = os.pipe()
            os.set_blocking(write, False)
            self._pipe = signal.set_wakeup_fd(write, warn_on_full_buffer=False), write
            threading.Thread(target=self._end_if_blocked, args=[arrived], name="signals", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._pipe is not None:
            before, write = self._pipe
            signal.set_wakeup_fd(before)
            self._pipe = None
            os.close(write)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def _end_if_blocked(self, arrived: int) -> None:
        """Ends the process if a signal whose number is read from ``arrived`` is not recorded in time."""
        with open(arrived, "rb", buffering=0) as numbers:
            while number := numbers.read(1):
                end = time.monotonic() + BLOCKED
                while number[0] in SIGNALS and self._pipe is not None and not self.number:
                    if time.monotonic() > end:
                        info(
                            f"stopped by signal {number[0]} without saving: rank {launch().rank} waits for another rank"
                        )
                        os._exit(128 + number[0])
                    time.sleep(0.1)


def finish_in_spite_of_sigterm() -> None:
    """Ignores SIGTERM in a process that is about to end with an error. Launchers end all ranks when the first one has
    ended, and the rank that prints why must not be cut off."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
