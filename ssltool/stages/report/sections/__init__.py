"""The registry of the sections of a report, from top to bottom.

The module of a section is imported when the report is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.registry import Registry

if TYPE_CHECKING:
    from ssltool.stages.report.contents import ReportedRun


@dataclass(frozen=True)
class Section:
    """A section: the function ``target(runs)`` that returns its HTML, and its ``title``. The contents of the page link
    to its name. Runs whose attribute ``needs`` is None are left out of it."""

    target: str | Callable[[Sequence[ReportedRun]], str]
    title: str
    needs: str = ""


SECTIONS: Registry[Section] = Registry(
    "section",
    __name__,
    {
        "verdict": Section(".verdict:render", "Verdict"),
        "metrics": Section(".metrics:render", "Metrics"),
        "spectra": Section(".spectra:render", "Spectra"),
        "training": Section(".training:render", "During training"),
        "map": Section(".map:render", "Map", "map"),
        "neighbours": Section(".neighbours:render", "Nearest neighbours", "neighbours"),
        "patches": Section(".patches:render", "Patches", "patches"),
        "views": Section(".views:render", "Sample views", "views"),
        "schedule": Section(".data_schedule:render", "Data schedule", "schedule"),
        "settings": Section(".settings:render", "Settings"),
    },
)
