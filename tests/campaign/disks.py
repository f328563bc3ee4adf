"""Where a run is written: a folder, or a file system that fills up, becomes read-only, or is slow.

All but the folder need root on Linux. ``mounted`` raises ``OSError`` where such a file system cannot be made.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

SIZE = 8
"""Size of a small file system in MiB."""

CLONE_NEWNS = 0x20000
"""The flag of Linux's ``unshare`` for mounts."""

RATE = 4_000_000
"""Bytes that a slow disk writes and reads in a second."""


def _run(*command: object, succeeds: int = 0) -> str:
    """The output of a command; raises ``OSError`` with its first error if its exit code is above ``succeeds``."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode > succeeds:
        raise OSError(f"{command[0]}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    return done.stdout.strip()


def hide_mounts() -> None:
    """Gives this process mounts of its own, if it may.

    Another process that copies the mounts would keep a read-only file system in use. The kernel removes them at the
    end, however that comes.
    """
    libc = ctypes.CDLL(None)
    if os.geteuid() == 0 and hasattr(libc, "unshare") and libc.unshare(CLONE_NEWNS) == 0:
        _run("mount", "--make-rprivate", "/")


class Disk:
    """The disk of the folder itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Has the file system in the folder."""
        yield

    def prepare(self, pid: int) -> None:
        """Prepares a new process that writes to it."""

    def fail(self, rng: Random) -> None:
        """From now on, files cannot be written."""
        raise NotImplementedError

    def repair(self) -> None:
        """Ends that, once no process uses the disk."""


class SmallDisk(Disk):
    """A tmpfs, which another file fills up to a random rest."""

    @contextmanager
    def mounted(self) -> Iterator[None]:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "none", self.folder)
        try:
            yield
        finally:
            _run("umount", self.folder)

    def fail(self, rng: Random) -> None:
        state = os.statvfs(self.folder)
        size = state.f_bavail * state.f_frsize - rng.choice([0, 4096, rng.randrange(1_500_000)])
        with open(self.folder / "filler", "wb", 0) as stream, suppress(OSError):  # the run may take the rest
            while size > 0:
                size -= stream.write(bytes(min(size, 65536)))

    def repair(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)


class LoopDisk(Disk):
    """An ext4 in a file, which becomes read-only as after an error of the disk. It is then unmounted, checked and
    mounted again."""

    options = "loop,errors=remount-ro"

    @property
    def image(self) -> Path:
        """The file."""
        return self.folder.with_suffix(".ext4")

    def _mount(self) -> None:
        _run("mount", "-o", self.options, self.image, self.folder)
        self.device = Path(_run("findmnt", "-no", "SOURCE", self.folder))
        self.trigger = Path("/sys/fs/ext4", self.device.name, "trigger_fs_error")

    @contextmanager
    def mounted(self) -> Iterator[None]:
        with open(self.image, "wb") as stream:
            stream.truncate(2 * SIZE << 20)
        _run("mkfs.ext4", "-q", "-F", self.image)
        self._mount()
        try:
            if not self.trigger.exists():
                raise OSError(f"this kernel has no {self.trigger}")
            (self.folder / "lost+found").rmdir()
            yield
        finally:
            _run("umount", self.folder)
            self.image.unlink()

    def fail(self, rng: Random) -> None:
        self.trigger.write_text("broken on purpose")

    def repair(self) -> None:
        _run("umount", self.folder)
        _run("e2fsck", "-p", "-f", self.image, succeeds=1)  # 1: it has repaired something
        self._mount()


class SlowDisk(LoopDisk):
    """An ext4 whose device is slow for the processes in a control group."""

    group = Path("/sys/fs/cgroup/blkio/ssltool-campaign")

    @contextmanager
    def mounted(self) -> Iterator[None]:
        if not self.group.parent.is_dir():
            raise OSError(f"there is no {self.group.parent}, the controller of version 1")
        self.group.mkdir(exist_ok=True)
        try:
            with super().mounted():
                number = os.stat(self.device).st_rdev
                for what in ("read", "write"):
                    limit = f"{os.major(number)}:{os.minor(number)} {RATE}"
                    (self.group / f"blkio.throttle.{what}_bps_device").write_text(limit)
                yield
        finally:
            self.group.rmdir()

    def prepare(self, pid: int) -> None:
        (self.group / "cgroup.procs").write_text(str(pid))
