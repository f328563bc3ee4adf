"""``python tests/fuzz --cases 20000 --seed 0 --jobs 2``: runs cases, counts the outcomes and lists what is wrong.

``--case N`` runs one case, prints its command line and the traceback, and keeps its folder. ``--markdown FILE`` writes
the table of outcomes, ``--failures FILE`` the failures by their place.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import torch  # noqa: E402

from fuzz import cases, goods, outcomes  # noqa: E402

_state: dict[str, Path | int] = {}


def _one(number: int) -> tuple[cases.Case, cases.Result]:
    return outcomes.run_case(Path(str(_state["good"])), Path(str(_state["work"])), int(_state["seed"]), number)


def _all(numbers: Iterable[int], jobs: int) -> Iterator[tuple[cases.Case, cases.Result]]:
    if jobs == 1:
        yield from map(_one, numbers)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_one, numbers)


def main() -> int:
    """Runs the cases; the exit code is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="number of cases [default: 20000]")
    parser.add_argument("--first", type=int, default=0, help="number of the first case [default: 0]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the cases [default: 0]")
    parser.add_argument("--jobs", type=int, default=2, help="cases at the same time [default: 2]")
    parser.add_argument("--case", type=int, help="run this case only, print everything, and keep its folder")
    parser.add_argument("--good", action="store_true", help="run every command line with the good files instead")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table of outcomes")
    parser.add_argument("--failures", type=Path, metavar="FILE", help="write the failures, by their place")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="ssltool-fuzz-"))
    _state.update(good=work / "good", work=work, seed=args.seed)
    goods.make_good_files(work / "good")
    if args.case is not None:
        case = cases.prepare(work / "good", work / "case", args.seed, args.case)
        print(f"{case.kind}: {case.path}: {case.did}\ncd {work / 'case'}; ssltool {shlex.join(case.args)}", flush=True)
        result = cases.run(case, work / "case", debug=True)
        print(f"{result.outcome} after {result.seconds:.1f} s: {result.place} {result.detail}")
        return result.outcome not in cases.GOOD
    if args.good:
        wrong = [(line, found) for line, found in cases.undamaged(work / "good", work) if found.outcome != "done"]
        for line, found in wrong:
            print(f"{found.outcome}: ssltool {line}\n    {found.place} {found.detail}")
        return bool(wrong)
    start, found = time.monotonic(), []
    for one in _all(range(args.first, args.first + args.cases), args.jobs):
        found.append(one)
        if len(found) % 500 == 0:
            print(f"{len(found)} of {args.cases} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    shutil.rmtree(work)
    table = outcomes.markdown(found)
    print(table)
    print(
        f"\n{len(found)} cases with seed {args.seed} in {time.monotonic() - start:.0f} s, {args.jobs} at a time, "
        f"of {os.cpu_count()} processors"
    )
    if args.markdown:
        args.markdown.write_text(table + "\n")
    if args.failures:
        args.failures.write_text(outcomes.by_place(found))
    return any(result.outcome not in cases.GOOD for _, result in found)


if __name__ == "__main__":
    sys.exit(main())
