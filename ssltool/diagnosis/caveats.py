"""What can make a metric mislead: said in a sentence, never silent.

``Traps`` watches rows pass by; ``notes`` says what it saw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_spectrum import DEAD_RATIO

MIN_ROWS_PER_DIMENSION = 10
"""Below so many rows for each dimension, even a flat spectrum looks uneven."""

ZERO_TOLERANCE = 1e-13
"""A singular value below this share of the largest is what rounding in float64 makes of 0."""

MAX_LISTED = 10
"""So many rows or dimensions are named before the rest is only counted."""


PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""From the fewest digits to the most."""


class CaveatTracker:
    """Running facts about rows (n, d): repeated rows, rows of zeros, dimensions without change, the precision."""

    def __init__(self) -> None:
        self.zeros = 0
        self._hashes: list[np.ndarray] = []
        self._first: Tensor | None = None
        self._changed: Tensor | None = None
        self._holds = dict.fromkeys(PRECISIONS, True)

    def update(self, block: Tensor) -> None:
        """Takes in rows, as they are stored."""
        if self._first is None or self._changed is None:
            self._first = block[0].clone()
            self._changed = torch.zeros_like(self._first, dtype=torch.bool)
        self._changed |= (block != self._first).any(dim=0)
        self.zeros += int((block == 0).all(dim=1).sum())
        for dtype in PRECISIONS:
            if self._holds[dtype]:
                self._holds[dtype] = bool((block.to(dtype).to(block.dtype) == block).all())
        wide = block if block.dtype == torch.float64 else block.float()
        words = (wide + 0.0).cpu().contiguous().numpy().view(np.uint32)  # + 0.0 makes -0.0 the same as 0.0
        mixed = words * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        factors = np.random.RandomState(0).randint(0, 2**63, size=words.shape[1], dtype=np.uint64) * np.uint64(2)
        self._hashes.append(mixed @ (factors + np.uint64(1)))

    def repeated(self) -> int:
        """How many rows are equal to an earlier one."""
        hashes = np.concatenate(self._hashes)
        return len(hashes) - len(np.unique(hashes))

    def constant(self) -> list[int]:
        """The dimensions that are the same in all rows."""
        numbers: list[int] = [] if self._changed is None else (~self._changed).nonzero().flatten().tolist()
        return numbers

    def precision(self) -> torch.dtype:
        """The one with the fewest digits that holds all values."""
        return next(dtype for dtype in PRECISIONS if self._holds[dtype])


def dead_dimensions(deviations: Tensor) -> list[int]:
    """Dimensions that hardly change, by their deviations (d,): those below 0.001 of the largest."""
    numbers: list[int] = (deviations <= DEAD_RATIO * deviations.max()).nonzero().flatten().tolist()
    return numbers


def rounding_noise(uncentred: Tensor, n: int, d: int, dtype: torch.dtype) -> float:
    """The largest singular value that rounding n x d values to ``dtype`` is expected to make.

    ``uncentred`` are the singular values of the matrix itself, whose root mean square is that of the values. Each is
    off by up to eps times itself; a matrix of such errors has singular values of at most about
    (sqrt(n) + sqrt(d)) eps rms.
    """
    rms = float(uncentred.square().sum() / (n * d)) ** 0.5
    return float((n**0.5 + d**0.5) * torch.finfo(dtype).eps * rms)


def caveat_messages(
    caveats: CaveatTracker, s: Tensor, uncentred: Tensor, deviations: Tensor, n: int, d: int
) -> list[str]:
    """What a reader of the metrics must know, one sentence each.

    ``s`` and ``uncentred`` are singular values with and without centring, ``deviations`` those of the d dimensions over
    n rows.
    """
    found = []
    if n <= d:
        found.append(
            f"{n:,} rows of width {d:,} have at most {n - 1:,} directions: metrics of the spectrum are bounded by the "
            "rows, not by the network"
        )
    elif n < MIN_ROWS_PER_DIMENSION * d:
        found.append(
            f"{n:,} rows are few for a width of {d:,}: even a flat spectrum looks uneven; see --subsample how the "
            "metrics move"
        )
    repeated = caveats.repeated()
    if repeated:
        found.append(f"{repeated:,} of {n:,} rows repeat an earlier one; they count as often as they are there")
    if caveats.zeros:
        found.append(f"{caveats.zeros:,} of {n:,} rows are all zeros, which have no direction")
    constant = set(caveats.constant())
    if constant:
        found.append(f"{len(constant):,} of {d:,} dimensions are constant: {format_numbers(sorted(constant))}")
    dead = [number for number in dead_dimensions(deviations) if number not in constant]
    if dead and len(constant) < d:
        many = f"{len(dead):,} more" if constant else f"{len(dead):,} of {d:,} dimensions"
        found.append(f"{many} hardly change (deviation below {DEAD_RATIO:g} of the largest): {format_numbers(dead)}")
    return found + _noise(s, uncentred, n, d, caveats.precision())


def _noise(s: Tensor, uncentred: Tensor, n: int, d: int, dtype: torch.dtype) -> list[str]:
    seen = s[s > ZERO_TOLERANCE * s[0]]  # zeros are no noise: constant dimensions, and centring where n <= d
    below = int((seen <= rounding_noise(uncentred, n, d, dtype)).sum())
    if not below or s[0] == 0:
        return []
    name = str(dtype).removeprefix("torch.")
    if below == len(seen):
        return [f"the whole spectrum is rounding noise of {name}: the rows are the same but for it"]
    return [
        f"{below:,} of {len(s):,} singular values are rounding noise of {name}: alpha, dead_directions, numerical_rank "
        "and condition_number may look at noise"
    ]


def format_numbers(numbers: Sequence[int]) -> str:
    """The first of ``numbers`` in words, and how many more there are."""
    text = ", ".join(map(str, numbers[:MAX_LISTED]))
    return text + (f" and {len(numbers) - MAX_LISTED:,} more" if len(numbers) > MAX_LISTED else "")
