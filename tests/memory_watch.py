"""The memory of a process that is not backed by a file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

STATUS = "/proc/{}/status"

needs_proc = pytest.mark.skipif(not Path(STATUS.format("self")).exists(), reason="needs /proc")


class Watch(threading.Thread):
    """Records the peak of the memory of this process, or of the process ``pid``, in bytes, within a ``with`` block."""

    def __init__(self, pid: int | str = "self") -> None:
        super().__init__(daemon=True)
        self.status = Path(STATUS.format(pid))
        self.most = self.first = self.anonymous()
        self.stopped = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.join()

    def anonymous(self) -> int:
        """The memory now; 0 of a process that has ended."""
        try:
            lines = self.status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)

    def run(self) -> None:
        while not self.stopped.wait(0.002):
            self.most = max(self.most, self.anonymous())
