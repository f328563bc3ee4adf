"""How ranks open their images: rank 0 lists them for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeVar

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet, open_dataset
from ssltool.training import distributed

S = TypeVar("S", bound=DataSettings)
T = TypeVar("T")


class FromRankZero(Protocol):
    """Gives all ranks what ``make`` returns on rank 0; see ``distributed.from_rank_zero``."""

    def __call__(self, make: Callable[[], T], /) -> T: ...


def open_images(
    settings: DataSettings, split: str, from_rank_zero: FromRankZero = distributed.from_rank_zero
) -> ImageSet:
    """``open_dataset`` for ranks, which must all call it; see ``open_on_ranks``."""
    return open_on_ranks(lambda own: open_dataset(own, split), settings, from_rank_zero)


def open_on_ranks(
    open_data: Callable[[S], ImageSet], settings: S, from_rank_zero: FromRankZero = distributed.from_rank_zero
) -> ImageSet:
    """``open_data(settings)``, which rank 0 calls first, and alone with ``--download``.

    Image files, and archives and tables of them, are listed by rank 0, which sends the list to the others, with the
    pixels if these are in memory. Arrays of images and a cache are opened by each rank.

    Raises:
        SSLToolError: that of rank 0; for what only another rank cannot open, on that rank alone.
    """
    own: list[ImageSet] = []

    def list_files() -> ImageSet | None:
        own.append(open_data(settings))
        of_files = own[0].paths is not None or own[0].files is not None
        return own[0] if of_files and own[0].cached is None else None

    listed = from_rank_zero(list_files)
    if listed is not None:
        return listed
    return own[0] if own else open_data(dataclasses.replace(settings, download=False))
