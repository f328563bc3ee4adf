"""The section of settings: differences between the runs, checkpoints and versions, and all settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.runs.differing import flat_settings
from ssltool.settings import Settings
from ssltool.stages.report.contents import ReportedRun
from ssltool.viz.page import columns, element


def render(runs: Sequence[ReportedRun]) -> str:
    """The settings in which the runs differ, checkpoints and versions, and all settings."""
    flat = [_texts(run.settings) for run in runs]
    names = list(dict.fromkeys(name for settings in flat for name in settings))
    different = [name for name in names if len({settings.get(name) for settings in flat}) > 1]
    heads = [element("th", "", scope="col")] + [element("th", escape_xml(run.name), scope="col") for run in runs]

    def rows(chosen: Sequence[str], values: Sequence[dict[str, str]]) -> list[str]:
        def row(name: str) -> str:
            cells = [element("td", element("code", escape_xml(column.get(name, "–")))) for column in values]
            return element("tr", element("th", escape_xml(name), scope="row") + "".join(cells))

        return [row(name) for name in chosen]

    parts = []
    if len(runs) > 1:
        parts.append(element("h3", "Differences"))
        parts.append(element("p", f"{len(different)} of {len(names)} settings differ.", class_="caption"))
        parts += [columns(heads, rows(different, flat), class_="settings")] if different else []
    origins = [{k: str(v) for k, v in run.origin.items() if v is not None} for run in runs]
    parts.append(element("h3", "Checkpoints and versions"))
    facts = list(dict.fromkeys(name for one in origins for name in one))
    parts.append(columns(heads, rows(facts, origins), class_="settings"))
    everything = columns(heads, rows(names, flat), class_="settings")
    parts.append(element("details", element("summary", f"All {len(names)} settings") + everything))
    return "\n".join(parts)


def _texts(settings: Settings) -> dict[str, str]:
    """Settings and the options of the method as text."""
    values = flat_settings(settings).items()
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
