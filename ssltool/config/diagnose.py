"""The settings of ``ssltool diagnose``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import DataSettings, DeviceSettings
from ssltool.config.fields import (
    SPLITS,
    all_images,
    batch_size,
    image_folder,
    limit,
    network_arch,
    network_key,
    network_stem,
    output,
    seed,
    wrong_suffix,
)
from ssltool.settings import Rule, defaults_of, setting


@dataclass(frozen=True)
class DiagnoseConfig(DeviceSettings, DataSettings):
    """Settings of ``ssltool diagnose``."""

    items: tuple[str, ...] = setting((), "run folders, logs, folders of logs, or checkpoints")
    loss: str | None = setting(None, "column of the loss in a log [default: found by its name]", metavar="COLUMN")
    fail_on: str | None = limit(
        "exit with code 3 if a collapse, or a failure of the training, is of this severity or kind", section="Verdict"
    )
    data: str | None = image_folder(
        "folder of the images for checkpoints [default: the checkpoint's, else the bundled]"
    )
    all: bool = all_images()
    split: str | None = setting(
        None,
        "split of the images [default: the one that --dataset-type names, else train]",
        choices=SPLITS,
        section="Data",
    )
    sample: int = setting(
        1024, "use this many of the images, drawn at random, or all if there are fewer", section="Data", minimum=2
    )
    batch_size: int = batch_size(256, "images in a batch", section="Data", minimum=1)
    seed: int = seed("the sample and of the untrained network", section="Data")
    arch: str | None = network_arch()
    stem: str | None = network_stem()
    key: str | None = network_key()
    out: str | None = output("also write the result to this .json file")

    def conflicts(self) -> list[Rule]:
        return [
            *super().conflicts(),
            (("all",), self.idx_path is not None, "with --idx-path, which names the images"),
            (("all",), self.data is not None, "with --data: without --idx-path, all of its images are used"),
        ]

    def mistakes(self) -> Iterator[str]:
        if not self.items:
            yield "name at least one run folder, log or checkpoint"
        yield from wrong_suffix("out", self.out, ".json")

    def of_checkpoints(self) -> list[str]:
        """The settings that are not at their defaults and have an effect on checkpoints only."""
        others = ("items", "loss", "fail_on", "out")
        defaults = defaults_of(self)
        return [
            f.name
            for f in dataclasses.fields(self)
            if f.name not in others and getattr(self, f.name) != defaults[f.name]
        ]
