"""How far a training is within its epoch: a small file in the run folder for those who watch, while it trains."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from ssltool.errors import SSLToolError
from ssltool.files.writing import write_json
from ssltool.training.progress import Progress

NAME = "progress.json"

EVERY = 5.0
"""Seconds between two writes."""


class ProgressFile:
    """The file in ``folder``. ``check`` raises ``SSLToolError`` if the folder is no longer this run's."""

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self.path, self.check = folder / NAME, check
        self._next = time.monotonic() + EVERY

    def write(self, progress: Progress, epoch: int, loss: float | None) -> None:
        """Writes the ``progress`` of an epoch, counted from 0, and its last known loss, if the last time is ``EVERY``
        seconds ago. That it cannot be written is no error: the next checkpoint raises it."""
        if time.monotonic() < self._next:
            return
        record = {"epoch": epoch, "epoch_step": progress.done, "steps": progress.steps, "loss": loss}
        record |= {"images_per_second": round(progress.rate, 1), "seconds_left": round(progress.left, 1)}
        with contextlib.suppress(SSLToolError):
            self.check()
            write_json(self.path, record)
        self._next = time.monotonic() + EVERY

    def remove(self) -> None:
        """Removes the file, if the folder is this run's."""
        with contextlib.suppress(SSLToolError, OSError):
            self.check()
            self.path.unlink(missing_ok=True)
