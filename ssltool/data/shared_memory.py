"""Whether the batches of worker processes fit into shared memory."""

from __future__ import annotations

import functools
import os

from ssltool.training.progress import info

SHARED_MEMORY = "/dev/shm"
"""Where workers place the tensors of a batch."""

PREFETCHED = 2
"""Batches that each worker holds ready."""


def fits_shared_memory(batch_bytes: int, workers: int) -> bool:
    """Whether the batches that workers hold ready fit into shared memory, which is 64 MB in many containers; if it is
    full, workers hang or are killed. stderr says so if they do not."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):  # a system without it
        return True
    free = status.f_bavail * status.f_frsize
    if batch_bytes * (PREFETCHED * workers + 1) <= free:
        return True
    _say_slower(free)
    return False


@functools.cache
def _say_slower(free: int) -> None:
    info(
        f"{SHARED_MEMORY} has only {free / 1e6:,.0f} MB free: decoded images are sent through pipes, which is slower; "
        "enlarge it (docker run --shm-size), or use a smaller -j or --batch-size"
    )
