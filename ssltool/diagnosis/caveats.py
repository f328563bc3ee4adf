"""Properties of the data that make metrics misleading, reported as messages.

``CaveatTracker`` collects them in one pass over the rows; ``caveat_messages`` formats them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_spectrum import DEAD_RATIO
from ssltool.diagnosis.spectrum import possible_directions
from ssltool.errors import first_few

MIN_ROWS_PER_DIMENSION = 10
"""With fewer rows per dimension, the spectrum of isotropic rows is not flat."""

ZERO_TOLERANCE = 1e-13
"""Singular values below this fraction of the largest are zeros rounded in float64."""

NAMED = 3
"""Duplicate rows that a message names."""

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Floating-point formats in order of increasing precision."""


class CaveatTracker:
    """Tracks duplicate rows, all-zero rows, constant dimensions and the precision of rows (n, d) in one pass."""

    def __init__(self) -> None:
        self.zeros = 0
        self._hashes: list[np.ndarray] = []
        self._first: Tensor | None = None
        self._changed: Tensor | None = None
        self._holds = dict.fromkeys(PRECISIONS, True)

    def update(self, block: Tensor) -> None:
        """Adds rows in their stored precision."""
        if self._first is None or self._changed is None:
            self._first = block[0].clone()
            self._changed = torch.zeros_like(self._first, dtype=torch.bool)
        self._changed |= (block != self._first).any(dim=0)
        self.zeros += int((block == 0).all(dim=1).sum())
        for dtype in PRECISIONS:
            if self._holds[dtype]:
                self._holds[dtype] = bool((block.to(dtype).to(block.dtype) == block).all())
        wide = block if block.dtype == torch.float64 else block.float()
        words = (wide + 0.0).cpu().contiguous().numpy().view(np.uint32)  # + 0.0 turns -0.0 into 0.0
        mixed = words * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        factors = np.random.RandomState(0).randint(0, 2**63, size=words.shape[1], dtype=np.uint64) * np.uint64(2)
        self._hashes.append(mixed @ (factors + np.uint64(1)))

    def merge(self, other: CaveatTracker) -> None:
        """Adds the rows of another tracker, which follow these."""
        if other._first is None or other._changed is None:
            return
        if self._first is None or self._changed is None:
            self._first, self._changed = other._first, other._changed
        self._changed = self._changed | other._changed | (other._first != self._first)
        self.zeros += other.zeros
        self._hashes += other._hashes
        self._holds = {dtype: held and other._holds[dtype] for dtype, held in self._holds.items()}

    def repeated(self) -> int:
        """Number of rows that are equal to an earlier row."""
        hashes = np.concatenate(self._hashes)
        return len(hashes) - len(np.unique(hashes))

    def first_repeated(self, name: Callable[[int], str]) -> str:
        """The names of the first rows that are equal to an earlier one, and of that one; ``name`` gives that of a row
        by its number."""
        hashes = np.concatenate(self._hashes)
        _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        repeats = np.flatnonzero(first[inverse] != np.arange(len(hashes)))
        named = [f"{name(int(row))} as {name(int(first[inverse[row]]))}" for row in repeats[:NAMED]]
        return ", ".join(named) + (f" and {len(repeats) - NAMED:,} more" if len(repeats) > NAMED else "")

    def constant(self) -> list[int]:
        """Indices of the dimensions that are constant over all rows."""
        numbers: list[int] = [] if self._changed is None else (~self._changed).nonzero().flatten().tolist()
        return numbers

    def precision(self) -> torch.dtype:
        """The lowest-precision format that represents all values exactly."""
        return next(dtype for dtype in PRECISIONS if self._holds[dtype])


def dead_dimensions(deviations: Tensor) -> list[int]:
    """Indices of dead dimensions: those whose standard deviation, of (d,), is at most 0.001 of the largest."""
    numbers: list[int] = (deviations <= DEAD_RATIO * deviations.max()).nonzero().flatten().tolist()
    return numbers


def rounding_noise(uncentred: Tensor, n: int, d: int, dtype: torch.dtype) -> float:
    """Approximate upper bound on the singular values of the rounding error of an n x d matrix in ``dtype``.

    ``uncentred`` are the singular values of the matrix, from which the root mean square (rms) of its values follows.
    Rounding changes each value by a relative error of up to eps, so the singular values of the error matrix are at most
    about (sqrt(n) + sqrt(d)) eps rms.
    """
    rms = float(uncentred.square().sum() / (n * d)) ** 0.5
    return float((n**0.5 + d**0.5) * torch.finfo(dtype).eps * rms)


def caveat_messages(
    caveats: CaveatTracker,
    s: Tensor,
    uncentred: Tensor,
    deviations: Tensor,
    n: int,
    d: int,
    bound: int | None = None,
    row_name: Callable[[int], str] | None = None,
) -> list[str]:
    """Messages about properties that affect the metrics, one each.

    ``s`` and ``uncentred`` are the singular values with and without centring; ``deviations`` are the standard
    deviations of the d dimensions over n rows. ``bound`` is the largest possible rank of the layer, if it is known.
    ``row_name`` gives the name of a row by its number, if rows have names.
    """
    found = []
    rank = min(d, bound or d)
    if n <= rank:
        found.append(
            f"{n:,} rows of width {d:,} span at most {n - 1:,} dimensions: the number of rows bounds the metrics of "
            "the spectrum"
        )
    elif n < MIN_ROWS_PER_DIMENSION * rank:
        of = f"a width of {d:,}" if rank == d else f"the {rank:,} directions that the layer can have"
        found.append(
            f"{n:,} rows are few for {of}: even isotropic rows do not have a flat spectrum; use "
            "--subsample to see how the metrics depend on the number of rows"
        )
    repeated = caveats.repeated()
    if repeated:
        names = "" if row_name is None else caveats.first_repeated(row_name)
        found.append(f"duplicate rows: {repeated:,} of {n:,}{names and f' ({names})'}; each occurrence counts")
    if caveats.zeros:
        found.append(f"all-zero rows: {caveats.zeros:,} of {n:,}; their direction is undefined")
    constant = set(caveats.constant())
    if constant:
        found.append(f"constant dimensions: {len(constant):,} of {d:,} ({first_few(sorted(constant))})")
    dead = [number for number in dead_dimensions(deviations) if number not in constant]
    if dead and len(constant) < d:
        limit = f"standard deviation below {DEAD_RATIO:g} of the largest"
        found.append(f"dead dimensions ({limit}): {len(dead):,} of {d:,} ({first_few(dead)})")
    return found + _noise(s[: possible_directions(n, d, bound)], uncentred, n, d, caveats.precision())


def _noise(s: Tensor, uncentred: Tensor, n: int, d: int, dtype: torch.dtype) -> list[str]:
    seen = s[s > ZERO_TOLERANCE * s[0]]  # exact zeros are not noise: constant dimensions, and centring if n <= d
    below = int((seen <= rounding_noise(uncentred, n, d, dtype)).sum())
    if not below or s[0] == 0:
        return []
    name = str(dtype).removeprefix("torch.")
    if below == len(seen):
        return [f"the whole spectrum is rounding noise of {name}: all rows are equal up to rounding"]
    return [
        f"singular values that are rounding noise of {name}: {below:,} of {len(s):,}; alpha, dead_directions, "
        "numerical_rank and condition_number may be affected"
    ]
