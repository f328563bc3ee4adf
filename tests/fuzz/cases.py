"""A case: a function of a seed and a number, run in a forked child with limits of time and memory, and judged.

A command that meets a damaged file may do its work (exit code 0, or 3 for a collapse) or refuse in one line (1; 2 with
the usage). It must not execute the file, change its inputs, or leave a part of its output.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import io
import os
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType

import ssltool
from fuzz import damage
from fuzz.goods import LARGE, main
from fuzz.kinds import KINDS
from fuzz.values import EXECUTED, HOSTILE
from ssltool.files.text import visible

BYTES = 0.25
"""The fraction of cases whose file is damaged in its bytes and not by its structure."""

SECONDS = 10.0
"""A command that takes longer hangs."""

MEMORY = 4 << 30
"""Bytes of memory that a command may allocate."""

FILE_SIZE = 1 << 30
"""Bytes of the largest file that a command may write."""

UNFINISHED = (".unfinished", ".unfinished.images")
"""Ends of the names of what ``save-reprs`` leaves to continue with, and removes when it is done."""

LEFT = (*(f".*{end}" for end in UNFINISHED), "*.lock")
"""What a command may leave beside its outputs after an error: rows to continue with, and the lock of a folder."""

STEP = "/neighbours.pt"
"""The result of scan's first step, which stays with the run's records if a later step fails."""

GOOD = ("done", "refused", "usage", "collapsed")
"""Outcomes that are right."""

NAMES = (HOSTILE.replace("/", ""), "läuf 猫", "-x", "=1+1", "a" * 200, "\udcff", "$x$", "{}", "*", "[a]", "%s", " ")
"""Strange names of files and folders."""

Tree = dict[str, str]
"""What is in a folder: relative paths, and texts that differ if the contents do."""

HASHED = 100_000
"""Bytes above which a file is not hashed."""


@dataclass(frozen=True)
class Case:
    """A command line and the damaged file that it reads.

    Attributes:
        seed, number: what the case is made from.
        kind: a name in ``KINDS``.
        path: the damaged file.
        did: what was done to it.
        structure: whether it was damaged by structure.
        args: the command line.
    """

    seed: int
    number: int
    kind: str
    path: str
    did: str
    structure: bool
    args: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        outcome: one of ``GOOD``, or what is wrong.
        detail: the exception or the message, in one line.
        place: the innermost line of ssltool, for an exception.
        seconds: how long the command ran.
        err: what it wrote to stderr.
    """

    outcome: str
    detail: str
    place: str
    seconds: float
    err: str


def prepare(good: Path, folder: Path, seed: int, number: int) -> Case:
    """Copies the good files to ``folder``, which must not exist, and damages one of them."""
    rng = Random(f"{seed} {number}")
    name = rng.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
    kind = KINDS[name]
    path, command = rng.choice(kind.paths), rng.choice(kind.commands)
    args, structure = shlex.split(command), not kind.bytes or rng.random() >= BYTES
    shutil.copytree(good, folder, symlinks=True, ignore=shutil.ignore_patterns(*({LARGE} - {path})))
    if kind.structure is None:
        new = _strange_name(Path(path), rng)
        (folder / path).rename(folder / new)
        args = [new + arg.removeprefix(path) if f"{arg}/".startswith(f"{path}/") else arg for arg in args]
        return Case(seed, number, name, path, f"renamed {new!r}", True, tuple(args))
    change = kind.structure if structure else damage.in_bytes
    for attempt in range(20):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some unusual tensors are deprecated
                did = change(folder / path, rng)
            break
        except Exception as error:  # values that the format cannot hold, or that do not fit one another
            did = f"nothing in {attempt + 1} attempts: {error}"
            shutil.copyfile(good / path, folder / path)
    return Case(seed, number, name, path, did, structure, tuple(args))


def undamaged(good: Path, work: Path) -> Iterator[tuple[str, Result]]:
    """Every command line, and what becomes of it with the good files: each must be done."""
    for number, line in enumerate(sorted({line for kind in KINDS.values() for line in kind.commands})):
        folder = work / f"good-{number}"
        shutil.copytree(good, folder, symlinks=True)
        yield line, run(Case(0, number, "", "", "", False, tuple(shlex.split(line))), folder)
        shutil.rmtree(folder)


def _strange_name(path: Path, rng: Random) -> str:
    new = rng.choice(NAMES)
    if path.suffix:
        new = rng.choice([new + path.suffix, new, path.stem + rng.choice([".PT", "", ".npz", ".txt", ".pt.gz"])])
    return str(path.with_name(new))


