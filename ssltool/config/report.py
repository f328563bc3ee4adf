"""The settings of ``ssltool report``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import DeviceSettings, decoders
from ssltool.settings import setting

MAPS = ("pca", "tsne")


@dataclass(frozen=True)
class ReportConfig(DeviceSettings):
    """Settings of ``ssltool report``."""

    runs: tuple[str, ...] = setting((), "run folders of pretrain")
    checkpoint: str = setting("checkpoint.pt", "which checkpoint of each run", section="Model", metavar="NAME")
    data: str | None = setting(
        None, "folder of the images, where it has moved [default: each run's own]", section="Data", metavar="DIR"
    )
    size: int = setting(2000, "training images that are looked at", section="Data", minimum=2)
    workers: int | None = decoders()
    neighbours: int = setting(8, "neighbours shown of each image", minimum=1)
    queries: int = setting(8, "images whose neighbours are shown", minimum=1)
    rows: int = setting(4, "images whose views are shown", minimum=1)
    map: str = setting(
        "pca", "the two dimensions of the map: principal components, or t-SNE by scikit-learn", choices=MAPS
    )
    seed: int = setting(10, "seed of the choice of images, and of t-SNE", minimum=0)
    title: str | None = setting(None, "heading of the page [default: the runs' names]", section="Output")
    out: str = setting("report.html", "page to write", "-o", section="Output", metavar="FILE")
