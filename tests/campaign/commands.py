"""What is broken: tiny stages, run by a fork server, and the comparison of their files."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fork_server
import numpy as np
import torch

from helpers import TINY, same_bits

SAME = (
    *("state_dict", "optimizer", "epoch", "step", "representations", "targets", "index", "weight", "bias"),
    *("distances", "indices"),
)
"""What must be equal in two files; each file has some of them."""

LIMIT = 300.0
"""Seconds that commands may take."""

GRACE = 60.0
"""Seconds that a rank may take to end, once another has failed and SIGTERM was sent."""

DATA = ["{data}", "-j", 0, "--device", "cpu"]
RESUMED = ["--resume", "auto"]
PRETRAIN = ["pretrain", *DATA, *TINY, "--epochs", 3, "--steps-per-epoch", 4, "-b", 16, "--monitor-every", 0]
PRETRAIN += ["--save-steps", 1, *RESUMED]
REPRS = ["{out}/reprs/train_reprs_e0.pt", "{out}/reprs/val_reprs_e0.pt"]


@dataclass(frozen=True)
class Stage:
    """Commands that follow each other as in a job script, each on ``ranks``.

    ``{run}`` is a finished run, ``{out}`` the folder to write into and ``{data}`` that of the images. A process writes
    about so many files that the next ``writes`` can be waited for.
    """

    commands: tuple[list[object], ...]
    ranks: int = 1
    writes: int = 8


def _stage(*command: object, ranks: int = 1, writes: int = 8) -> Stage:
    return Stage(([*command],), ranks, writes)


STAGES = {
    "pretrain": _stage(*PRETRAIN, "-o", "{out}"),
    "pretrain, 2 ranks": _stage(*PRETRAIN, "-o", "{out}", ranks=2),
    "save-reprs": _stage(
        *("save-reprs", *DATA, "--pretrained", "{run}/checkpoint.pt", "-b", 16, "-o", "{out}/reprs.pt"),
        writes=2,
    ),
    "lincls": _stage(
        *("lincls", *DATA, "--pretrained", "{run}/checkpoint.pt"),
        *("--epochs", 4, "-b", 64, *RESUMED, "-o", "{out}"),
        writes=6,
    ),
    "finetune": _stage(
        *("finetune", *DATA, "--pretrained", "{run}/checkpoint.pt"),
        *("--epochs", 3, "-b", 96, *RESUMED, "-o", "{out}"),
        writes=6,
    ),
    "a chain": Stage(
        (
            [*PRETRAIN, "-o", "{out}/run"],
            ["save-reprs", *DATA, "--pretrained", "{out}/run/checkpoint.pt", "--split", "both", "-o", "{out}/reprs"],
            ["knn", *REPRS, "-k", 5, "--device", "cpu", "--neighbours", "{out}/neighbours.pt"],
            ["lincls", "--reprs", *REPRS, "--epochs", 4, "-b", 64, *RESUMED, "--device", "cpu", "-o", "{out}/probe"],
        ),
        writes=16,
    ),
}


def write_images(folder: Path) -> None:
    """Writes 192 train and 64 val images of random pixels and four classes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 192), ("val", 64)):
        np.save(folder / f"{split}.npy", rng.integers(0, 256, (count, 16, 16, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(count) % 4)


class Job:
    """The commands of a stage, which start one after another while someone waits for them.

    ``prepare`` is called with the number of each new process.
    """

    def __init__(
        self,
        server: Path,
        stage: Stage,
        places: dict[str, Path],
        log: Path,
        prepare: Callable[[int], object] = lambda pid: None,
    ) -> None:
        self.server, self.log, self.ranks, self.prepare = server, log, stage.ranks, prepare
        self.waiting = [["ssltool", *(str(part).format(**places) for part in line)] for line in stage.commands]
        self.running: list[fork_server.Command] = []
        self.codes: list[int | None] = []
        self._failed_at = 0.0
        self._start()

    def _start(self) -> None:
        """Starts the next command on all ranks, in the environment that torchrun sets."""
        line = self.waiting.pop(0)
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        everywhere = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": self.ranks}
        everywhere |= {"LOCAL_WORLD_SIZE": self.ranks}
        self.running = []
        with open(self.log, "a") as log, open(os.devnull) as nothing:
            for rank in range(self.ranks):
                variables = everywhere | {"RANK": rank, "LOCAL_RANK": rank} if self.ranks > 1 else {}
                environment = os.environ | {name: str(value) for name, value in variables.items()}
                streams = [nothing.fileno(), log.fileno(), log.fileno()]
                self.running.append(fork_server.Command(str(self.server), line, environment, streams))
                self.prepare(self.running[-1].pid)

    def has_ended(self, seconds: float = 0.0) -> bool:
        """Waits up to ``seconds`` for the end of the last command, or of one that fails.

        As with torchrun, a rank that fails ends the others by SIGTERM. The ``codes`` are then those of the ranks, None
        for one that did not end and was killed.
        """
        end = time.monotonic() + seconds
        while not self.codes:
            codes = [one.wait(0.002) for one in self.running]
            if None not in codes and not any(codes) and self.waiting:
                self._start()
            elif None not in codes:
                self.codes = codes
            elif any(codes):
                self._end_others(codes)
            if time.monotonic() > end:
                return False
        while any(Path(f"/proc/{one.pid}").exists() for one in self.running):  # they may still have files open
            time.sleep(0.002)
        return True

    def _end_others(self, codes: list[int | None]) -> None:
        if not self._failed_at:
            self._failed_at = time.monotonic()
            self.signal(signal.SIGTERM)
        elif time.monotonic() > self._failed_at + GRACE:
            self.signal(signal.SIGKILL)
            self.codes = codes

    def signal(self, number: int, ranks: list[fork_server.Command] | None = None) -> None:
        """Sends a signal to those of the ``ranks``, or of all ranks, that still run."""
        for one in self.running if ranks is None else ranks:
            if one.wait(0.001) is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, number)

    def finish(self) -> str:
        """Waits for the end; what is wrong if a process did not end, else an empty text."""
        if not self.has_ended(LIMIT):
            self.signal(signal.SIGKILL)
            self.codes = [None for _ in self.running]
        return "a process did not end" if None in self.codes else ""


def difference(good: Path, folder: Path) -> str:
    """What differs in the files of two folders; empty if nothing does."""
    names = [{str(path.relative_to(one)) for path in one.rglob("*.pt")} for one in (good, folder)]
    if names[0] != names[1]:
        return f"the files are {sorted(names[1])}, not {sorted(names[0])}"
    for name in sorted(names[0]):
        a, b = (torch.load(one / name, weights_only=True) for one in (good, folder))
        compared = [key for key in SAME if key in a]
        if not compared:
            return f"{name} has only {sorted(a)}"
        for key in compared:
            if not same_bits(a[key], b.get(key)):
                return f"{name}: {key} differs"
    left = [path.name for path in folder.rglob(".*")]
    return f"left over: {left}" if left else ""
