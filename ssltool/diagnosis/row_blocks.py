"""Rows of several tensors, in memory or memory-mapped, read in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ssltool.diagnosis.spectrum import row_blocks
from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import read_values, refuse_nonfinite_rows, refuse_range, within
from ssltool.training.ranks import ALONE, Ranks

CPU = torch.device("cpu")


class Rows:
    """The rows of several (n, d) tensors, or of (n, Q, d) tensors of views, which count as n Q rows.

    ``blocks`` yields one block at a time on ``device``, so that memory-mapped files may be larger than memory. Rows
    with NaN or infinite values raise an error that ends with ``hint``, or with ``skip_nonfinite`` are left out and
    counted in ``skipped``. ``labels`` are (n,) for each tensor, one for each image, negative where there is none.
    ``image_name`` gives the name of each of the n entries of all tensors, by its number. Each of several ``ranks`` has
    all tensors, and checks and reads its own part of their rows.
    """

    def __init__(
        self,
        parts: Sequence[Tensor],
        *,
        labels: Sequence[Tensor] | None = None,
        skip_nonfinite: bool = False,
        hint: str = "",
        device: torch.device = CPU,
        name: str = "the representations",
        image_name: Callable[[int], str] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if not parts or any(part.dim() not in (2, 3) for part in parts):
            found = [tuple(part.shape) for part in parts]
            raise SSLToolError(f"{name} must be (N, d), or (N, Q, d) of views; found {found or 'nothing'}")
        if labels is not None and [len(column) for column in labels] != [len(part) for part in parts]:
            raise SSLToolError(f"{name}: the numbers of labels and of images differ")
        self.parts = [part.reshape(-1, part.shape[-1]) for part in parts]
        widths = sorted({part.shape[1] for part in self.parts})
        if len(widths) > 1:
            raise SSLToolError(f"{name} must have the same width; found widths {' and '.join(map(str, widths))}")
        all_views = all(part.dim() == 3 for part in parts) and len({part.shape[1] for part in parts}) == 1
        self.views = (parts[0] if len(parts) == 1 else torch.cat(list(parts))) if all_views else None
        self.width = widths[0]
        self.name, self.device, self.skip_nonfinite, self.hint = name, device, skip_nonfinite, hint
        self.ranks, self.span = ranks, ranks.span(sum(map(len, self.parts)))
        each = [len(rows) // max(1, len(part)) for rows, part in zip(self.parts, parts, strict=True)]
        self._labels = None if labels is None else [c.repeat_interleave(q) for c, q in zip(labels, each, strict=True)]
        self._image_name, self._rows_of_image = image_name, each[0]
        self._kept: list[Tensor] | None = None  # mask of finite rows per part; None if all rows are finite
        self._checked = False

    def __len__(self) -> int:
        return sum(len(part) if kept is None else int(kept.sum()) for part, kept in self._with_kept())

    @property
    def skipped(self) -> int:
        """Number of rows left out because they are not finite."""
        return sum(map(len, self.parts)) - len(self)

    @property
    def labels(self) -> Tensor | None:
        """The label (n,) of each row, negative where there is none; None if no row has one."""
        if self._labels is None:
            return None
        kept = [
            one if mask is None else one[mask] for one, (_, mask) in zip(self._labels, self._with_kept(), strict=True)
        ]
        return torch.cat(kept) if any(bool((one >= 0).any()) for one in kept) else None

    @property
    def row_name(self) -> Callable[[int], str] | None:
        """The name of a row by its number, not counting those that are left out; None without names."""
        if self._image_name is None:
            return None
        kept = None if self._kept is None else torch.cat(self._kept).nonzero().flatten()
        name, each = self._image_name, self._rows_of_image
        return lambda row: name((row if kept is None else int(kept[row])) // each)

    def check(self) -> None:
        """Finds the rows that are not finite, of all ranks. Later calls do nothing.

        Raises:
            SSLToolError: if there are such rows, unless ``skip_nonfinite``; lists the first indices.
        """
        if self._checked:
            return
        found = read_values(self.parts, self.ranks)
        kept = torch.cat([finite for finite, _ in found])
        if not self.skip_nonfinite:
            refuse_nonfinite_rows(kept, self.name, self.hint)
        for _, largest in found:
            refuse_range(largest, self.name)
        self._kept = None if bool(kept.all()) else [finite for finite, _ in found]
        self._checked = True

    def own_blocks(self, each: Callable[[int], object] | None = None) -> Iterator[tuple[int, Tensor]]:
        """``blocks`` of this rank's part of the rows, each with the number of its first row among those of all."""
        kept = None if self._kept is None else torch.cat(self._kept)
        first = self.span.start if kept is None else int(kept[: self.span.start].sum())
        for block in self.blocks(each=each, span=self.span):
            yield first, block
            first += len(block)

    def blocks(
        self,
        chunk_rows: int | None = None,
        each: Callable[[int], object] | None = None,
        span: range | None = None,
    ) -> Iterator[Tensor]:
        """Yields the rows (n, d) in order, in their stored precision; calls ``each`` with the number of rows read.

        ``span`` are the numbers of the rows, in all tensors, that are read; by default all.
        """
        for part, kept in self._within(span):
            start = 0
            for block in row_blocks(part, chunk_rows):
                finite = block if kept is None else block[kept[start : start + len(block)]]
                start += len(block)
                if len(finite):
                    yield finite.to(self.device)
                if each is not None:
                    each(len(block))

    def take(self, numbers: Tensor) -> Tensor:
        """The rows at the given indices (n,), in ascending order; rows left out have no index."""
        taken, first = [], 0
        for block in self.blocks():
            inside = numbers[(numbers >= first) & (numbers < first + len(block))]
            if len(inside):
                taken.append(block[(inside - first).to(block.device)])
            first += len(block)
        return torch.cat(taken)

    def _within(self, span: range | None) -> list[tuple[Tensor, Tensor | None]]:
        """The rows of each tensor in ``span``, by default all, and which of them are kept."""
        counts = [len(part) for part in self.parts]
        inside = within(counts, range(sum(counts)) if span is None else span)
        pairs = zip(self._with_kept(), inside, strict=True)
        return [(part[rows], None if kept is None else kept[rows]) for (part, kept), rows in pairs]

    def _with_kept(self) -> list[tuple[Tensor, Tensor | None]]:
        all_kept: list[Tensor | None] = [None] * len(self.parts)
        return list(zip(self.parts, self._kept or all_kept, strict=True))
