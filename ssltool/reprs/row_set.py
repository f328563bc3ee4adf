"""A view of the rows of several tensors as one matrix, without copying mapped files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.errors import SSLToolError


class RowSet:
    """The rows of ``parts``, each (n, d), concatenated; with ``indices`` (m,), ascending, only those rows.

    A row has a position in the set, from 0 to len - 1, and an index in the concatenation of all parts.

    Raises:
        SSLToolError: if the parts have different widths, or one is not a matrix.
    """

    def __init__(self, parts: Sequence[Tensor], indices: Tensor | None = None) -> None:
        if any(part.dim() != 2 for part in parts) or len({part.shape[1] for part in parts}) != 1:
            found = ", ".join(str(tuple(part.shape)) for part in parts)
            raise SSLToolError(f"representations must be (N, d), of one width; found {found or 'none'}")
        self.parts, self.indices = list(parts), indices
        self.ends = list(itertools.accumulate(map(len, self.parts)))

    @classmethod
    def of(cls, rows: Tensor | RowSet) -> RowSet:
        """``rows`` as a ``RowSet``."""
        return rows if isinstance(rows, RowSet) else cls([rows])

    def __len__(self) -> int:
        return self.ends[-1] if self.indices is None else len(self.indices)

    @property
    def width(self) -> int:
        """The number of columns d."""
        return self.parts[0].shape[1]

    def keep(self, mask: Tensor) -> RowSet:
        """The rows where ``mask`` (len,) is true."""
        if bool(mask.all()):
            return self
        positions = mask.nonzero().flatten()
        return RowSet(self.parts, positions if self.indices is None else self.indices[positions])

    def index_of(self, positions: Tensor) -> Tensor:
        """The indices, in all parts, of the rows at ``positions``; -1 stays -1."""
        if self.indices is None:
            return positions
        return torch.where(positions < 0, -1, self.indices[positions.clamp(min=0)])

    def block(self, low: int, high: int) -> Tensor:
        """The rows at positions ``low`` to ``high`` - 1; a view, not a copy, if they are in one part."""
        if self.indices is not None:
            return self._gather(self.indices[low:high])
        starts = [end - len(part) for part, end in zip(self.parts, self.ends, strict=True)]
        spans = [part[max(low - at, 0) : max(high - at, 0)] for part, at in zip(self.parts, starts, strict=True)]
        spans = [span for span in spans if len(span)] or spans[:1]
        return spans[0] if len(spans) == 1 else torch.cat(spans)

    def take(self, positions: Tensor) -> Tensor:
        """The rows at ``positions`` (n,), in this order."""
        return self._gather(positions if self.indices is None else self.indices[positions])

    def _gather(self, indices: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0][indices.to(self.parts[0].device)]
        rows = self.parts[0].new_empty(len(indices), self.width, dtype=torch.float32)
        for part, end in zip(self.parts, self.ends, strict=True):
            start = end - len(part)
            inside = ((indices >= start) & (indices < end)).nonzero().flatten()
            rows[inside] = part[indices[inside] - start].to(rows.dtype)
        return rows
