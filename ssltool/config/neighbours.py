"""The settings of ``ssltool neighbours``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import SimilarImagesSettings
from ssltool.config.fields import seed
from ssltool.settings import Rule, setting


@dataclass(frozen=True)
class NeighboursConfig(SimilarImagesSettings):
    """Settings of ``ssltool neighbours``."""

    reprs: str = setting("", "representations")
    queries: tuple[str, ...] = setting((), "images whose neighbours are listed")
    k: int = setting(8, "neighbours of each image", "-k", minimum=1, maximum=100_000)
    spread: int = setting(6, "without QUERY: number of images, the ones nearest to the centres of k-means", minimum=1)
    seed: int = seed("k-means")
    pretrained: str | None = setting(
        None,
        "checkpoint that embeds a QUERY that is an image file, if it was moved [default: the one that REPRS names]",
        section="Model",
        metavar="FILE",
    )

    def conflicts(self) -> list[Rule]:
        return [*super().conflicts(), (("spread", "seed"), bool(self.queries), "with QUERY, which names the images")]

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        if not self.reprs:
            yield "name a file of representations"
