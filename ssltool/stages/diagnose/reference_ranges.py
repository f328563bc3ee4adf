"""What is normal for a method, a width and a number of images: what the monitor recorded for healthy runs of ours.

``reference_ranges.json`` holds these runs; ``benchmarks/reference_ranges.py`` makes it. Metrics depend on the images,
so that only runs on the same dataset are compared.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssltool.config.fields import STATES
from ssltool.files.reading import read_json
from ssltool.settings import Record

FILE = Path(__file__).with_name("reference_ranges.json")

SAME = ("method", "arch", "stem", "image_size", "dataset")
"""What runs that are compared have in common; for values of the projector also its width, ``dim``."""

FACTOR = 2.0
"""Runs on up to this factor more or fewer images are compared."""

FEWEST = 2
"""Fewest runs of a range."""

MARGIN = 0.25
"""A value is unusual if it is outside of the range by more than this share of the nearer end and by more than
``LEAST``."""

LEAST = 0.02
"""The smallest margin, for shares such as that of dead directions, whose range may be 0 to 0: two of 100 directions."""


@dataclass(frozen=True)
class Range:
    """The ``low`` and the ``high`` of a value over ``runs`` healthy runs on ``images`` of ``steps``, the smallest and
    the largest number of both."""

    low: float
    high: float
    runs: int
    images: tuple[int, int]
    steps: tuple[int, int]

    def contains(self, value: float) -> bool:
        """Whether ``value`` is within the range and its margin."""
        below, above = (max(LEAST, MARGIN * abs(end)) for end in (self.low, self.high))
        return self.low - below <= value <= self.high + above

    def __str__(self) -> str:
        images, steps = (f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in (self.images, self.steps))
        return f"{self.low:.3g} to {self.high:.3g} in {self.runs} healthy runs of {steps} steps on {images} images"


@functools.cache
def reference_runs() -> tuple[Record, ...]:
    """The runs in the data file, one record each."""
    return tuple(read_json(FILE)["runs"])


def reference_range(settings: Mapping[str, Any], name: str, runs: tuple[Record, ...] | None = None) -> Range | None:
    """The range of the value ``name`` (``backbone_auc``) over the healthy ``runs``, by default those of the data file,
    that have what ``SAME`` names and about as many images as a run with these ``settings``.

    None if there are fewer than ``FEWEST``.
    """
    same = [*SAME, *(["dim"] if name.startswith("projector_") else [])]
    given = {**settings, "dim": settings.get("method_options", {}).get("dim")}
    found = [
        run
        for run in (reference_runs() if runs is None else runs)
        if all(run.get(key) == given.get(key) for key in same)
        and run["verdict"] == STATES[0]
        and max(run["images"], settings["n_images"]) <= FACTOR * min(run["images"], settings["n_images"])
        and name in run
    ]
    if len(found) < FEWEST:
        return None
    values, images, steps = ([run[key] for run in found] for key in (name, "images", "steps"))
    return Range(min(values), max(values), len(found), (min(images), max(images)), (min(steps), max(steps)))
