"""The settings of ``ssltool diagnose``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.common import CheckpointsSettings
from ssltool.config.fields import limit, output, wrong_suffix
from ssltool.settings import defaults_of, setting


@dataclass(frozen=True)
class DiagnoseConfig(CheckpointsSettings):
    """Settings of ``ssltool diagnose``."""

    items: tuple[str, ...] = setting((), "run folders, logs, folders of logs, or checkpoints")
    loss: str | None = setting(None, "column of the loss in a log [default: found by its name]", metavar="COLUMN")
    fail_on: str | None = limit(
        "exit with code 3 if a collapse, or a failure of the training, is of this severity or kind", section="Verdict"
    )
    seed: int | None = setting(
        None,
        "seed of the sample and of the untrained network [default: the checkpoint's]",
        section="Data",
        minimum=0,
    )
    out: str | None = output("also write the result to this .json file")

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
