"""The launch environment: which of how many processes this is.

torchrun sets these variables, or a batch script does. Without them, the tasks of a step of Slurm are the processes
(``slurm``). Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ssltool.errors import SSLToolError
from ssltool.training import slurm
from ssltool.training.processor import usable_cores

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


def started_by_srun() -> bool:
    """Whether the tasks of a step of Slurm are the processes: srun set variables, and nothing set torchrun's."""
    return not any(name in os.environ for name in PLACE) and bool(slurm.variables(os.environ))


def started_by_torchrun() -> bool:
    """Whether torchrun is the parent of this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def tell_torchrun(error: str) -> None:
    """Writes the error of this rank to the file from which torchrun's summary takes it, if torchrun named one."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        record = {"message": error, "timestamp": int(time.time())}
        with contextlib.suppress(OSError):  # the summary is a convenience; the error itself is printed
            Path(path).write_text(json.dumps(record))


def _variables() -> Mapping[str, str]:
    """The variables by torchrun's names, from torchrun or a script, or else from srun."""
    return slurm.variables(os.environ) if started_by_srun() else os.environ


def launch() -> Launch:
    """Reads RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE and MASTER_PORT, or if none of the first four is set, srun's
    variables. Without any this is one process of one.

    Raises:
        SSLToolError: if a variable is not a number in its range, or they contradict each other.
    """
    world = _number("WORLD_SIZE", 1, low=1, high=MOST_RANKS)
    why = f"{_called('WORLD_SIZE')}={world}" if "WORLD_SIZE" in _variables() else "WORLD_SIZE is not set"
    local_world = most_local = 1
    if world > 1:  # for one process these do not matter: Kubernetes, for one, may set MASTER_PORT to an address
        _require("RANK", world)
        _number("MASTER_PORT", 1, low=1, high=65535)
        local_world = _number("LOCAL_WORLD_SIZE", 1, low=1, high=world, why=why)
        most_local = local_world if "LOCAL_WORLD_SIZE" in _variables() else world
    rank = _number("RANK", 0, low=0, high=world - 1, why=why)
    local_rank = _number("LOCAL_RANK", 0, low=0, high=most_local - 1, why=f"ranks on this machine: {most_local}")
    return Launch(rank, world, local_rank, local_world)


def one_process() -> str:
    """What to do to run one process: the variables to unset, or for tasks of Slurm the variable to set."""
    if started_by_srun():
        return "set WORLD_SIZE=1 to run one process in each task"
    return f"unset {' and '.join(name for name in PLACE if name in os.environ)} to run one process"


def has_address() -> bool:
    """Whether the environment says where the ranks meet."""
    return all(_variables().get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))


def require_address() -> str:
    """``HOST:PORT`` where the ranks meet.

    Raises:
        SSLToolError: if MASTER_ADDR or MASTER_PORT is not set.
    """
    world = launch().world
    return f"{_require('MASTER_ADDR', world)}:{_require('MASTER_PORT', world)}"


def _require(name: str, world: int) -> str:
    value = _variables().get(name)
    if not value:
        found = "is not set" if value is None else "is empty"
        raise SSLToolError(
            f"the environment has {_called('WORLD_SIZE')}={world}, but {_called(name)} {found}; start the processes "
            f"with torchrun or srun, or {one_process()}"
        )
    return value


def _called(name: str) -> str:
    """The variable of the environment that ``name`` was read from."""
    return slurm.SOURCES[name] if started_by_srun() and name not in os.environ else name


def _number(name: str, default: int, *, low: int, high: int, why: str = "") -> int:
    """The variable ``name`` as an integer from ``low`` to ``high``; ``why`` explains the range."""
    text = _variables().get(name)
    if text is None:
        return default
    if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high:
        return int(text)
    expected = str(low) if low == high else f"a number from {low} to {high}"
    reason = f" ({why})" if why else ""
    raise SSLToolError(
        f"the environment has {_called(name)}={text!r}, expected {expected}{reason}; "
        f"{one_process()}, or start the processes with torchrun"
    )


def worker_count(workers: int | None) -> int:
    """Worker processes of this rank: ``workers``, or by default the cores divided by the local ranks, at most 8."""
    if workers is not None:
        return workers
    return max(1, min(8, usable_cores() // launch().local_world))
