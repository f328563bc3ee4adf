"""The report stage: an HTML page that compares one or several runs. Importing the package does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssltool.config import ReportConfig
    from ssltool.settings import Record


def run(config: ReportConfig) -> Record:
    """The stage; see ``report.run``."""
    from ssltool.stages.report.report import run as stage

    return stage(config)
