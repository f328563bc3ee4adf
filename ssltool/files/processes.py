"""Whether the process that wrote something still lives."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path

STALE = 60.0
"""Seconds without a sign of life after which a process on another machine is dead."""


def start_of(pid: int) -> str:
    """When the kernel started a process, in its own units; empty if that is unknown, "ended" for a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "ended" if state == "Z" else fields[18]


def lives(pid: int, start: str = "") -> bool:
    """Whether the process ``pid`` of this machine lives; with a ``start``, the one that was started then."""
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    now = start_of(pid)
    return now != "ended" and start in ("", now) if now else True


@functools.cache
def place_of_pids() -> str:
    """Eight hexadecimal digits that are equal where a process has the same number: on this machine, and if it has
    several spaces of numbers, as for containers, in that of this process."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]
