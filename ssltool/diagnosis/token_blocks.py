"""The tokens of a sample of the images of a file, read in blocks of images, for the metrics of patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.metrics import METRICS, OF_TOKENS
from ssltool.diagnosis.metrics.of_tokens import GROUP
from ssltool.errors import SSLToolError
from ssltool.files.writing import FilePath
from ssltool.models.tokens import KINDS, PATCH
from ssltool.reprs.representations import Representations
from ssltool.reprs.token_set import ImageTokens, TokenSet, token_set


@dataclass(frozen=True)
class TokenBlocks:
    """The tokens of one ``kind`` of the images at ``positions`` (n,) in ``tokens``.

    Iteration yields blocks (at most ``GROUP``, P, D), and can be repeated.
    """

    tokens: TokenSet
    positions: Tensor
    kind: int = PATCH

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.positions.split(GROUP):
            yield torch.stack([self._take(position) for position in block.tolist()])

    def _take(self, position: int) -> Tensor:
        image = self.tokens[position]
        return image.tokens[image.kind == self.kind]


@dataclass(frozen=True)
class Tokens:
    """The tokens of a measurement, and those of the same images by another network.

    Attributes:
        now: the tokens.
        before: the tokens of another file.
        positions: which image of ``before`` (N,) is each image of ``now``.
    """

    now: TokenSet
    before: TokenSet | None = None
    positions: Tensor | None = None

    def count(self, kind: str) -> int:
        """The number of tokens of one ``kind`` of an image."""
        return int((self.now[0].kind == KINDS.index(kind)).sum()) if len(self.now) else 0

    def sample(self, count: int, seed: int) -> Tensor:
        """The positions (n,) of at most ``count`` images, drawn at random, in ascending order."""
        n = len(self.now)
        drawn = np.random.RandomState(seed % 2**32).permutation(n)[:count] if n > count else np.arange(n)
        return torch.from_numpy(np.sort(drawn))

    def patches(self, sample: Tensor) -> TokenBlocks:
        """The patches of the images at the positions ``sample`` (n,)."""
        return TokenBlocks(self.now, sample)

    def class_tokens(self, sample: Tensor) -> Tensor:
        """The class tokens (n, D) of the images at the positions ``sample`` (n,)."""
        return torch.cat([block[:, 0] for block in TokenBlocks(self.now, sample, KINDS.index("cls"))])

    def earlier_patches(self, sample: Tensor) -> TokenBlocks:
        """The patches of the same images in the other file.

        Raises:
            SSLToolError: if there is none, or the patches of an image are at other places.
        """
        if self.before is None or self.positions is None:
            raise SSLToolError("there are no tokens of another file")
        there = self.positions[sample]
        for ours, theirs in zip(sample.tolist(), there.tolist(), strict=True):
            if not _same_places(self.now[ours], self.before[theirs]):
                raise SSLToolError(
                    f"image {self.now[ours].index} has patches at other places in both files; save both with equal "
                    "--image-size, --sample-patches and --seed"
                )
        return TokenBlocks(self.before, there)


def tokens_of(paths: Sequence[FilePath], files: list[Representations], names: Iterable[str]) -> Tokens | None:
    """The tokens in ``files``; None if one of them has a row for each image, or none of the metrics ``names`` takes
    tokens."""
    if not any(METRICS[name].at in OF_TOKENS for name in names):
        return None
    now = token_set(paths, files)
    return None if now is None else Tokens(now)


def _same_places(one: ImageTokens, other: ImageTokens) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("kind", "row", "column"))
