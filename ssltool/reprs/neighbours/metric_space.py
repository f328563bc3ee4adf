"""The space in which rows are compared: float32 coordinates around the bank's mean, and fast matrix products."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.reprs.row_set import RowSet
from ssltool.training.precision import widest_float

SAMPLE = 4096
"""Number of rows of the bank whose mean is the origin."""

UNSCALED = (1e-9, 1e15)
"""Rows whose largest distance from the origin along a dimension is between these are not scaled: their squared
distances are far from the limits of float32, also those of a collapsed network."""

MAX_COORDINATE = 1e17
"""Above this, squared norms may overflow in float32."""

OUTLIERS = (
    "some rows are more than 10^17 times larger than others, so that float32 cannot hold the distances of both; leave "
    "these rows out, or use --metric cos"
)

SLICE = 1 << 18
"""Numbers that are converted in double precision at a time, so that they stay in the cache."""

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


class Transformed(NamedTuple):
    """Rows in a ``MetricSpace``: the coordinates ``x`` (n, d) float32, and a ``penalty`` (n,) that is subtracted from
    each similarity: 1/2 for a row of zeros with ``cos``, else 0."""

    x: Tensor
    penalty: Tensor

    @property
    def half_norms(self) -> Tensor:
        """Half the squared norms plus the penalties, (n,): similarity = x . y - half_norms(x) - half_norms(y)."""
        return self.x.square().sum(dim=1) / 2 + self.penalty


@dataclass(frozen=True)
class MetricSpace:
    """Similarity is minus half the squared Euclidean distance: of the rows themselves (``l2``), or of the normalised
    rows (``cos``), where it equals cosine - 1. The cosine of a row of zeros with any row is 0.

    The mean of the bank is subtracted first, in double precision. This changes no distance, and float32 can then hold
    the small differences between the rows of a collapsed network, which cosines in float32 would lose. Rows whose
    squared distances float32 cannot hold are then multiplied by ``scale``, a power of two.
    """

    normalise: bool
    device: torch.device
    half_precision: bool
    origin: Tensor
    scale: float = 1.0

    @classmethod
    def centred_on(
        cls, bank: RowSet, metric: str, device: torch.device, precision: str, queries: RowSet | None = None
    ) -> MetricSpace:
        """The space whose origin is the mean of rows drawn evenly from ``bank``.

        With ``l2`` its scale is that of these rows and of rows drawn from ``queries``.

        Raises:
            SSLToolError: with ``l2``, if some rows are so much larger than others that no scale suits both.
        """
        space = cls(metric == "cos", device, precision == "bf16", torch.zeros((), device=device))
        rows, _ = space._normalised(_sample(bank))
        origin = rows.mean(dim=0, dtype=widest_float(device))
        scale = 1.0
        if not space.normalise:
            _refuse_outliers(rows)
            samples = [rows] if queries is None or not len(queries) else [rows, _sample(queries).to(device)]
            largest = max(float((sample - origin).abs().max()) for sample in samples)
            if largest > 0 and not UNSCALED[0] < largest < UNSCALED[1]:
                scale = 2.0 ** -math.frexp(largest)[1]
        return cls(space.normalise, device, space.half_precision, origin, scale)

    def in_original_scale(self, similarity: Tensor) -> Tensor:
        """Similarities without the scale of the space; float64 if there is one, because float32 may not hold them."""
        return similarity if self.scale == 1 else similarity.double() / self.scale**2

    def transform(self, rows: Tensor) -> Transformed:
        """``rows`` (n, d) of any precision and device, in this space.

        Raises:
            SSLToolError: if a value is NaN or infinite, or a row is so much larger than the others that float32 cannot
                hold the squared distances of both.
        """
        x = torch.empty(rows.shape, dtype=torch.float32, device=self.device)
        penalty = torch.zeros(len(rows), dtype=torch.float32, device=self.device)
        step = max(1, SLICE // max(1, rows.shape[1]))
        for low in range(0, len(rows), step):
            part = slice(low, low + step)
            wide, penalty[part] = self._normalised(rows[part])
            if self.scale == 1:
                torch.sub(wide, self.origin, out=x[part])
            else:
                x[part] = (wide - self.origin) * self.scale
        if x.numel() and not max(map(abs, map(float, x.aminmax()))) < MAX_COORDINATE:
            refuse_nonfinite(x)
            raise SSLToolError(OUTLIERS)
        return Transformed(x, penalty)

    def operand(self, x: Tensor) -> Tensor:
        """Rows (n, d) in the format that ``product`` multiplies fastest. On AMD processors oneDNN's matrix products
        are faster by a third than those of the library that PyTorch uses for plain tensors."""
        if self.half_precision:
            return x.bfloat16()
        return x.to_mkldnn() if self.device.type == "cpu" and torch.backends.mkldnn.is_available() else x

    def _normalised(self, rows: Tensor) -> tuple[Tensor, Tensor | float]:
        """The rows on the device, with ``cos`` normalised in double precision, and their penalties."""
        rows = rows.to(self.device)
        if not self.normalise:
            return rows, 0.0
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=widest_float(self.device))
        return rows / norms.clamp(min=torch.finfo(norms.dtype).tiny), (norms[:, 0] == 0).float() / 2


def _sample(rows: RowSet) -> Tensor:
    """Rows drawn evenly."""
    return rows.take(torch.linspace(0, len(rows) - 1, min(SAMPLE, len(rows)), dtype=torch.float64).long())


def _refuse_outliers(rows: Tensor) -> None:
    """Raises ``SSLToolError`` if the largest of ``rows`` (n, d) is far larger than most others that are not 0."""
    sizes = rows.abs().amax(dim=1).double()
    sizes = sizes[sizes > 0]
    if len(sizes) and float(sizes.max()) > MAX_COORDINATE * float(sizes.median()):
        raise SSLToolError(OUTLIERS)


def product(a: Tensor, b: Tensor) -> Tensor:
    """The inner products (n, m) float32 of two operands."""
    return F.linear(a, b).to_dense() if a.is_mkldnn else (a @ b.T).float()


@contextlib.contextmanager
def workers(device: torch.device) -> Iterator[tuple[int, Map]]:
    """The number of worker threads, and a ``map`` that runs on them. Tensors made inside are ordinary ones, also if the
    caller is in inference mode, which does not apply to other threads.

    On a CPU each thread works on its own rows with single-threaded operations. That is faster than many small
    multi-threaded operations, and does not slow down when other programs use the cores.
    """
    count = torch.get_num_threads() if device.type == "cpu" else 1
    with torch.inference_mode(False), torch.no_grad():
        if count == 1:
            yield 1, map
            return
        try:
            with ThreadPoolExecutor(count, initializer=_init_worker) as pool:
                yield count, pool.map
        finally:
            torch.set_num_threads(count)  # which threads that start later inherit


def _init_worker() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
