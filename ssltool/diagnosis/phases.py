"""The phases of a training by the geometry of its representations (Li et al., NeurIPS 2025, arXiv:2509.23024).

In the paper the effective rank (RankMe) of language models first falls in a warm-up, then rises while the spectrum
becomes flatter (entropy-seeking), and later falls again while the spectrum becomes steeper and the models improve
(compression-seeking). So a falling rank late in a training is no fault by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssltool.settings import Record

WARM_UP, ENTROPY, COMPRESSION = "warm-up collapse", "entropy-seeking", "compression-seeking"

LEAST_CHANGE = 0.02
"""Smallest relative change of the rank between two turning points; smaller ones are noise."""


@dataclass(frozen=True)
class Phase:
    """A phase: its ``name``, and the steps or epochs between which it lasts, from ``first`` to ``last``."""

    name: str
    first: float
    last: float

    def __str__(self) -> str:
        return f"{self.name} ({self.first:g} to {self.last:g})"


def phases(at: Sequence[float], rank: Sequence[float], alpha: Sequence[float]) -> list[Phase]:
    """The phases of a series, by the signs of d rank / dt and d alpha / dt.

    ``rank`` (n,) is RankMe or the effective rank, ``alpha`` (n,) the decay of the spectrum, at the steps or epochs
    ``at`` (n,). The series is divided where the rank turns by more than ``LEAST_CHANGE``. A part in which the rank
    rises and alpha falls is *entropy-seeking*; one in which the rank falls and alpha rises is *compression-seeking*
    after an entropy-seeking part, and before it the *warm-up collapse*. Other parts have no name and are left out, as
    are values that are not finite. Empty for fewer than two values.
    """
    known = [
        (t, r, a) for t, r, a in zip(at, rank, alpha, strict=True) if math.isfinite(r) and math.isfinite(a) and r > 0
    ]
    found: list[Phase] = []
    turns = _turns([r for _, r, _ in known])
    for first, last in itertools.pairwise(turns):
        (t0, r0, a0), (t1, r1, a1) = known[first], known[last]
        name = None
        if r1 > r0 and a1 < a0:
            name = ENTROPY
        elif r1 < r0 and a1 > a0:
            name = COMPRESSION if any(phase.name == ENTROPY for phase in found) else WARM_UP
        if name is not None:
            found.append(Phase(name, float(t0), float(t1)))
    return found


def phases_of_records(records: Sequence[Record], layer: str = "backbone") -> list[Phase]:
    """The ``phases`` of the monitor's ``records`` of a ``layer``, at their epochs (from 1) or steps."""
    keys = f"{layer}_rankme", f"{layer}_alpha"
    looks = [record for record in records if all(record.get(key) is not None for key in keys)]
    return phases([_time(record) for record in looks], *([float(record[key]) for record in looks] for key in keys))


def _time(record: Mapping[str, float]) -> float:
    return record["epoch"] + 1 if "epoch" in record else record["step"]


def _turns(rank: Sequence[float]) -> list[int]:
    """The indices of the first value, the last one, and the turning points between, without changes that are small.

    An extreme is a turning point once the rank has moved away from it by ``LEAST_CHANGE``.
    """
    if len(rank) < 2:
        return []
    turns, extreme, rising = [0], 0, None
    for i, value in enumerate(rank):
        change = value / rank[extreme] - 1
        if rising is None:
            if abs(change) >= LEAST_CHANGE:
                rising, extreme = change > 0, i
        elif (change > 0) == rising and change != 0:
            extreme = i
        elif abs(change) >= LEAST_CHANGE:
            turns.append(extreme)
            rising, extreme = not rising, i
    if rising is None:
        return []
    if extreme != turns[-1]:
        turns.append(extreme)
    return turns
