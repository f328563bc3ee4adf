"""The settings of ``ssltool report``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import DeviceSettings
from ssltool.config.fields import decoders, image_folder, seed, wrong_suffix
from ssltool.settings import setting

MAPS = ("pca", "tsne")


@dataclass(frozen=True)
class ReportConfig(DeviceSettings):
    """Settings of ``ssltool report``."""

    runs: tuple[str, ...] = setting((), "run folders of pretrain")
    checkpoint: str = setting("checkpoint.pt", "checkpoint of each run", section="Model", metavar="NAME")
    data: str | None = image_folder("folder of the images, if it was moved [default: each run's own]")
    size: int = setting(2000, "number of training images to measure", section="Data", minimum=2)
    workers: int | None = decoders()
    neighbours: int = setting(8, "neighbours shown for each image", minimum=1)
    queries: int = setting(8, "number of images whose neighbours are shown", minimum=1)
    rows: int = setting(4, "number of images whose views are shown", minimum=1)
    map: str = setting(
        "pca", "projection of the map to two dimensions: principal components, or t-SNE from scikit-learn", choices=MAPS
    )
    seed: int = seed("the choice of images and of t-SNE")
    title: str | None = setting(None, "heading of the page [default: the runs' names]", section="Output")
    out: str = setting("report.html", "HTML file to write", "-o", section="Output", metavar="FILE", writes=True)

    def mistakes(self) -> Iterator[str]:
        if not self.runs:
            yield "name at least one run folder"
        yield from wrong_suffix("out", self.out, ".html", ".htm")
