"""``python tests/campaign --kills 200 --seed 0``: breaks runs at random moments and goes on with the same command.

A case is a run in a folder of its own. It is broken once to three times: killed (SIGKILL, half of the times while a
file is being written), or every write fails from some moment on, as on a full disk, or no more memory is given. Then
its command is repeated until it finishes, and its files are compared, bit for bit, with those of a run that was never
broken. A break is lost if a command fails afterwards or a bit differs. Each case is a function of the seed and its
number; ``--case N`` repeats one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import fork_server  # noqa: E402
import torch  # noqa: E402

from helpers import TINY, same_bits  # noqa: E402

SAME = ("state_dict", "optimizer", "epoch", "step", "representations", "targets", "index", "weight", "bias")
"""What must be equal in two files."""

PRETRAIN = ["pretrain", *TINY, "--epochs", 3, "--steps-per-epoch", 4, "-b", 16, "--monitor-every", 0, "--save-steps", 1]
CPU = ["-j", 0, "--device", "cpu"]
LIMIT = 300.0
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Stage:
    """A command, which writes into its last argument, on some ranks. ``{run}`` is the folder of a finished run."""

    command: list[object]
    ranks: int = 1
    file: str = ""

    def line(self, good: Path, folder: Path) -> list[str]:
        """The command line that writes into ``folder``."""
        return [str(part).format(run=good) for part in self.command] + ["-o", str(folder / self.file)]


RESUMED = ["--resume", "auto"]
STAGES = {
    "pretrain": Stage([*PRETRAIN, *CPU, *RESUMED]),
    "pretrain, 2 ranks": Stage([*PRETRAIN, *CPU, *RESUMED], ranks=2),
    "save-reprs": Stage(["save-reprs", "--pretrained", "{run}/checkpoint.pt", *CPU, "-b", 64], file="reprs.pt"),
    "lincls": Stage(["lincls", "--pretrained", "{run}/checkpoint.pt", *CPU, "--epochs", 2, "-b", 512, *RESUMED]),
    "finetune": Stage(["finetune", "--pretrained", "{run}/checkpoint.pt", *CPU, "--epochs", 1, "-b", 2000, *RESUMED]),
}
CASES = [
    *[("pretrain", "killed")] * 6,
    *[("pretrain, 2 ranks", "one rank killed"), ("pretrain, 2 ranks", "all ranks killed")],
    *[("pretrain", "every write fails"), ("pretrain", "no more memory")],
    *[("save-reprs", "killed"), ("lincls", "killed"), ("finetune", "killed")],
]
"""The kinds of cases, each as often as it is drawn."""


class Campaign:
    """Runs commands in forks of one process that has imported ``ssltool``."""

    def __init__(self, server: Path, work: Path) -> None:
        self.server, self.work = server, work
        self.seconds: dict[str, float] = {}
        self.good = work / "good" / "pretrain"

    def prepare(self, name: str) -> None:
        """Makes the unbroken run of a stage, and times it."""
        if name in self.seconds:
            return
        if name != "pretrain":
            self.prepare("pretrain")
        folder, start = self.work / "good" / name, time.monotonic()
        folder.mkdir(parents=True)
        codes = self.finish(self.start(STAGES[name], folder))
        if any(codes):
            raise SystemExit(f"the unbroken run of {name} failed:\n{(folder / 'log').read_text()}")
        self.seconds[name] = time.monotonic() - start
        print(f"unbroken {name}: {self.seconds[name]:.1f} s", flush=True)

    def start(self, stage: Stage, folder: Path) -> list[fork_server.Command]:
        """Starts the command of ``stage`` in ``folder``, on all its ranks."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        everywhere = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": stage.ranks, "LOCAL_WORLD_SIZE": 1}
        started = []
        with open(folder / "log", "a") as log, open(os.devnull) as nothing:
            for rank in range(stage.ranks):  # each on a node of its own
                variables = everywhere | {"RANK": rank, "LOCAL_RANK": 0} if stage.ranks > 1 else {}
                environment = os.environ | {name: str(value) for name, value in variables.items()}
                line = ["ssltool", *stage.line(self.good, folder)]
                streams = [nothing.fileno(), log.fileno(), log.fileno()]
                started.append(fork_server.Command(str(self.server), line, environment, streams))
        return started

    def finish(self, started: list[fork_server.Command]) -> list[int | None]:
        """Waits for all ranks, and gives their exit codes. As with torchrun, one that fails ends the others."""
        end = time.monotonic() + LIMIT
        while None in (codes := [one.wait(0.02) for one in started]):
            if any(codes) or time.monotonic() > end:
                for one in started:
                    kill(one)
        return codes

    def case(self, seed: int, number: int) -> Case:
        """Runs a case in a new folder."""
        rng = Random(f"{seed} {number}")
        name, how = rng.choice(CASES)
        self.prepare(name)
        stage, folder = STAGES[name], self.work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case = Case(name, how, number)
        for _ in range(rng.randint(1, 3)):
            started = self.start(stage, folder)
            time.sleep(rng.uniform(0, 1.2 * self.seconds[name]))
            if rng.random() < 0.7 and "killed" in how:
                wait_for_write(folder, started)
            if started[0].wait(0.001) is None:
                BREAKS[how](started, rng)
                case.tried += 1
            self.finish(started)
            case.writing += how.endswith("killed") and any(unfinished(folder))
        codes = self.finish(self.start(stage, folder))
        if any(codes):
            case.loss = f"the command failed: {(folder / 'log').read_text().splitlines()[-1]}"
        else:
            case.loss = difference(self.work / "good" / name, folder)
        return case


