"""How ranks open their images: rank 0 lists them for all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.sources import Source
from ssltool.training import distributed

S = TypeVar("S", bound=DataSettings)
T = TypeVar("T")

NAMES_AT_ONCE = 1_000_000
"""Names that are sent to the other ranks at once."""


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

    Image files, and archives and tables of them, are listed by rank 0, which sends the list to the others. Images in
    memory or in a cache are opened by each rank, as are sources that are ``opened_by_each_rank``.

    Raises:
        SSLToolError: that of rank 0; for what only another rank cannot open, on that rank alone.
    """
    own: list[ImageSet] = []

    def open_first() -> ImageSet | None:
        own.append(open_data(settings))
        (images,) = own
        if images.cached is not None or images.paths is None:
            return None
        if isinstance(images.paths, Source):
            return None if images.paths.opened_by_each_rank else images
        return dataclasses.replace(images, paths=(), files=None if images.files is None else ())

    sent = from_rank_zero(open_first)
    if sent is None:
        return own[0] if own else open_data(dataclasses.replace(settings, download=False))
    paths = _names(own, "paths", len(sent), from_rank_zero) if sent.paths == () else sent.paths
    files = _names(own, "files", len(sent), from_rank_zero) if sent.files == () else sent.files
    return own[0] if own else dataclasses.replace(sent, paths=paths, files=files)


def _names(own: Sequence[ImageSet], name: str, count: int, from_rank_zero: FromRankZero) -> tuple[str, ...]:
    """The ``count`` names in the attribute ``name`` of rank 0's images, in pieces: pickling very many at once would
    stop the thread that shows the others that rank 0 lives."""
    found: list[str] = []
    for start in range(0, count, NAMES_AT_ONCE):
        piece = slice(start, start + NAMES_AT_ONCE)
        names = from_rank_zero(lambda piece=piece: getattr(own[0], name)[piece])  # type: ignore[misc]
        found += () if own else names  # rank 0 needs no copy
    return tuple(found)
