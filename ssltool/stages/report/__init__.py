"""The report stage: one HTML page about one or several runs. Importing the package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssltool.config import ReportConfig


def run(config: ReportConfig) -> dict[str, Any]:
    """The stage; see ``report.run``."""
    from ssltool.stages.report.report import run as stage

    return stage(config)
