"""How a run is broken, and how often each."""

from __future__ import annotations

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from commands import Job
from disks import Disk, LoopDisk, SlowDisk, SmallDisk

WRITE = 0.02
"""Seconds, at most, from the beginning of a file until the process that writes it is killed."""

Act = Callable[[Job, Disk, Random], object]


def _limit(kind: int, sizes: Callable[[int, Random], int]) -> Act:
    """Limits a resource of the first process to ``sizes(pid, rng)``."""

    def act(job: Job, disk: Disk, rng: Random) -> None:
        pid = job.running[0].pid
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended
            resource.prlimit(pid, kind, (sizes(pid, rng), resource.RLIM_INFINITY))

    return act


def _address_space(pid: int, rng: Random) -> int:
    """The memory of a process in bytes, as RLIMIT_AS counts it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


def _kill(job: Job, disk: Disk, rng: Random) -> None:
    job.signal(signal.SIGKILL)


def _kill_one(job: Job, disk: Disk, rng: Random) -> None:
    job.signal(signal.SIGKILL, [rng.choice(job.running)])


def _fail(job: Job, disk: Disk, rng: Random) -> None:
    disk.fail(rng)


@dataclass(frozen=True)
class Break:
    """What is done to a run. A kill may wait until a file is being written."""

    act: Act
    kills: bool = True
    disk: type[Disk] = Disk


BREAKS = {
    "killed": Break(_kill),
    "one rank killed": Break(_kill_one),
    "the node killed": Break(_kill),
    "writes fail": Break(_limit(resource.RLIMIT_FSIZE, lambda pid, rng: rng.choice([0, 5000, 100_000])), kills=False),
    "no more memory": Break(_limit(resource.RLIMIT_AS, _address_space), kills=False),
    "full disk": Break(_fail, kills=False, disk=SmallDisk),
    "read-only disk": Break(_fail, kills=False, disk=LoopDisk),
    "slow disk, killed": Break(_kill, disk=SlowDisk),
}

KINDS = [
    *[("pretrain", "killed")] * 4,
    *[("a chain", "killed")] * 2,
    *[("pretrain, 2 ranks", "one rank killed"), ("pretrain, 2 ranks", "the node killed")],
    *[("save-reprs", "killed"), ("lincls", "killed"), ("finetune", "killed")],
    *[("pretrain", "writes fail"), ("save-reprs", "writes fail"), ("pretrain", "no more memory")],
    *[("pretrain", "full disk"), ("lincls", "full disk"), ("pretrain", "read-only disk")],
    ("pretrain", "slow disk, killed"),
]
"""The cases of a round, in which they come in a random order."""


def kind(seed: int, number: int) -> tuple[str, str]:
    """The stage and the break of a case."""
    which, place = divmod(number, len(KINDS))
    return Random(f"{seed} round {which}").sample(KINDS, len(KINDS))[place]


def unfinished(folder: Path) -> Iterator[Path]:
    """The files that are being written, or were when their process was killed."""
    return folder.rglob(".*.tmp")


def wait_for_write(job: Job, folder: Path, writes: int, rng: Random) -> None:
    """Waits until one of the next ``writes`` files is being written, then up to ``WRITE`` seconds; or until the job
    ends."""
    left, writing = rng.randint(1, writes), False
    while left and not job.has_ended():
        before, writing = writing, any(unfinished(folder))
        left -= writing and not before
    time.sleep(rng.uniform(0, WRITE))
