"""The outcomes of many cases: a table for the documentation, and the failures by their place."""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fuzz import cases
from fuzz.cases import GOOD, Case, Result
from ssltool.files.text import visible

TITLES = {"done": "done (0)", "refused": "refused (1)", "usage": "usage error (2)", "collapsed": "collapsed (3)"}
FAILURES = (
    *("executed", "traceback", "hang", "memory", "killed", "another exit code", "warning", "several lines"),
    *("control characters", "half-written"),
)

Ran = tuple[Case, Result]


def run_case(good: Path, work: Path, seed: int, number: int) -> Ran:
    """Prepares and runs case ``number`` in a folder of its own under ``work``, which is removed afterwards."""
    folder = work / f"{os.getpid()}-{number}"
    try:
        case = cases.prepare(good, folder, seed, number)
        return case, cases.run(case, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def markdown(found: Sequence[Ran]) -> str:
    """A row for each kind of file, a column for each outcome that is right, and one for everything else."""
    kinds = sorted({case.kind for case, _ in found})
    lines = [f"| file | cases | {' | '.join(TITLES.values())} | failed |", "|---|" + "---:|" * (len(TITLES) + 2)]
    for kind in [*kinds, None]:
        outcomes = Counter(result.outcome for case, result in found if kind in (case.kind, None))
        total = sum(outcomes.values())
        right = [outcomes[name] for name in GOOD]
        cells = [total, *right, total - sum(right)]
        lines.append(f"| {kind or '**all**'} | " + " | ".join(f"{count:,}" for count in cells) + " |")
    outcomes = Counter(result.outcome for _, result in found)
    structure = sum(case.structure for case, _ in found)
    lines += [
        "",
        f"{structure / max(1, len(found)):.0%} of the cases damage the structure of a file, the rest its bytes.",
    ]
    lines += [", ".join(f"{name} {outcomes[name]}" for name in FAILURES) + "."]
    return "\n".join(lines)


def by_place(found: Sequence[Ran]) -> str:
    """The failures, grouped by outcome, place and type of the exception, the most frequent first."""
    groups: dict[tuple[str, str, str], list[Ran]] = {}
    for case, result in found:
        if result.outcome not in GOOD:
            what = result.detail.partition(":")[0] if result.place else ""
            groups.setdefault((result.outcome, result.place, what), []).append((case, result))
    lines = []
    for (outcome, place, what), members in sorted(groups.items(), key=lambda group: -len(group[1])):
        commands = Counter(f"{case.args[0]} of {case.kind}" for case, _ in members)
        lines.append(f"{len(members)} x {outcome} {place} {what}")
        lines.append("    " + ", ".join(f"{name} ({count})" for name, count in commands.most_common(6)))
        for case, result in members[:3]:
            lines.append(f"    --seed {case.seed} --case {case.number}: {result.detail[:200]}")
            lines.append(
                f"        {case.path}: {visible(case.did)[:160]}; ssltool {visible(shlex.join(case.args))[:200]}"
            )
    return "\n".join(lines) + "\n"
