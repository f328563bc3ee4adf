"""Orders of images that are computed where they are used, so that an order of any number of images takes no memory.

The keyed permutation is a Feistel network (Luby and Rackoff, SIAM J. Comput. 17, 1988), which permutes the numbers of
2b bits. Numbers that leave the range 0 to n - 1 are permuted again until they return ("cycle walking"; Black and
Rogaway, CT-RSA 2002).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssltool import seeds

ROUNDS = 6
"""Rounds of the network. Four are a pseudorandom permutation if their functions are pseudorandom."""

Places = np.ndarray | slice
"""Positions in an order: an array (k,) of integers, or a slice."""


class ComputedOrder(ABC):
    """Image numbers, of which ``order[places]`` computes those at ``places``, (k,) int64."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of positions."""

    @abstractmethod
    def at(self, places: np.ndarray) -> np.ndarray:
        """The numbers at ``places`` (k,), which are from 0 to ``len(self)`` - 1."""

    @property
    @abstractmethod
    def identity(self) -> bytes:
        """What determines the numbers."""

    def __getitem__(self, places: Places) -> np.ndarray:
        if isinstance(places, slice):
            return self.at(np.arange(*places.indices(len(self))))
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"positions must be from 0 to {len(self) - 1}")
        return self.at(places)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)


Order = np.ndarray | ComputedOrder
"""The order of the images of a run."""


class Consecutive(ComputedOrder):
    """The numbers 0 to n - 1."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def at(self, places: np.ndarray) -> np.ndarray:
        return places.astype(np.int64)

    @property
    def identity(self) -> bytes:
        return f"consecutive {self.n}".encode()


class KeyedPermutation(ComputedOrder):
    """A permutation of 0 to n - 1 by ``key``, any number of integers."""

    def __init__(self, n: int, *key: int) -> None:
        self.n, self.key = n, key
        self._bits = max(1, (max(1, n - 1).bit_length() + 1) // 2)
        self._mask = np.uint64(2**self._bits - 1)
        self._keys = [np.uint64(seeds.derive(*key, number)) for number in range(ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def at(self, places: np.ndarray) -> np.ndarray:
        numbers = self._permuted(places.astype(np.uint64))
        outside = np.flatnonzero(numbers >= self.n)
        while len(outside):
            numbers[outside] = self._permuted(numbers[outside])
            outside = outside[numbers[outside] >= self.n]
        return numbers.astype(np.int64)

    @property
    def identity(self) -> bytes:
        return f"keyed permutation of {self.n} by {self.key}".encode()

    def _permuted(self, numbers: np.ndarray) -> np.ndarray:
        left, right = numbers >> np.uint64(self._bits), numbers & self._mask
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) & self._mask)
        return (left << np.uint64(self._bits)) | right


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a hash of uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True)
class Epoch(ComputedOrder):
    """The image numbers of one epoch in batch order: those of ``order`` from ``start`` to ``stop``, in whole batches.

    Of a keyed permutation, each pass over the slice permutes it by (seed, epoch, pass), as ``epoch_indices`` does with
    its random generator. Of consecutive numbers, the batches are consecutive, in one pass.
    """

    order: ComputedOrder
    start: int
    stop: int
    batch_size: int
    steps: int
    repeat_batch: int
    seed: int
    epoch: int

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def at(self, places: np.ndarray) -> np.ndarray:
        size, width = self.batch_size, self.stop - self.start
        batch = places // size // self.repeat_batch
        number, batch = np.divmod(batch, width // size)
        within = batch * size + places % size
        if isinstance(self.order, KeyedPermutation):
            for one in np.unique(number):
                chosen = number == one
                keys = self.seed, self.epoch, int(one), seeds.Stream.ORDER
                within[chosen] = KeyedPermutation(width, *keys).at(within[chosen])
        return self.order.at(self.start + within)

    @property
    def identity(self) -> bytes:
        return f"{self.order.identity.decode()}, {self.start} to {self.stop}, epoch {self.epoch}".encode()