def run(case: Case, folder: Path, *, debug: bool = False) -> Result:
    """Runs the command of ``case`` in ``folder`` and judges it; with ``debug`` its stderr goes to this process's."""
    before, start = tree(folder), time.monotonic()
    streams = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err", "error")]
    child = os.fork()
    if child == 0:
        _command(case.args, folder, *streams)
    status = _wait(child, start + SECONDS)
    seconds = time.monotonic() - start
    out, err, error = (path.read_text(errors="surrogateescape") if path.exists() else "" for path in streams)
    for path in streams:
        path.unlink(missing_ok=True)
    if debug:
        print(out, err, error, sep="\n", file=sys.stderr)
    place, _, detail = error.partition("\n")
    outcome, reason = _judge(status, out, err, detail, before, tree(folder), _resumes(case.args))
    return Result(outcome, visible(reason)[:300], place, seconds, err)


def _command(args: tuple[str, ...], folder: Path, out: Path, err: Path, error: Path) -> None:
    """The child: runs the command and ends the process; what the command raises is written to ``error``."""
    code = 70
    try:
        os.setsid()
        signal.alarm(int(6 * SECONDS))  # if the parent is killed
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        for number, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), number)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
        _warn_as_python_does()
        os.chdir(folder)
        code = main(list(args))
    except BaseException as raised:
        with contextlib.suppress(BaseException):
            text = "".join(traceback.format_exception_only(raised)).strip()
            trace = "".join(traceback.format_tb(raised.__traceback__)[-12:])
            error.write_text(f"{_place(raised.__traceback__)}\n{text}\n{trace}", errors="backslashreplace")
    finally:
        os._exit(code)


def _warn_as_python_does() -> None:
    """Warnings go to stderr, whatever a test runner does with them."""
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)

    def show(message: Warning | str, category: type[Warning], filename: str, line: int, *_: object) -> None:
        sys.stderr.write(warnings.formatwarning(message, category, filename, line))

    warnings.showwarning = show


def _place(trace: TracebackType | None) -> str:
    """The innermost line of ssltool in a traceback."""
    root, found = Path(ssltool.__file__).parent, ""
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(root):
            found = f"{path.relative_to(root.parent)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _wait(child: int, until: float) -> int | None:
    """The status of the child, or None if it did not end; it is killed then, with the processes that it started."""
    pause = 0.002
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(0.05, pause * 1.3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _judge(
    status: int | None, out: str, err: str, error: str, before: Tree, after: Tree, resumes: bool
) -> tuple[str, str]:
    """The outcome, and its reason."""
    if EXECUTED in after:
        return "executed", ""
    if status is None:
        return "hang", err.strip().split("\n")[-1]
    if error:
        memory = any(text in error for text in ("MemoryError", "can't allocate memory", "Cannot allocate memory"))
        return "memory" if memory else "traceback", error.split("\n")[0]
    if status not in (0, 1, 2, 3):
        return "killed" if status < 0 else "another exit code", str(status)
    lines = err.splitlines()
    if wrong := next((line for line in (out + err).split("\n") if line != visible(line)), None):
        return "control characters", wrong
    if wrong := next((line for line in lines if "Traceback" in line or "Warning" in line), None):
        return "warning", wrong
    start = {1: "error: ", 2: "Error: "}.get(status)
    if start and not (lines and lines[-1].startswith(start) and sum(line.startswith(start) for line in lines) == 1):
        return "several lines", err[-300:]
    if left := next(_half_written(before, after, status, resumes), None):
        return "half-written", f"{left}, exit code {status}"
    return GOOD[(0, 3).index(status) * 3 if status in (0, 3) else status], lines[-1] if lines else ""


def _half_written(before: Tree, after: Tree, status: int, resumes: bool) -> Iterator[str]:
    """Files that should not be there, or should be as they were."""
    failed = status in (1, 2)
    done = {path.rpartition("/")[0] for path in after.keys() - before.keys() if path.endswith(STEP)}
    for path in sorted(after.keys() - before.keys()):
        folder, _, name = path.rpartition("/")
        kept = folder in done or path in done or any(fnmatch.fnmatch(name, pattern) for pattern in LEFT)
        if name.endswith(".tmp") or (failed and not kept):
            yield f"new {path}"
    for path, content in before.items():
        allowed = path.endswith(UNFINISHED) or (resumes and not failed)
        if after.get(path) != content and not allowed:
            yield f"{'changed' if path in after else 'deleted'} {path}"


def _resumes(args: tuple[str, ...]) -> bool:
    """Whether the command writes into the folder of an existing run."""
    return "--resume" in args or "--overwrite" in args


def tree(folder: Path) -> Tree:
    """The files under ``folder``: the hashes of small ones, and when large ones were written."""
    found = {}
    for path in folder.rglob("*"):
        about = path.lstat()
        if path.is_symlink():
            content = os.readlink(path)
        elif not path.is_file():
            content = oct(about.st_mode)
        elif about.st_size > HASHED:
            content = f"{about.st_size} {about.st_mtime_ns} {about.st_ino}"
        else:
            content = hashlib.blake2b(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = content
    return found
