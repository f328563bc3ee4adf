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

FACTOR = 2.0
"""Runs on up to this factor more or fewer images are compared."""

FEWEST = 2
"""Fewest runs of a range."""

MARGIN = 0.25
"""A value is unusual if it is outside of the range by more than this share of the nearer end."""


@dataclass(frozen=True)
class Range:
    """The ``low`` and the ``high`` of a value over ``runs`` healthy runs on ``images``, the smallest and the largest
    number of them."""

    low: float
    high: float
    runs: int
    images: tuple[int, int]

    def contains(self, value: float) -> bool:
        """Whether ``value`` is within the range and its margin."""
        return self.low - MARGIN * abs(self.low) <= value <= self.high + MARGIN * abs(self.high)

    def __str__(self) -> str:
        few, most = self.images
        counts = f"{few:,}" if few == most else f"{few:,} to {most:,}"
        return f"{self.low:.3g} to {self.high:.3g} in {self.runs} healthy runs on {counts} images"


@functools.cache
def reference_runs() -> tuple[Record, ...]:
    """The runs in the data file, one record each."""
    return tuple(read_json(FILE)["runs"])


def reference_range(settings: Mapping[str, Any], name: str, runs: tuple[Record, ...] | None = None) -> Range | None:
    """The range of the value ``name`` (``backbone_auc``) over the healthy ``runs``, by default those of the data file,
    of the method, architecture and dataset of a run with these ``settings`` and about as many images.

    None if there are fewer than ``FEWEST``.
    """
    wanted = (settings["method"], settings["arch"], settings["dataset"])
    found = [
        run
        for run in (reference_runs() if runs is None else runs)
        if (run["method"], run["arch"], run["dataset"]) == wanted
        and run["verdict"] == STATES[0]
        and max(run["images"], settings["n_images"]) <= FACTOR * min(run["images"], settings["n_images"])
        and name in run
    ]
    if len(found) < FEWEST:
        return None
    values, images = [run[name] for run in found], [run["images"] for run in found]
    return Range(min(values), max(values), len(found), (min(images), max(images)))
