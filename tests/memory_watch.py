"""The memory of the process that runs the tests."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

needs_proc = pytest.mark.skipif(not STATUS.exists(), reason=f"needs {STATUS}")


class Watch(threading.Thread):
    """Records the peak of this process's memory that is not backed by a file, in bytes, within a ``with`` block."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = self.first = self.anonymous()
        self.stopped = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.join()

    @staticmethod
    def anonymous() -> int:
        lines = STATUS.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    def run(self) -> None:
        while not self.stopped.wait(0.002):
            self.most = max(self.most, self.anonymous())
