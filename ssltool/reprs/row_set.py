"""Rows of several tensors as one set, some of which count, without a copy of what lies in mapped files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.errors import SSLToolError


class RowSet:
    """The rows of ``parts``, each (n, d), one after the other; with ``numbers`` (m,), ascending, only those.

    Its rows have places from 0 to len - 1, and numbers among the rows of all parts.

    Raises:
        SSLToolError: if the parts' widths differ, or one is no matrix.
    """

    def __init__(self, parts: Sequence[Tensor], numbers: Tensor | None = None) -> None:
        if any(part.dim() != 2 for part in parts) or len({part.shape[1] for part in parts}) != 1:
            found = ", ".join(str(tuple(part.shape)) for part in parts)
            raise SSLToolError(f"representations must be (N, d), of one width; found {found or 'none'}")
        self.parts, self.numbers = list(parts), numbers
        self.ends = list(itertools.accumulate(map(len, self.parts)))

    @classmethod
    def of(cls, rows: Tensor | RowSet) -> RowSet:
        """``rows`` as a set."""
        return rows if isinstance(rows, RowSet) else cls([rows])

    def __len__(self) -> int:
        return self.ends[-1] if self.numbers is None else len(self.numbers)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.parts[0].shape[1]

    def keep(self, mask: Tensor) -> RowSet:
        """The rows where ``mask`` (len,) is true."""
        if bool(mask.all()):
            return self
        places = mask.nonzero().flatten()
        return RowSet(self.parts, places if self.numbers is None else self.numbers[places])

    def number(self, places: Tensor) -> Tensor:
        """The numbers of rows among those of all parts; -1 stays -1."""
        if self.numbers is None:
            return places
        return torch.where(places < 0, -1, self.numbers[places.clamp(min=0)])

    def block(self, low: int, high: int) -> Tensor:
        """The rows at places ``low`` to ``high`` - 1; where they lie in one part, as they lie there."""
        if self.numbers is not None:
            return self._gather(self.numbers[low:high])
        starts = [end - len(part) for part, end in zip(self.parts, self.ends, strict=True)]
        spans = [part[max(low - at, 0) : max(high - at, 0)] for part, at in zip(self.parts, starts, strict=True)]
        spans = [span for span in spans if len(span)] or spans[:1]
        return spans[0] if len(spans) == 1 else torch.cat(spans)

    def take(self, places: Tensor) -> Tensor:
        """The rows at ``places`` (n,), in this order."""
        return self._gather(places if self.numbers is None else self.numbers[places])

    def _gather(self, numbers: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0][numbers.to(self.parts[0].device)]
        rows = self.parts[0].new_empty(len(numbers), self.width, dtype=torch.float32)
        for part, end in zip(self.parts, self.ends, strict=True):
            mine = ((numbers >= end - len(part)) & (numbers < end)).nonzero().flatten()
            rows[mine] = part[numbers[mine] - (end - len(part))].to(rows.dtype)
        return rows
