"""The settings of ``ssltool table``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ssltool.config.fields import output, wrong_suffix
from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class TableConfig(Checked):
    """Settings of ``ssltool table``."""

    runs: tuple[str, ...] = setting((), "run folders of pretrain or of a monitor, and of lincls, finetune and scan")
    out: str | None = output("write the table with all columns to this .csv or .json file")

    def mistakes(self) -> Iterator[str]:
        if not self.runs:
            yield "name at least one run folder"
        yield from wrong_suffix("out", self.out, ".csv", ".json")
