"""``python tests/campaign --kills 200 --seed 0``: breaks runs at random moments and goes on with the same command.

A case is a run in a folder of its own. It is broken up to five times (``breaks.py``), and more than half of the kills
wait until a file is being written. Then its command is repeated until it finishes, and its files are compared, bit for
bit, with those of a run that was never broken. A break counts if the command fails by it. It is lost if a process then
hangs, if the command fails once the cause is gone, or if a bit differs. The plan of a case is a
function of the seed and its number, its moments depend on the machine; ``--case N`` repeats one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fork_server  # noqa: E402
from breaks import BREAKS, KINDS, kind, unfinished, wait_for_write  # noqa: E402
from commands import STAGES, Job, difference, write_images  # noqa: E402
from disks import Disk, hide_mounts  # noqa: E402

STAGE_MODULES = ("cli", *(f"stages.{name}" for name in ("pretrain", "save_reprs", "knn", "lincls", "finetune")))
"""What the commands import, but for small modules."""

WRITING = 0.65
"""Share of the kills that wait until a file is being written."""


@dataclass
class Case:
    """What became of a case: how often it was broken, how often a file was being written, how many tracebacks were
    printed, and what was lost."""

    name: str
    how: str
    number: int
    tried: int = 0
    writing: int = 0
    tracebacks: int = 0
    loss: str = ""


class NoDisk(Exception):
    """This machine cannot make a disk; why."""


class Campaign:
    """Runs commands in forks of one process that has imported ``ssltool``."""

    def __init__(self, server: Path, work: Path) -> None:
        self.server, self.work = server, work
        self.seconds: dict[str, float] = {}
        write_images(work / "data")

    def start(self, name: str, folder: Path, log: Path, disk: Disk) -> Job:
        """Starts a stage, which writes into ``folder``."""
        places = {"run": self.work / "good" / "pretrain", "data": self.work / "data", "out": folder}
        return Job(self.server, STAGES[name], places, log, disk.prepare)

    def prepare(self, name: str) -> None:
        """Makes the unbroken run of a stage, and times it."""
        if name in self.seconds:
            return
        if name != "pretrain":
            self.prepare("pretrain")
        folder, log, start = self.work / "good" / name, self.work / f"{name}.log", time.monotonic()
        folder.mkdir(parents=True)
        job = self.start(name, folder, log, Disk(folder))
        if job.finish() or any(job.codes):
            raise SystemExit(f"the unbroken run of {name} failed:\n{log.read_text()}")
        self.seconds[name] = time.monotonic() - start
        print(f"unbroken {name}: {self.seconds[name]:.1f} s", flush=True)

    def case(self, seed: int, number: int) -> Case:
        """Runs a case in a new folder.

        Raises:
            NoDisk: if this machine cannot make the disk that it needs.
        """
        rng, case = Random(f"{seed} {number}"), Case(*kind(seed, number), number)
        self.prepare(case.name)
        folder = self.work / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self.log = self.work / "case.log"
        self.log.unlink(missing_ok=True)
        disk = BREAKS[case.how].disk(folder)
        with ExitStack() as stack:
            try:
                stack.enter_context(disk.mounted())
            except OSError as error:
                raise NoDisk(str(error)) from error
            for _ in range(rng.randint(2, 5)):
                case.loss = case.loss or self.broken(case, folder, disk, rng)
            case.loss = case.loss or self.unbroken(case, folder, disk)
        return case

    def broken(self, case: Case, folder: Path, disk: Disk, rng: Random) -> str:
        """Starts the commands of a case and breaks them; what was lost."""
        how, start, earlier = BREAKS[case.how], time.monotonic(), {*unfinished(folder)}
        job = self.start(case.name, folder, self.log, disk)
        if how.kills and rng.random() < WRITING:
            wait_for_write(job, folder, STAGES[case.name].writes, rng)
        else:
            job.has_ended(rng.uniform(0, 0.8 * self.seconds[case.name]))
        if job.codes:
            self.seconds[case.name] = min(self.seconds[case.name], time.monotonic() - start)  # the load has changed
            return f"the command failed: {self.last_line()}" if any(job.codes) else ""
        how.act(job, disk, rng)
        hangs = job.finish()
        case.tried += any(job.codes)
        case.writing += how.kills and any(job.codes) and not earlier.issuperset(unfinished(folder))
        disk.repair()
        case.tracebacks = self.log.read_text().count("Traceback (")
        return hangs

    def unbroken(self, case: Case, folder: Path, disk: Disk) -> str:
        """Lets the commands of a case finish; what was lost."""
        job = self.start(case.name, folder, self.log, disk)
        hangs = job.finish()
        if hangs or any(job.codes):
            return hangs or f"the command failed: {self.last_line()}"
        return difference(self.work / "good" / case.name, folder)

    def last_line(self) -> str:
        """The last line that the case has printed."""
        return (self.log.read_text().splitlines() or ["nothing was printed"])[-1]


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """The socket of a process that runs commands in its forks. It is a fork of this one, which has imported torch."""
    for name in STAGE_MODULES:
        importlib.import_module(f"ssltool.{name}")
    path = folder / "socket"
    with fork_server.listening(str(path)) as server:
        pid = os.fork()
        if pid == 0:
            fork_server.answer(server)
    try:
        yield path
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


COLUMNS = ("tried", "writing", "survived", "lost", "tracebacks")


def show(cases: list[Case], skipped: dict[str, str]) -> None:
    """Prints the table."""
    rows: dict[str, Counter[str]] = {}
    for case in cases:
        row = rows.setdefault(f"{case.name}: {case.how}", Counter())
        lost = max(case.tried, 1) if case.loss else 0
        survived = max(case.tried - lost, 0)
        row.update(tried=case.tried, writing=case.writing, survived=survived, lost=lost, tracebacks=case.tracebacks)
    total = sum(rows.values(), Counter())
    print("\n| what was broken, and how | tried | killed while a file was written | survived | lost | tracebacks |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in [*sorted(rows.items()), ("**all**", total)]:
        print(f"| {name} | " + " | ".join(str(row[column]) for column in COLUMNS) + " |")
    for name, why in skipped.items():
        print(f"skipped: {name}: {why}")


def main() -> int:
    """Runs the campaign; 1 if something was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="breaks, after which it ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run only this case")
    parser.add_argument("--only", choices=sorted(BREAKS), help="run only cases of this break")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    args = parser.parse_args()
    cases: list[Case] = []
    skipped: dict[str, str] = {}
    start = time.monotonic()
    hide_mounts()
    with tempfile.TemporaryDirectory() as work, serving(Path(work)) as server:
        print(f"imported in {time.monotonic() - start:.0f} s", flush=True)
        campaign = Campaign(server, Path(work))
        number = args.case or 0
        while sum(case.tried for case in cases) < args.kills and time.monotonic() < start + 60 * args.minutes:
            name, how = kind(args.seed, number)
            if how not in skipped and args.only in (None, how):
                try:
                    cases.append(case := campaign.case(args.seed, number))
                except NoDisk as error:
                    skipped[how] = str(error)
                    print(f"skipped: {how}: {error}", flush=True)
                else:
                    done = time.monotonic() - start
                    print(f"{done:.0f} s: case {number}, {name}: {how}: {case.tried} {case.writing}", flush=True)
                    if case.loss:
                        print(f"lost (--seed {args.seed} --case {number}): {case.loss}", flush=True)
                        print(campaign.log.read_text(), flush=True)
            if args.case is not None or {how for _, how in KINDS} <= skipped.keys():
                break
            number += 1
    show(cases, skipped)
    print(f"\n{len(cases)} runs, {(time.monotonic() - start) / 60:.0f} minutes")
    return int(any(case.loss for case in cases))


if __name__ == "__main__":
    sys.exit(main())
