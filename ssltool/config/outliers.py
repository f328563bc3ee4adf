"""The settings of ``ssltool outliers``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import SimilarImagesSettings
from ssltool.settings import setting


@dataclass(frozen=True)
class OutliersConfig(SimilarImagesSettings):
    """Settings of ``ssltool outliers``."""

    reprs: str = setting("", "representations")
    count: int = setting(20, "images to list", "-n", minimum=1)
    k: int = setting(
        5, "the distance is that to the k-th nearest other image; copies are no outliers only below k", "-k", minimum=1
    )

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        if not self.reprs:
            yield "name a file of representations"
