"""Messages and progress on stderr: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar

from tqdm.auto import tqdm

from ssltool.errors import duration
from ssltool.files.text import one_line

_quiet = ContextVar("quiet", default=False)


@contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Suppresses messages and progress within a ``with`` block, in this thread."""
    token = _quiet.set(active)
    try:
        yield
    finally:
        _quiet.reset(token)


def is_quiet() -> bool:
    """Whether messages and progress are suppressed."""
    return _quiet.get()


def info(text: str) -> None:
    """Prints ``text`` as one line on stderr, above a progress bar if there is one, unless suppressed."""
    if not is_quiet():
        tqdm.write(one_line(text), file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Sends what libraries of C++ print to stdout, which is for results, to stderr within a ``with`` block. It does
    nothing if one of the streams is closed."""
    with ExitStack() as stack:
        with suppress(OSError):
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield


def has_bars() -> bool:
    """Whether stderr can show progress bars: it is a terminal or belongs to a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Progress of one epoch in steps, with throughput and the remaining time of the run. ``done`` steps were completed
    before, and ``later`` steps follow in other epochs; plain lines are printed every ``every`` steps. ``rate`` is in
    images/s, ``left`` the seconds that the run still takes."""

    def __init__(
        self, title: str, steps: int, *, done: int = 0, later: int = 0, every: int = 10, visible: bool = True
    ) -> None:
        self.title, self.steps, self.later, self.every = title, steps, later, every
        self.done = self._started_at = done
        self.rate = self.left = 0.0
        self._images = 0
        self._start = time.perf_counter()
        visible = visible and not is_quiet()
        self._plain = visible and not has_bars()
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc=title,
            unit="step",
            leave=False,
            disable=not visible or self._plain,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def update(self, images: int, text: str = "") -> None:
        """Counts a completed step of ``images`` images; ``text`` is displayed with it."""
        self.done += 1
        self._images += images
        elapsed = time.perf_counter() - self._start
        self.rate = self._images / elapsed
        self.left = elapsed / (self.done - self._started_at) * (self.steps - self.done + self.later)
        state = f"{text} {self.rate:,.0f} images/s, {duration(self.left)} left".strip()
        self._bar.set_postfix_str(state, refresh=False)
        self._bar.update()
        if self._plain and (self.done % self.every == 0 or self.done == self.steps):
            info(f"{self.title} step {self.done}/{self.steps} {state}")

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
