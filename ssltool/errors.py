"""The errors that users see, and the parts of their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import SupportsInt


class SSLToolError(Exception):
    """An error that the user can fix. One line: what is wrong, what was found, what to do.

    The command line prints it after ``error:`` and exits with 1. After a ``resumable`` error, a run can go on from what
    it has saved; other errors would come again.
    """

    resumable = False
    on_all_ranks = False
    """Whether every rank raises an error at this place; see ``distributed.raise_on_all_ranks``."""


class UsageError(SSLToolError):
    """An error that the settings alone show, before any file or data is read.

    The command line prints it with the command's usage and exits with 2.
    """


class Diverged(SSLToolError):
    """The loss or the weights of a training are not finite. The last checkpoint is from before."""


class AnotherRankFailed(SSLToolError):
    """Another rank failed, which prints the error. The command line prints nothing and exits with the same ``code``."""

    def __init__(self, *, code: int = 1, resumable: bool = False) -> None:
        super().__init__("another rank failed; see its error message")
        self.code, self.resumable = code, resumable


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in ``known``; it suggests the nearest ones."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {what} '{name}'; {hint}")


@contextmanager
def found_in(path: object) -> Iterator[None]:
    """Turns usage errors of settings that the ``with`` block reads from the file ``path`` into errors of that file.

    Raises:
        SSLToolError: instead of a ``UsageError``; it names the file.
    """
    try:
        yield
    except UsageError as error:
        raise SSLToolError(f"{path}: {error}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; the name of its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def counted(number: int, noun: str) -> str:
    """A number and its noun: ``1 epoch``, ``2 epochs``, ``10,000 classes``, ``3 batches``."""
    plural = "" if number == 1 else "es" if noun.endswith(("s", "tch")) else "s"
    return f"{number:,} {noun}{plural}"


def duration(seconds: float) -> str:
    """A time with its two largest units: ``45 s``, ``3 min 20 s``, ``1 h 28 min``, ``2 d 3 h``."""
    for size, unit, smaller, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        whole = round(seconds / smaller) * smaller
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{round(seconds)} s"


def first_few(numbers: Sequence[SupportsInt], most: int = 10) -> str:
    """The first ``most`` of ``numbers``, and how many more there are: "3, 5 and 2 more"."""
    text = ", ".join(str(int(number)) for number in numbers[:most])
    return text + (f" and {len(numbers) - most:,} more" if len(numbers) > most else "")


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first ``most`` of ``names``, and how many more there are: "a, b and 2 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


class Collapsed(Exception):
    """A run ended early because of the collapse verdict that it was to stop on; ``folder`` holds it, saved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"the run in {folder} collapsed and was stopped")
        self.folder = folder


class Interrupted(Exception):
    """A command stopped because of the signal ``number``, after it ``saved`` what it says; the exit code is
    128 + ``number``. ``on_all_ranks`` is that of ``SSLToolError``."""

    on_all_ranks = False

    def __init__(self, number: int, saved: str = "") -> None:
        super().__init__(f"stopped by signal {number}" + (f"; saved {saved}" if saved else ""))
        self.number = number
