"""The runs in the given folders: found again at each look, and one document about all of them."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssltool.config.fields import STATES
from ssltool.errors import counted, first_names
from ssltool.files.reading import require
from ssltool.files.text import one_line
from ssltool.files.writing import to_json
from ssltool.runs.differing import ALWAYS, differing_settings, flat_settings, setting_cell
from ssltool.runs.display_names import display_names
from ssltool.settings import Record, Settings
from ssltool.stages.watch.watched_run import RUNNING, Signature, WatchedRun, read_settings, signature

DEEPEST = 6
"""How many folders below a given one a run folder may be."""

MOST_RUNS = 2000
"""The largest number of runs; others are left out, and the page says so."""


class RunIndex:
    """The runs in the folders ``roots``, or below them, and the logs among the ``roots``. Symbolic links below them are
    not followed, so that nothing outside them is read.

    Attributes:
        runs: by their id, in the order of their paths.
        contents: what is known of all runs; ``version`` changes when it does.
        document: both as JSON by gzip.

    Raises:
        SSLToolError: if a root does not exist, or is a file that is no log.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        for root in roots:
            require(root, "run folder or log")
        paths = list(dict.fromkeys(Path(root).resolve() for root in roots))
        self.roots = [path for path in paths if path.is_dir()]
        self.logs = _logs([path for path in paths if not path.is_dir()])
        self.runs: dict[str, WatchedRun] = {}
        self.version = 0
        self.document = b""
        self.contents: Record = {}
        self._configs: dict[Path, tuple[Signature, Settings | None]] = {}

    def refresh(self) -> None:
        """Looks for new runs and new records."""
        found = dict.fromkeys(path for root in self.roots for path in self._below(root))
        known = {run.path: run for run in self.runs.values()}
        runs = []
        for path, _ in zip(found, range(MOST_RUNS), strict=False):
            settings = self._configs[path][1] or {}
            run = known.get(path)
            if run is None or run.settings is not settings:
                run = WatchedRun(path, settings)
            runs.append(run)
        if [run.path for run in (*runs, *self.logs)] != list(known):
            _name(runs)
            _name(self.logs)  # apart, because paths of other depths would make all names long
        runs += self.logs
        for run in runs:
            run.refresh()
        self.runs = {run.id: run for run in runs}
        contents = self._contents(runs, len(found) + len(self.logs) - len(runs))
        if contents != self.contents:
            self.version += 1
            self.contents = contents
            document = to_json({"version": self.version, **contents})
            self.document = gzip.compress(document.encode(), compresslevel=1)

    def _below(self, folder: Path, depth: int = 0) -> Iterator[Path]:
        """The run folders in a folder, which may be one itself."""
        if self._is_run(folder):
            yield folder
            return
        if depth == DEEPEST:
            return
        try:
            with os.scandir(folder) as entries:
                folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # it was removed, or may not be read
            return
        for path in sorted(entry.path for entry in folders if not entry.name.startswith(".")):
            yield from self._below(Path(path), depth + 1)

    def _is_run(self, folder: Path) -> bool:
        seen = signature(folder / "config.json")
        if seen is None:
            return False
        if folder not in self._configs or self._configs[folder][0] != seen:
            self._configs[folder] = seen, read_settings(folder)
        return self._configs[folder][1] is not None

    def _contents(self, runs: Sequence[WatchedRun], left_out: int) -> Record:
        flat = [flat_settings(run.settings) for run in runs]
        trained = [one for run, one in zip(runs, flat, strict=True) if not run.is_monitored]
        differing = differing_settings(trained) if len(trained) > 1 else []
        names = list(dict.fromkeys([*ALWAYS, *differing]))
        rows = [
            run.row | {"settings": {_text(name): _text(one[name]) for name in names if one.get(name) is not None}}
            for run, one in zip(runs, flat, strict=True)
        ]
        return {
            "runs": rows,
            "differing": [_text(name) for name in differing],
            "summary": summary(rows),
            "note": f"{left_out} further runs are left out; name fewer folders" if left_out > 0 else "",
        }


def _name(runs: Sequence[WatchedRun]) -> None:
    for run, name in zip(runs, display_names([str(run.path) for run in runs]), strict=True):
        run.name = name


def _logs(paths: Sequence[Path]) -> list[WatchedRun]:
    if not paths:
        return []
    from ssltool.stages.watch.watched_log import WatchedLog  # imports torch, which folders do not need

    return [WatchedLog(path) for path in paths]


def summary(rows: Sequence[Record]) -> str:
    """How many runs there are, how many train, and which have collapsed, in one sentence."""
    if not rows:
        return "There is no run yet; it will appear here."
    running = sum(row["state"] == RUNNING for row in rows)
    text = f"{counted(len(rows), 'run')}, {running or 'none'} of them running: " if len(rows) > 1 else ""
    if len(rows) == 1:
        one = {None: "has no verdict yet", STATES[0]: "is healthy", STATES[1]: "has partly collapsed"}
        return f"{rows[0]['name']} {one.get(rows[0]['verdict'], 'has collapsed')}."
    states = Counter(row["verdict"] for row in rows)
    parts = [f"{states[STATES[0]]} healthy"] if states[STATES[0]] else []
    for state, said in zip(STATES[1:], ("partly collapsed", "collapsed"), strict=True):
        if states[state]:
            names = first_names([row["name"] for row in rows if row["verdict"] == state], 3)
            parts.append(f"{states[state]} {said} ({names})")
    parts += [f"{states[None]} without a verdict yet"] if states[None] else []
    return f"{text}{', '.join(parts)}."


def _text(value: object) -> object:
    """A setting as a cell: numbers as they are, text in one line."""
    plain = setting_cell(value)
    return one_line(plain, 200) if isinstance(plain, str) else plain
