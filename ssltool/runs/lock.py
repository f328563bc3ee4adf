"""The lock of a run folder: one process writes a run at a time.

The lock is the file ``.ssltool.lock``, which names its owner. The kernel releases ``flock`` when the owner dies, so on
one machine the lock of a dead process is free at once. File systems may refuse ``flock``, or apply it to one machine
only. Therefore the owner also changes the file's time every ``BEAT`` seconds, and the lock of a process on another
machine is taken over if that has stopped for ``STALE`` seconds. The owner checks before it writes that the lock is
still its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssltool.errors import SSLToolError
from ssltool.files.processes import STALE, lives, place_of_pids, start_of
from ssltool.files.writing import writing
from ssltool.training.progress import info

NAME = ".ssltool.lock"

BEAT = 10.0
"""Seconds between two signs of life of the owner."""

POLL = 1.0
"""Seconds between two looks at the lock of another process."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock: ``start`` is when the kernel started it, ``since`` when it took the lock,
    ``token`` differs between all processes, and ``place`` is where its number holds, such as in a container."""

    host: str
    pid: int
    start: str
    since: str
    token: str
    place: str = ""

    @classmethod
    def this_process(cls) -> Owner:
        """A new owner."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        pid, token = os.getpid(), secrets.token_hex(8)
        return cls(socket.gethostname(), pid, start_of(pid), since, token, place_of_pids())

    @classmethod
    def parse(cls, contents: bytes) -> Owner | None:
        """The owner that a lock file names; None if it names none."""
        try:
            values = json.loads(contents)
            owner = cls(**values)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.host, owner.start, owner.since, owner.token, owner.place)
        valid = all(isinstance(text, str) and text.isprintable() for text in texts) and type(owner.pid) is int
        return owner if valid and 0 < owner.pid < 2**31 else None

    def is_running(self) -> bool | None:
        """Whether the process lives; None if it is on another machine or in another container."""
        if self.host != socket.gethostname() or self.place not in ("", place_of_pids()):
            return None
        return lives(self.pid, self.start)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


@dataclass(frozen=True)
class _Found:
    """A lock that could not be taken: its file, the time of the last sign of life, the owner, if it names one, and
    whether a process holds it with ``flock``; None if the file system does not support that."""

    inode: int
    beat: int
    owner: Owner | None
    held: bool | None


def is_held(folder: Path) -> bool | None:
    """Whether a living process holds the lock of ``folder``: False if its owner is dead, None if there is no lock.
    Nothing is written."""
    try:
        number = os.open(folder / NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        owner, beat = _owner(number), os.fstat(number).st_mtime
    except OSError:  # such as a pipe
        return None
    finally:
        os.close(number)
    running = owner.is_running() if owner else None
    return time.time() - beat < STALE if running is None else running


class RunLock:
    """Context manager that holds the lock of the existing ``folder``.

    Raises:
        SSLToolError: if a living process holds it, or the folder cannot be written.
    """

    def __init__(
        self, folder: Path, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.folder = folder
        self.owner = Owner.this_process()
        self._clock, self._sleep = clock, sleep
        self._ended = threading.Event()

    def __enter__(self) -> RunLock:
        with writing(self.folder / NAME):
            self._folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self._file = self._wait()
            except BaseException:
                os.close(self._folder)
                raise
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()  # before its file is closed
        with contextlib.suppress(OSError):
            if self._is_ours():
                os.unlink(NAME, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)

    def check(self) -> None:
        """Checks that the folder is where it was, and that this process still holds the lock.

        Raises:
            SSLToolError: if not; nothing more may be written then.
        """
        if not self._is_in_place():
            raise SSLToolError(
                f"the run folder {self.folder} was moved, deleted or replaced during the run, which stops here; "
                "continue it with --resume where it is now"
            )
        if not self._is_ours():
            found = self._look()
            taken = f"was taken by {found}" if found else "was removed"
            raise SSLToolError(f"the lock of {self.folder} {taken} during the run, which stops here and writes nothing")

    def is_held(self) -> bool:
        """Whether the folder is where it was, and this process still holds the lock."""
        return self._is_in_place() and self._is_ours()

    def _is_in_place(self) -> bool:
        """Whether the path of the folder still leads to the same folder."""
        try:
            return os.path.samestat(os.stat(self.folder), os.fstat(self._folder))
        except FileNotFoundError:
            return False

    def _is_ours(self) -> bool:
        return self._leads_to(os.fstat(self._file)) and _owner(self._file) == self.owner

    def _look(self) -> Owner | None:
        """The owner that the lock file now names."""
        with contextlib.suppress(OSError):
            number = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder)
            try:
                return _owner(number)
            finally:
                os.close(number)
        return None

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # such as a file system that is away for a moment
                os.utime(self._file)

    def _wait(self) -> int:
        """Takes the lock once no living process holds it, and returns the open file."""
        first, start, said = None, 0.0, False
        while isinstance(found := self._take(), _Found):
            running = found.owner.is_running() if found.owner else None
            if first is None or found.inode != first.inode:
                first, start = found, self._clock()
            if running or found.beat != first.beat:
                raise SSLToolError(
                    f"{self.folder} is in use by {found.owner or 'another process'}; wait until it ends, stop it, or "
                    "choose another folder (--out, --exp-name, --exp-id)"
                )
            waited = self._clock() - start
            if waited >= STALE or (running is False and found.held is None):
                self._remove(found)
                continue
            if waited and not said:
                said = True
                who = found.owner or "another process"
                info(f"{self.folder} was locked by {who}; waiting up to {STALE:.0f} s to see whether it still runs")
            self._sleep(POLL)
        return found

    def _take(self) -> int | _Found:
        """The open file if this process now holds the lock, else what was found."""
        flags, new = os.O_RDWR | os.O_NOFOLLOW, True
        try:
            number = os.open(NAME, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=self._folder)
        except FileExistsError:
            new = False
            try:
                number = os.open(NAME, flags, dir_fd=self._folder)
            except FileNotFoundError:  # its owner removed it
                return self._take()
        try:
            got, status, owner = _flock(number), os.fstat(number), _owner(number)
            if not self._leads_to(status):  # its owner removed it before it was locked here
                os.close(number)
                return self._take()
            free = owner is None or owner.is_running() is False
            if got is not False and (new or (got and free)):
                self._sign(number)
                return number
        except BaseException:
            if new:
                os.unlink(NAME, dir_fd=self._folder)
            os.close(number)
            raise
        os.close(number)
        return _Found(status.st_ino, status.st_mtime_ns, owner, None if got is None else not got)

    def _sign(self, number: int) -> None:
        """Makes this process the owner that the open file names."""
        os.ftruncate(number, 0)
        os.pwrite(number, json.dumps(dataclasses.asdict(self.owner)).encode(), 0)

    def _remove(self, found: _Found) -> None:
        """Removes the lock of a dead owner, unless another process was faster."""
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(NAME, dir_fd=self._folder, follow_symlinks=False)
            if (status.st_ino, status.st_mtime_ns) == (found.inode, found.beat):
                os.unlink(NAME, dir_fd=self._folder)

    def _leads_to(self, status: os.stat_result) -> bool:
        """Whether the lock's name leads to the file with this status."""
        try:
            return os.path.samestat(os.stat(NAME, dir_fd=self._folder, follow_symlinks=False), status)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ESTALE:  # removed by another machine
                return False
            raise


def _owner(number: int) -> Owner | None:
    """The owner that an open lock file names."""
    return Owner.parse(os.pread(number, 4096, 0))


def _flock(number: int) -> bool | None:
    """Whether this process now holds the open file; None if the file system cannot lock it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
