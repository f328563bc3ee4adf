"""``python tests/fuzz --cases 20000 --seed 0 --jobs 2``: runs cases, counts the outcomes and lists what is wrong.

``--case N`` runs one case, prints its command line and the traceback, and keeps its folder. ``--docs`` writes the table
of outcomes into ``docs/robustness.md``, ``--failures FILE`` the failures by their place.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "robustness.md"
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402

from fuzz import cases, goods, outcomes  # noqa: E402
from fuzz.kinds import refuses  # noqa: E402
from ssltool.files.text import visible  # noqa: E402

BEGIN, END = "<!-- outcomes: python tests/fuzz --docs -->", "<!-- end -->"
"""The lines of the page around the table."""


def _all(run: Callable[[int], outcomes.Ran], numbers: range, jobs: int) -> list[outcomes.Ran]:
    """What became of all cases, in the order in which they ended. Failures are printed as they come."""
    start, found = time.monotonic(), []
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for one in pool.imap_unordered(run, numbers):
            found.append(one)
            if one[1].outcome not in cases.GOOD:
                print(outcomes.by_place([one]), end="", file=sys.stderr, flush=True)
            if len(found) % 500 == 0:
                passed = f"{time.monotonic() - start:.0f} s"
                print(f"{len(found)} of {len(numbers)} cases, {passed}", file=sys.stderr, flush=True)
    return found


def _show(good: Path, folder: Path, seed: int, number: int) -> bool:
    """Runs one case with all its output; returns whether it failed."""
    case = cases.prepare(good, folder, seed, number)
    print(f"{case.kind}: {case.path}: {visible(case.did)}\ncd {folder}; ssltool {shlex.join(case.args)}", flush=True)
    result = cases.run(case, folder, debug=True)
    print(f"{result.outcome} after {result.seconds:.1f} s: {result.place} {result.detail}")
    return result.outcome not in cases.GOOD


def _check_good(good: Path, work: Path) -> bool:
    """Runs every command line with the good files; returns whether one did not end as it should."""
    ran = cases.undamaged(good, work)
    wrong = [(line, found) for line, found in ran if found.outcome != ("refused" if refuses(line) else "done")]
    for line, found in wrong:
        print(f"{found.outcome}: ssltool {line}\n    {found.place} {found.detail}")
    return bool(wrong)


def _write_page(table: str) -> None:
    before, _, after = PAGE.read_text().partition(f"{BEGIN}\n")
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after.partition(END)[2]}")


def _conditions(args: argparse.Namespace, seconds: float) -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    command = f"python tests/fuzz --cases {args.cases} --seed {args.seed} --jobs {args.jobs}"
    return f"`{command}`: {seconds / 60:.0f} minutes on {os.cpu_count()} cores, {versions}, {platform.system()}."


def main() -> int:
    """Runs the cases; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="number of cases [default: 20000]")
    parser.add_argument("--first", type=int, default=0, help="number of the first case [default: 0]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases [default: 0]")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time [default: 2]")
    parser.add_argument("--case", type=int, help="run this case only, print everything, and keep its folder")
    parser.add_argument("--good", action="store_true", help="run every command line with the good files instead")
    parser.add_argument("--docs", action="store_true", help=f"write the table of outcomes into {PAGE.name}")
    parser.add_argument("--failures", type=Path, metavar="FILE", help="write the failures, by their place")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="ssltool-fuzz-"))
    good = work / "good"
    try:
        goods.make_good_files(good)
        if args.case is not None:
            return _show(good, work / "case", args.seed, args.case)
        if args.good:
            return _check_good(good, work)
        start = time.monotonic()
        run = functools.partial(outcomes.run_case, good, work, args.seed)
        found = _all(run, range(args.first, args.first + args.cases), args.jobs)
    finally:
        if args.case is None:
            shutil.rmtree(work)
    table = f"{outcomes.markdown(found)}\n\n{_conditions(args, time.monotonic() - start)}"
    print(table)
    if args.docs:
        _write_page(table)
    if args.failures:
        args.failures.write_text(outcomes.by_place(found))
    return any(result.outcome not in cases.GOOD for _, result in found)


if __name__ == "__main__":
    sys.exit(main())
