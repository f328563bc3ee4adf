"""Where rows are compared: in float32, seen from the middle of the bank, and how fast products are made there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.row_set import RowSet
from ssltool.training.precision import widest_float

SAMPLE = 4096
"""Rows of the bank whose mean is the origin."""

SLICE = 1 << 18
"""Numbers that are in double precision at a time: they stay in the cache."""

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Placed(NamedTuple):
    """Rows in their space: ``x`` (n, d) float32, and what they ``lack`` (n,): half for a row of zeros under ``cos``."""

    x: Tensor
    lack: Tensor

    @property
    def half(self) -> Tensor:
        """What a row takes from each similarity: half its squared length, and what it lacks."""
        return self.x.square().sum(dim=1) / 2 + self.lack


@dataclass(frozen=True)
class Space:
    """Similarity is minus half the squared Euclidean distance: of the rows as they are (``l2``), or at length 1
    (``cos``), where it is cosine - 1, also of a row of zeros, whose cosine with anything is 0.

    The mean of the bank is taken out first, in double precision. It changes no distance, and what is left of collapsed
    rows are their small differences, which float32 then holds; in the cosines themselves they would be lost.
    """

    unit: bool
    device: torch.device
    half_precision: bool
    origin: Tensor

    @classmethod
    def around(cls, bank: RowSet, metric: str, device: torch.device, precision: str) -> Space:
        """The space around rows drawn evenly from ``bank``."""
        space = cls(metric == "cos", device, precision == "bf16", torch.zeros((), device=device))
        sample = torch.linspace(0, len(bank) - 1, min(SAMPLE, len(bank)), dtype=torch.float64).long()
        return cls(
            space.unit,
            device,
            space.half_precision,
            space._wide(bank.take(sample))[0].mean(dim=0, dtype=widest_float(device)),
        )

    def place(self, rows: Tensor) -> Placed:
        """``rows`` (n, d) of any precision and device, in this space.

        Raises:
            SSLToolError: if one holds NaN or infinite values.
        """
        x = torch.empty(rows.shape, dtype=torch.float32, device=self.device)
        lack = torch.zeros(len(rows), dtype=torch.float32, device=self.device)
        step = max(1, SLICE // max(1, rows.shape[1]))
        for low in range(0, len(rows), step):
            part = slice(low, low + step)
            wide, lack[part] = self._wide(rows[part])
            torch.sub(wide, self.origin, out=x[part])
        if not bool(torch.isfinite(x.sum())):
            raise SSLToolError("some representations hold NaN or infinite values; leave those rows out")
        return Placed(x, lack)

    def operand(self, x: Tensor) -> Tensor:
        """Rows (n, d) as ``similarity`` multiplies them fastest. oneDNN's products are quicker than those of the
        library that PyTorch takes for plain tensors: by a third on AMD's processors."""
        if self.half_precision:
            return x.bfloat16()
        return x.to_mkldnn() if self.device.type == "cpu" and torch.backends.mkldnn.is_available() else x

    def _wide(self, rows: Tensor) -> tuple[Tensor, Tensor | float]:
        """The rows on the device, at length 1 in double precision for ``cos``, and what they lack."""
        rows = rows.to(self.device)
        if not self.unit:
            return rows, 0.0
        length = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=widest_float(self.device))
        return rows / length.clamp(min=torch.finfo(length.dtype).tiny), (length[:, 0] == 0).float() / 2


def product(a: Tensor, b: Tensor) -> Tensor:
    """The inner products (n, m) float32 of two operands."""
    return F.linear(a, b).to_dense() if a.is_mkldnn else (a @ b.T).float()


@contextlib.contextmanager
def workers(device: torch.device) -> Iterator[tuple[int, Map]]:
    """How many threads work, and a ``map`` that spreads over them. What is made meanwhile are ordinary tensors, also
    where the caller is in inference mode, which other threads are not.

    On a CPU each thread has its own rows and works alone, which is quicker than all threads sharing each of many small
    operations, and does not slow down where other programs use the cores.
    """
    count = torch.get_num_threads() if device.type == "cpu" else 1
    with torch.inference_mode(False), torch.no_grad():
        if count == 1:
            yield 1, map
            return
        try:
            with ThreadPoolExecutor(count, initializer=_alone) as pool:
                yield count, pool.map
        finally:
            torch.set_num_threads(count)  # which threads that start later go by


def _alone() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
