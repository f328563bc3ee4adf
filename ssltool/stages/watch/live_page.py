"""The page of ``watch``: the parts of a report's page, and scripts that fill them. It has no data of runs."""

from __future__ import annotations

from functools import cache

from ssltool.config.fields import STATES
from ssltool.diagnosis.kinds import KINDS
from ssltool.files.writing import to_json
from ssltool.viz.page import asset, columns, document, element, masthead, section, state_words

HERE = __name__.rpartition(".")[0]

ASSETS = {
    "page.css": "ssltool.viz",
    "page.js": "ssltool.viz",
    **dict.fromkeys(("watch.css", "watch.js", "charts.js", "overview.js", "run_view.js", "dom.js"), HERE),
}
"""The style sheets and scripts, and the packages that hold them."""

KEYS = {
    "j, k": "next and previous run",
    "Enter": "open the run",
    "x": "draw its curves or not",
    "c": "compare the two chosen runs",
    "/": "filter",
    "Esc": "back to all runs",
    "← →": "at the slider: the checkpoint before and after",
}
"""The keys of the page."""


@cache
def static(name: str) -> str:
    """The text of one of ``ASSETS``."""
    return asset(name, ASSETS[name])


def html(every: float) -> str:
    """The page, whose scripts ask for news after ``every`` seconds."""
    head = "\n".join(
        [
            element("link", rel="icon", href="data:,"),
            *(element("link", rel="stylesheet", href=f"/static/{name}") for name in ASSETS if name.endswith(".css")),
            element("script", src="/static/page.js", defer="defer"),
            element("script", src="/static/watch.js", type="module"),
        ]
    )
    status = element("p", "connecting", id="status", role="status")
    top = element("header", masthead("ssltool watch", status) + element("div", _title(), id="heading"))
    content = element("main", _overview(), id="overview") + element("main", "", id="details", hidden="hidden")
    words = {state: state_words(state) for state in STATES}
    facts = {"every": every, "states": words, "kinds": {name: kind.sentence for name, kind in KINDS.items()}}
    body = top + content + _template() + element("footer", _keys())
    return document("ssltool watch", head, element("div", body, id="watch", data_facts=to_json(facts)))


def _title() -> str:
    missing = element("noscript", element("p", "This page needs JavaScript, which your browser does not run."))
    back = element("a", "← all runs", href="#", id="back", hidden="hidden")
    return back + element("h1", "Runs", id="title") + element("p", "", id="summary", class_="plain") + missing


def _overview() -> str:
    filtering = element(
        "label",
        element("span", "Filter") + element("input", id="filter", type="search", placeholder="name, state, lr 0.05"),
    )
    chooser = element(
        "details", element("summary", "Columns") + element("div", "", id="columns"), class_="menu", id="chooser"
    )
    compare = element("a", "Compare side by side", id="compare", hidden="hidden")
    tools = element("div", filtering + chooser + compare, class_="tools")
    table = columns([], [], class_="sortable", id="runs")
    curves = element("ul", "", class_="legend", id="legend") + element("div", "", class_="charts", id="curves")
    ranking = element(
        "p",
        element("button", "Rank the drawn runs", type="button", id="rank")
        + element("button", "Rank their checkpoints", type="button", id="rank-checkpoints"),
        class_="tools",
    ) + element("div", "", id="ranking", aria_live="polite")
    return (
        element("section", tools + table + element("p", "", id="note", class_="caption"), id="all", aria_label="Runs")
        + section("drawn", "During training", curves)
        + section("order", "What rank prefers", ranking)
    )


def _template() -> str:
    """One run; scripts copy it."""
    spectra = (
        element(
            "div",
            element("button", "Measure checkpoints", type="button", class_="measure")
            + element("span", "", class_="measured words", role="status"),
            class_="tools",
        )
        + element(
            "label",
            element("span", "Checkpoint")
            + element("input", type="range", min=0, max=0, step=1, class_="slider")
            + element("output", "", class_="chosen"),
            class_="slide",
            hidden="hidden",
        )
        + element("div", "", class_="spectra charts")
    )
    settings = element("details", element("summary", "All settings") + element("div", "", class_="settings-of"))
    parts = [
        element("div", element("h2", "", class_="name"), class_="run-head"),
        element("dl", "", class_="tiles"),
        element("div", "", class_="diagnosis", aria_live="polite"),
        element("h3", "During training")
        + element("ul", "", class_="legend")
        + element("div", "", class_="charts live"),
        element("h3", "Spectrum", class_="of-checkpoints") + element("div", spectra, class_="of-checkpoints"),
        element("div", "", class_="pictures-of"),
        settings,
    ]
    return element("template", element("article", "".join(parts), class_="run"), id="run")


def _keys() -> str:
    keys = "".join(element("dt", element("kbd", key)) + element("dd", what) for key, what in KEYS.items())
    return element("details", element("summary", "Keys") + element("dl", keys, class_="keys"))
