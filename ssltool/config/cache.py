"""The settings of ``ssltool cache``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import SourceSettings
from ssltool.config.fields import SPLITS, cache_size, decoders, output
from ssltool.settings import setting


@dataclass(frozen=True)
class CacheConfig(SourceSettings):
    """Settings of ``ssltool cache``."""

    split: str | None = setting(
        None,
        "split; both is train and val [default: the one that --dataset-type names, else train]",
        choices=(*SPLITS, "both"),
        section="Data",
    )
    size: int = cache_size(256, "shorter side of the images; smaller ones are kept as they are")
    workers: int | None = decoders("threads")
    out: str | None = output("folder of the cache", metavar="DIR")

    def mistakes(self) -> Iterator[str]:
        if self.out is None:
            yield "name the folder of the cache with -o DIR"
