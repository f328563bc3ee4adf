"""How long a run takes: the time of an epoch, the epochs that fit into ``--minutes``, and what a run says first.

The last two are extrapolated from the rate of steps on the run's own batches, which includes the waiting for data.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ssltool.config import PretrainConfig
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, counted, duration
from ssltool.settings import Record
from ssltool.training import distributed

WARM_UP = 2
"""Steps that are not measured: kernels are chosen, memory is allocated, and workers start."""

TRIAL_SECONDS, TRIAL_STEPS = 5.0, 20
"""A trial ends after this time or this many measured steps, after one step at least."""

SAY_SECONDS, SAY_STEPS = 3.0, 7
"""After this time or this many measured steps a run says how long it takes: before its first line of progress."""

SPARE = 0.95
"""Fraction of ``--minutes`` that the epochs may take; the monitor and saving take the rest."""

LONG_SECONDS = 2 * 3600
"""A run on a CPU that takes longer is told what would be shorter."""

SMALL_SIZE = 96
SMALL_WIDTH = 32
SMALL_ARCH = f"resnet18_w{SMALL_WIDTH}"
"""What it is told."""


def seconds_per_step(batches: Iterator[Batch], step: Callable[[Batch], object]) -> float:
    """The mean time of a step on ``batches``, after ``WARM_UP`` steps, where there are that many batches. All ranks
    do the same number of steps; the slowest one counts.

    Args:
        step: trains on a batch, and waits for the device.
    """
    starts = [time.perf_counter()]
    for batch in batches:
        step(batch)
        starts.append(time.perf_counter())
        measured = len(starts) - 1 - WARM_UP
        over = measured >= TRIAL_STEPS or (measured > 0 and starts[-1] - starts[0] > TRIAL_SECONDS)
        if distributed.all_reduce_max(int(over)):
            break
    skipped = min(WARM_UP, len(starts) - 2)
    seconds = (starts[-1] - starts[skipped]) / (len(starts) - 1 - skipped)
    return distributed.all_reduce_max(round(1e6 * seconds)) / 1e6


def epochs_within(minutes: float, used: float, epoch: float, rounds: int = 1) -> int:
    """The number of epochs of ``epoch`` seconds that fit into ``minutes``, of which ``used`` seconds are over; a
    multiple of ``rounds``.

    Raises:
        SSLToolError: if none fits.
    """
    epochs = int((SPARE * 60 * minutes - used) / epoch) // rounds * rounds
    if epochs < 1:
        needed = math.ceil(10 * (rounds * epoch + used) / SPARE / 60) / 10
        what = "an epoch takes" if rounds == 1 else f"{rounds} epochs, one of each round, take"
        raise SSLToolError(
            f"--minutes {minutes:g}: {what} about {duration(rounds * epoch)}; give at least {needed:.1f}, or set a "
            "smaller --steps-per-epoch or --image-size"
        )
    return epochs


@dataclass
class EpochTime:
    """Seconds of the part of an epoch that this process trained, of these ``waiting`` for batches, and its images."""

    seconds: float = 0.0
    waiting: float = 0.0
    images: int = 0

    def record(self) -> Record:
        """The entries of the epoch's record in ``metrics.jsonl``."""
        return {
            "images_per_second": round(self.images / self.seconds, 1),
            "data_wait": round(self.waiting / self.seconds, 4),
            "seconds": round(self.seconds, 2),
        }


class Estimate:
    """Says once, after the first steps, how long the run of ``config`` with ``left`` steps to go takes."""

    def __init__(self, config: PretrainConfig, left: int, resumed: bool, on_cpu: bool) -> None:
        self.config, self.left, self.resumed, self.on_cpu = config, left, resumed, on_cpu
        self._done = self._measured = 0
        self._seconds = 0.0
        self._last: float | None = None
        self._said = False

    def start_epoch(self) -> None:
        """Leaves out the time since the last step, in which the monitor measured and a checkpoint was saved."""
        self._last = None

    def step(self) -> list[str]:
        """Counts a step; the lines to print, nearly always none."""
        self._done, now = self._done + 1, time.perf_counter()
        if self._last is not None and self._done > WARM_UP:
            self._seconds, self._measured = self._seconds + now - self._last, self._measured + 1
        self._last = now
        if self._said or (self._seconds < SAY_SECONDS and self._measured < SAY_STEPS):
            return []
        self._said = True
        each = self._seconds / self._measured
        whole = each * self.left
        what = "the rest of the run" if self.resumed else "the run"
        line = f"{what} takes about {duration(whole)}: {counted(self.left, 'step')} of {each:.2g} s"
        return [line, *self._advice(whole)]

    def _advice(self, seconds: float) -> list[str]:
        c = self.config
        if not self.on_cpu or seconds <= LONG_SECONDS:
            return []
        shorter = []
        if not self.resumed:  # whose settings are fixed
            shorter += [f"--image-size {SMALL_SIZE}"] if (c.image_size or 0) > SMALL_SIZE else []
            shorter += [f"-a {SMALL_ARCH}"] if _is_wider(c.arch) else []
            shorter += ["--minutes"] if c.minutes is None else []
        return [
            f"on a CPU, {', '.join(shorter)} or a GPU would make it shorter" if shorter else "a GPU would be faster"
        ]


def _is_wider(arch: str) -> bool:
    """Whether ``arch`` is a ResNet of more channels than ``SMALL_ARCH``."""
    resnet = re.match(r"(?:wide_)?resnet\d+", arch)
    width = re.search(r"_w(\d+)", arch)
    return resnet is not None and (width is None or int(width[1]) > SMALL_WIDTH)
