"""The processor: how many cores this process may use, and their features. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
"""Where Linux describes the processor."""

BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Features of x86 processors that multiply bfloat16 numbers, as Linux names them."""


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags(cpuinfo: Path = CPUINFO) -> set[str]:
    """The features of the processor; empty where the system does not list them."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    first = next((line for line in lines if line.startswith(("flags", "Features"))), "")  # one line for each core
    return set(first.partition(":")[2].split())
