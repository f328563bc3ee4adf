"""Which tokens of a network's output are taken, and where in the image they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import SSLToolError, counted
from ssltool.models.family import TokenLayout, square_grid

KINDS = ("cls", "registers", "patch")
"""The kinds of tokens in their order. Files hold the position in this list."""

PATCH = KINDS.index("patch")


@dataclass(frozen=True)
class TokenPlaces:
    """The P tokens that are kept of each image.

    Attributes:
        kind: (P,) int8, positions in ``KINDS``.
        row, column: (P,) int16, the place in the grid of patches, from 0 at the top left; -1 for a token without a
            place, or if it is not known.
        grid: the numbers of rows and columns of all patches of an image; None if they are not known.
    """

    kind: Tensor
    row: Tensor
    column: Tensor
    grid: tuple[int, int] | None

    @classmethod
    def of(cls, layout: TokenLayout, patches: int, grid: tuple[int, int] | None) -> TokenPlaces:
        """All tokens of a network with the order ``layout`` and ``patches`` patches, row by row in ``grid``."""
        counts = torch.tensor([int(layout.class_token), layout.registers, patches])
        kind = torch.arange(len(KINDS), dtype=torch.int8).repeat_interleave(counts)
        number = torch.arange(len(kind)) - layout.prefix
        known = (number >= 0) & torch.tensor(grid is not None)
        columns = 1 if grid is None else grid[1]
        row, column = (torch.where(known, at, -1).to(torch.int16) for at in (number // columns, number % columns))
        return cls(kind, row, column, grid)

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, positions: Tensor) -> TokenPlaces:
        """The tokens at ``positions`` (n,)."""
        return TokenPlaces(self.kind[positions], self.row[positions], self.column[positions], self.grid)


@dataclass(frozen=True)
class TokenSequence:
    """``tokens`` (N, T, D) of images in the order ``layout``; the patches are row by row in ``grid``."""

    tokens: Tensor
    layout: TokenLayout
    grid: tuple[int, int] | None

    @property
    def default(self) -> str:
        """The choice that represents an image: the class token, or the mean if there is none."""
        return "cls" if self.layout.class_token else "mean"

    def select(self, choice: str, layer: str) -> tuple[Tensor, TokenPlaces | None]:
        """The tokens of one kind (``cls``, ``registers``, ``patch``), ``all``, or the ``mean`` of the patches.

        Returns (N, D) and None for ``cls`` and ``mean``, else (N, P, D) and the places of the P tokens.

        Raises:
            SSLToolError: if the output, which is that of ``layer``, has no such token; the message lists what it has.
        """
        if choice == "mean":
            return self.tokens[:, self.layout.prefix :].mean(dim=1), None
        places = TokenPlaces.of(self.layout, self.tokens.shape[1] - self.layout.prefix, self.grid)
        kept = slice(None) if choice == "all" else self._span(choice)
        tokens = self.tokens[:, kept]
        if not tokens.shape[1]:
            missing = "class token" if choice == "cls" else choice
            raise SSLToolError(
                f"--tokens {choice}: the output of --layer {layer} has no {missing}, only {self.contents()}; use "
                "--tokens patch, mean or all"
            )
        if choice == "cls":
            return tokens[:, 0], None
        return tokens, places.take(torch.arange(len(places))[kept])

    def contents(self) -> str:
        """What an image has, for messages."""
        patches = counted(self.tokens.shape[1] - self.layout.prefix, "patch")
        shape = "" if self.grid is None else f" ({self.grid[0]} x {self.grid[1]})"
        parts = ["a class token"] if self.layout.class_token else []
        parts += [counted(self.layout.registers, "register")] if self.layout.registers else []
        return " and ".join([", ".join(parts), f"{patches}{shape}"] if parts else [f"{patches}{shape}"])

    def _span(self, kind: str) -> slice:
        first = int(self.layout.class_token)
        return {
            "cls": slice(0, first),
            "registers": slice(first, self.layout.prefix),
            "patch": slice(self.layout.prefix, None),
        }[kind]


def layout_of(count: int, last: int, layout: TokenLayout) -> TokenLayout | None:
    """The order of ``count`` tokens inside a network whose last layer has ``last`` tokens in the order ``layout``: the
    same, or patches alone, as behind a patch embedding. None if it is neither.

    Layers with fewer or more patches than the last one have a square number of them.
    """
    patches_only = TokenLayout(class_token=False)
    if count == last:
        return layout
    if count == last - layout.prefix:
        return patches_only
    if square_grid(count - layout.prefix):
        return layout
    return patches_only if square_grid(count) else None
