"""The memory allocator of training on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt`` in glibc's ``malloc.h``."""

LARGE = 2**30
"""Bytes below which memory is reused."""


def reuse_freed_memory() -> None:
    """Lets the process keep the memory of freed tensors for the next ones, on Linux with glibc.

    By default glibc returns large blocks to the system and gets new pages from it, which it fills with zeros, in every
    step: about a tenth of a step on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
