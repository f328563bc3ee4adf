"""Reads the records of a ``metrics.jsonl`` that grows: each byte once, and the last record without the others.

Nothing is written, and what does not belong there is left out and counted: other programs may write into the file, and
a line may be cut off. A symbolic link, a pipe or a device is not read.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ssltool.config.fields import STATES
from ssltool.settings import Record
from ssltool.stages.watch.decimated import LARGEST, NUMBERS, DecimatedCurves, Stretches

BLOCK = 1 << 18
"""Bytes that are read at once; a longer line is no record."""

TAIL = 1 << 16
"""Bytes at the end of a file in which the last record is looked for first."""

POSITIONS = ("epoch", "step")
"""Keys of the position of a record; epochs count from 0 in records, and from 1 where they are shown."""


class Follower:
    """The records in the file ``path``.

    Attributes:
        curves: the numbers of the records read so far.
        verdicts: since when which verdict holds.
        unit: ``epoch`` or ``step``; empty before the first record.
        count: the records read so far.
        malformed: the lines that are no record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._restart(None)

    def _restart(self, inode: int | None) -> None:
        self._inode, self._offset, self._is_long = inode, 0, False
        self.curves, self.verdicts = DecimatedCurves(), Stretches()
        self.unit = ""
        self.count = self.malformed = 0

    def last(self) -> tuple[Record, Record]:
        """The last complete record of the file, and the last one near it with a verdict; empty if there is none."""
        last: Record = {}
        with contextlib.suppress(OSError), opened(self.path) as (file, status):
            for size in (TAIL, BLOCK):
                start = max(0, status.st_size - size)
                lines = os.pread(file, size, start).split(b"\n")
                for line in reversed(lines[:-1] if start == 0 else lines[1:-1]):
                    record = parsed(line)
                    if record is not None and position(record, unit_of(record)) is not None:
                        last = last or record
                        if "verdict" in record:
                            return last, record
                if start == 0 or last:
                    break
        return last, {}

    def read(self, seconds: float) -> bool:
        """Reads on for about as long, or to the end; whether that is reached. A file that was replaced is read from its
        beginning."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError), opened(self.path) as (file, status):
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._restart(status.st_ino)
            while self._offset < status.st_size:
                if time.monotonic() > deadline:
                    return False
                if not self._take(os.pread(file, BLOCK, self._offset)):  # the last line is not complete yet
                    break
        return True

    def _take(self, block: bytes) -> bool:
        """Adds the complete lines of a block; whether there was one, or a part of one that is too long."""
        end = block.rfind(b"\n") + 1
        if not end:
            if len(block) < BLOCK:
                return False
            self._is_long = True
            self._offset += len(block)
            return True
        lines = block[: end - 1].split(b"\n")
        if self._is_long:  # the rest of a long line
            lines = lines[1:]
            self.malformed += 1
            self._is_long = False
        self._add(_records(lines))
        self._offset += end
        return True

    def _add(self, records: Sequence[Record | None]) -> None:
        self.malformed += sum(record is None for record in records)
        known = [record for record in records if record is not None]
        if not known:
            return
        self.unit = self.unit or unit_of(known[0])
        placed = [(x, record) for record in known if (x := position(record, self.unit)) is not None]
        self.malformed += len(known) - len(placed)
        self.count += len(placed)
        self.curves.extend([x for x, _ in placed], [record for _, record in placed])
        for x, record in placed:
            if "verdict" in record:
                self.verdicts.add(x, verdict_of(record))


def _records(lines: Sequence[bytes]) -> list[Record | None]:
    """The records in lines; parsed together, which is faster, unless one of them is none."""
    lines = [line for line in lines if line and not line.isspace()]
    try:
        found = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        found = []
    if len(found) != len(lines) or not all(isinstance(record, dict) for record in found):
        return [parsed(line) for line in lines]
    return list(found)


def parsed(line: bytes) -> Record | None:
    """The record in a line, None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def unit_of(record: Record) -> str:
    """``epoch``, or ``step`` for a record without one."""
    return POSITIONS["epoch" not in record]


def position(record: Record, unit: str) -> float | None:
    """Where a record is shown: at its epoch from 1, or its step; None if it has none."""
    value = record.get(unit)
    if type(value) is not int or not 0 <= value < 2**53:
        return None
    return value + (unit == "epoch")


def verdict_of(record: Record) -> str | None:
    """The verdict of a record, None if it has none that is known."""
    return value if (value := record.get("verdict")) in STATES else None


def finite_number(value: Any) -> float | None:
    """A finite number, None for anything else."""
    return value if type(value) in NUMBERS and -LARGEST < value < LARGEST else None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file, open to read, and its status.

    Raises:
        OSError: if it is missing, may not be read, or is a link, pipe or device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(path)
        yield descriptor, status
    finally:
        os.close(descriptor)
