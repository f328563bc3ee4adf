"""Messages and progress on stderr: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm

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
    """Prints ``text`` as one line on stderr, unless suppressed."""
    if not is_quiet():
        print(one_line(text), file=sys.stderr, flush=True)


def has_bars() -> bool:
    """Whether stderr can show progress bars: it is a terminal or belongs to a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Progress of one epoch in steps, with throughput and remaining time. ``done`` steps were completed before; plain
    lines are printed every ``every`` steps."""

    def __init__(self, title: str, steps: int, *, done: int = 0, every: int = 10, visible: bool = True) -> None:
        self.title, self.steps, self.every = title, steps, every
        self.done = self._started_at = done
        self._images = 0
        self._start = time.perf_counter()
        visible = visible and not is_quiet()
        self._plain = visible and not has_bars()
        self._bar = tqdm(
            total=steps, initial=done, desc=title, unit="step", leave=False, disable=not visible or self._plain
        )

    def update(self, images: int, text: str = "") -> None:
        """Counts a completed step of ``images`` images; ``text`` is displayed with it."""
        self.done += 1
        self._images += images
        self._bar.update()
        elapsed = time.perf_counter() - self._start
        steps = self.done - self._started_at
        rate = self._images / elapsed
        self._bar.set_postfix_str(f"{text} {rate:,.0f} images/s".strip(), refresh=False)
        if self._plain and (self.done % self.every == 0 or self.done == self.steps):
            left = elapsed / steps * (self.steps - self.done)
            line = f"{self.title} step {self.done}/{self.steps} {text} {rate:,.0f} images/s, {left:.0f} s left"
            info(" ".join(line.split()))

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