@dataclass
class Case:
    """What became of a case: how often it was broken, how often a file was being written, and what was lost."""

    name: str
    how: str
    number: int
    tried: int = 0
    writing: int = 0
    loss: str = ""


def unfinished(folder: Path) -> Iterator[Path]:
    """The files that are being written, or were when their process was killed."""
    return (path for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith((".tmp", "finished")))


def wait_for_write(folder: Path, started: list[fork_server.Command]) -> None:
    """Waits until a file is being written, or the command ends."""
    while started[0].wait(0.0001) is None and not any(unfinished(folder)):
        pass


def kill(one: fork_server.Command) -> None:
    """Kills a process that still runs."""
    if one.wait(0.001) is None:
        os.kill(one.pid, signal.SIGKILL)


def limit(kind: int, size: Callable[[int], int]) -> Callable[[list[fork_server.Command], Random], None]:
    """Limits a resource of the running process to ``size(pid)``."""

    def set_limit(started: list[fork_server.Command], rng: Random) -> None:
        pid = started[0].pid
        resource.prlimit(pid, kind, (size(pid), resource.RLIM_INFINITY))

    return set_limit


def address_space(pid: int) -> int:
    """The memory of a process in bytes, as RLIMIT_AS counts it."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


BREAKS: dict[str, Callable[[list[fork_server.Command], Random], object]] = {
    "killed": lambda started, rng: kill(started[0]),
    "one rank killed": lambda started, rng: kill(rng.choice(started)),
    "all ranks killed": lambda started, rng: [kill(one) for one in started],
    "every write fails": limit(resource.RLIMIT_FSIZE, lambda pid: 5000),
    "no more memory": limit(resource.RLIMIT_AS, address_space),
}


def difference(good: Path, folder: Path) -> str:
    """What differs in the files of two runs; empty if nothing does."""
    names = [{path.name for path in one.iterdir() if path.suffix == ".pt"} for one in (good, folder)]
    if names[0] != names[1]:
        return f"the files are {sorted(names[1])}, not {sorted(names[0])}"
    for name in sorted(names[0]):
        a, b = (torch.load(one / name, weights_only=True) for one in (good, folder))
        for key in SAME:
            if not same_bits(a.get(key), b.get(key)):
                return f"{name}: {key} differs"
    left = [path.name for path in unfinished(folder)]
    return f"left over: {left}" if left else ""


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """The socket of a fork server."""
    path, environment = folder / "socket", os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, fork_server.__file__, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield path
        finally:
            process.kill()


def show(cases: list[Case]) -> None:
    """Prints the table."""
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        row = rows.setdefault(f"{case.name}: {case.how}", Counter())
        lost = case.tried if case.loss else 0
        row.update(tried=case.tried, writing=case.writing, survived=case.tried - lost, lost=lost)
    total = sum(rows.values(), Counter())
    print("\n| what was broken, and how | tried | of these while a file was written | survived | lost |")
    print("|---|---:|---:|---:|---:|")
    for name, row in [*sorted(rows.items()), ("**all**", total)]:
        print(f"| {name} | {row['tried']} | {row['writing']} | {row['survived']} | {row['lost']} |")


def main() -> int:
    """Runs the campaign; 1 if something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only this case")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    args = parser.parse_args()
    cases: list[Case] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as work, serving(Path(work)) as server:
        campaign = Campaign(server, Path(work))
        number = args.case or 0
        while sum(case.tried for case in cases) < args.kills and time.monotonic() < start + 60 * args.minutes:
            cases.append(case := campaign.case(args.seed, number))
            if case.loss:
                print(f"lost: {case.name}, {case.how} (--seed {args.seed} --case {number}): {case.loss}", flush=True)
            if args.case is not None:
                break
            number += 1
    show(cases)
    print(f"\n{len(cases)} runs, {(time.monotonic() - start) / 60:.0f} minutes")
    return int(any(case.loss for case in cases))


if __name__ == "__main__":
    sys.exit(main())
