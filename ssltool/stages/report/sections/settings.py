"""The section of settings: those in which the runs differ, all of them, and where the numbers come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import columns, element, escape


def render(runs: Sequence[ReportedRun]) -> str:
    """Every setting: first those in which the runs differ, then all; and where the numbers come from."""
    flat = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    apart = [name for name in names if len({one.get(name) for one in flat}) > 1]
    heads = [element("th", "", scope="col")] + [element("th", escape(run.name), scope="col") for run in runs]

    def rows(chosen: Sequence[str], values: Sequence[dict[str, str]]) -> list[str]:
        def row(name: str) -> str:
            cells = [element("td", element("code", escape(one.get(name, "–")))) for one in values]
            return element("tr", element("th", escape(name), scope="row") + "".join(cells))

        return [row(name) for name in chosen]

    parts = []
    if len(runs) > 1:
        what = f"{len(apart)} of {len(names)} settings differ." if apart else "The runs have the same settings."
        parts.append(element("h3", "What differs") + element("p", what, class_="caption"))
        parts += [columns(heads, rows(apart, flat), class_="settings")] if apart else []
    origins = [{k: str(v) for k, v in run.origin.items()} for run in runs]
    parts.append(element("h3", "Where the numbers come from"))
    parts.append(columns(heads, rows(list(origins[0]), origins), class_="settings"))
    everything = columns(heads, rows(names, flat), class_="settings")
    parts.append(element("details", element("summary", f"All {len(names)} settings") + everything))
    return "\n".join(parts)


def _flat(config: Any) -> dict[str, str]:
    """Settings as text, the method's options among them."""
    options = {f"{name} (option)": value for name, value in config["method_options"].items()}
    values = {name: value for name, value in config.items() if name != "method_options"} | options
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
