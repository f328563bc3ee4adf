"""The launch environment: which of how many processes this is.

torchrun sets these variables, or a batch script does; the variables of a batch system itself (``SLURM_*``) do not
count. Only the standard library is imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ssltool.errors import SSLToolError

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""The variables that place this process among others; without them it is one process of one."""

MOST_RANKS = 100_000
"""The largest number of ranks; a larger one is a mistake, and would only make the first exchange wait."""


@dataclass(frozen=True)
class Launch:
    """The ``rank`` of this process among ``world`` processes, its ``local_rank`` on this machine, which is also the
    index of its GPU, and the number of processes on this machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def launch() -> Launch:
    """Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and MASTER_PORT. Without them this is one process of one.

    Raises:
        SSLToolError: if a variable is not a number in its range, or they contradict each other.
    """
    world = _number("WORLD_SIZE", 1, low=1, high=MOST_RANKS)
    why = f"WORLD_SIZE={world}" if "WORLD_SIZE" in os.environ else "WORLD_SIZE is not set"
    local_world = most_local = 1
    if world > 1:  # for one process these do not matter: Kubernetes, for one, may set MASTER_PORT to an address
        _require("RANK", world)
        _number("MASTER_PORT", 1, low=1, high=65535)
        local_world = _number("LOCAL_WORLD_SIZE", 1, low=1, high=world, why=why)
        most_local = local_world if "LOCAL_WORLD_SIZE" in os.environ else world
    rank = _number("RANK", 0, low=0, high=world - 1, why=why)
    local_rank = _number("LOCAL_RANK", 0, low=0, high=most_local - 1, why=f"ranks on this machine: {most_local}")
    return Launch(rank, world, local_rank, local_world)


def one_process() -> str:
    """What to do to run one process: the variables to unset."""
    return f"unset {' and '.join(name for name in PLACE if name in os.environ)} to run one process"


def require_address() -> str:
    """``HOST:PORT`` where the ranks meet.

    Raises:
        SSLToolError: if MASTER_ADDR or MASTER_PORT is not set.
    """
    world = launch().world
    return f"{_require('MASTER_ADDR', world)}:{_require('MASTER_PORT', world)}"


def _require(name: str, world: int) -> str:
    value = os.environ.get(name)
    if not value:
        found = "is not set" if value is None else "is empty"
        raise SSLToolError(
            f"the environment has WORLD_SIZE={world}, but {name} {found}; start the processes with torchrun, or "
            f"{one_process()}"
        )
    return value


def _number(name: str, default: int, *, low: int, high: int, why: str = "") -> int:
    """The variable ``name`` as an integer from ``low`` to ``high``; ``why`` explains the range."""
    text = os.environ.get(name)
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high:
        return int(text)
    expected = str(low) if low == high else f"a number from {low} to {high}"
    reason = f" ({why})" if why else ""
    raise SSLToolError(
        f"the environment has {name}={text!r}, expected {expected}{reason}; "
        f"{one_process()}, or start the processes with torchrun"
    )


def worker_count(workers: int | None) -> int:
    """Worker processes of this rank: ``workers``, or by default the cores divided by the local ranks, at most 8."""
    if workers is not None:
        return workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // launch().local_world))
