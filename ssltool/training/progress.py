"""Progress of long stages on stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm


class Progress:
    """Progress of one epoch in steps, with throughput and remaining time. ``done`` steps were completed before; plain
    lines are printed every ``every`` steps."""

    def __init__(self, title: str, steps: int, *, done: int = 0, every: int = 10, visible: bool = True) -> None:
        self.title, self.steps, self.every = title, steps, every
        self.done = self._started_at = done
        self._images = 0
        self._start = time.perf_counter()
        self._plain = visible and not sys.stderr.isatty()
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
            print(" ".join(line.split()), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
