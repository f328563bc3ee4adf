"""The settings of ``ssltool duplicates``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import SimilarImagesSettings
from ssltool.config.fields import seed
from ssltool.settings import setting

AUTO_SHARE = 0.01
"""The default threshold, as a share of the median distance of two random images; docs/neighbours.md has the
measurement."""


@dataclass(frozen=True)
class DuplicatesConfig(SimilarImagesSettings):
    """Settings of ``ssltool duplicates``."""

    reprs: str = setting("", "representations")
    others: str | None = setting(None, "representations of other images by the same network")
    threshold: float | None = setting(
        None,
        f"largest cosine distance of near-duplicates [default: {AUTO_SHARE:g} of the median distance of two random "
        "images]",
        metavar="T",
        minimum=0,
        maximum=2,
    )
    show: int = setting(20, "groups of each kind in the table and on the sheet, the largest first", minimum=1)
    seed: int = seed("the random images of the default threshold")

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        if not self.reprs:
            yield "name a file of representations"
