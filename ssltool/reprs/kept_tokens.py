"""Which tokens of each image are kept: all, or patches that are drawn at random."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ssltool import seeds
from ssltool.errors import SSLToolError
from ssltool.models.tokens import PATCH, TokenPlaces


class KeptTokens:
    """The tokens that are kept of each image.

    With ``sample`` these are the other tokens and ``sample`` patches, without replacement and in the order of the
    network. They depend on the seed and the image's number in its dataset only.

    Args:
        places: the tokens of an image that the network gives.
        sample: the number of patches to keep; None for all.
        seed: the seed of the run.

    Raises:
        SSLToolError: if an image has fewer patches.
    """

    def __init__(self, places: TokenPlaces, sample: int | None, seed: int) -> None:
        self._all, self._sample, self.grid = places, sample, places.grid
        self._patches = (places.kind == PATCH).nonzero().flatten()
        self._others = (places.kind != PATCH).nonzero().flatten()
        self._seed = seeds.derive(seed, seeds.Stream.SAVED_PATCHES)
        if sample is not None and sample > len(self._patches):
            raise SSLToolError(f"--sample-patches {sample}: an image has only {len(self._patches)} patches; lower it")

    @property
    def sampled(self) -> bool:
        """Whether the tokens differ between images."""
        return self._sample is not None

    def __len__(self) -> int:
        """The number of tokens that are kept of each image."""
        return len(self._all) if self._sample is None else len(self._others) + self._sample

    def positions(self, index: Iterable[int]) -> Tensor:
        """The positions among the network's tokens of those that are kept, (n, len), of the images ``index``."""
        return torch.stack([self._positions(int(number)) for number in index])

    def take(self, tokens: Tensor, index: Iterable[int]) -> Tensor:
        """The kept ones of ``tokens`` (n, T, D) of the images ``index``: (n, len, D)."""
        return tokens[torch.arange(len(tokens))[:, None], self.positions(index)]

    def column(self, name: str, index: Tensor, some: slice) -> Tensor:
        """``kind``, ``row`` or ``column`` of the kept tokens of ``some`` of the images ``index``: (n len,)."""
        values: Tensor = getattr(self._all, name)
        if self._sample is None:
            return values.repeat(len(index[some]))
        return values[self.positions(index[some].tolist()).flatten()]

    def _positions(self, number: int) -> Tensor:
        drawn = torch.randperm(len(self._patches), generator=seeds.generator(self._seed, number))
        return torch.cat([self._others, self._patches[drawn[: self._sample].sort().values]])
