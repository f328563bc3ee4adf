"""The section of verdicts: one card per run."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.diagnosis.kinds import KINDS, Shown
from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import Layer, ReportedRun
from ssltool.stages.report.html import sample
from ssltool.viz.page import badge, element


def render(runs: Sequence[ReportedRun]) -> str:
    """One card per run: the verdict on each layer with its metrics and caveats."""
    cards = []
    for i, run in enumerate(runs):
        name = element("h3", sample(i) + escape_xml(run.name)) if len(runs) > 1 else ""
        head = element("div", name + element("p", escape_xml(run.title), class_="what"))
        layers = "".join(_layer(layer, run.sampled) for layer in run.layers)
        cards.append(element("article", head + layers, class_="card"))
    return element("div", "".join(cards), class_="cards")


def sentence_of(kind: Shown) -> str:
    """A kind of collapse in a plain sentence, with its name."""
    return f"{KINDS[kind.kind].sentence} (kind: {kind.kind})"


def _without_untrained(layer: Layer) -> str:
    """Why ``ssltool collapse`` without the untrained network says something else; empty if it does not."""
    if layer.alone is None or layer.alone.state == layer.verdict.state:
        return ""
    why = f" ({' and '.join(layer.alone.why)})" if layer.alone.why else ""
    return f"Without comparing with the untrained network: {layer.alone.state}{why}, as ssltool collapse says."


def _layer(layer: Layer, sampled: int) -> str:
    share = layer.verdict.details["used_share"]
    used = f"{layer.verdict.details['used']:.1f} of {layer.verdict.details['dimensions']:,} dimensions in use"
    text = f"{used}, measured on {sampled:,} images"
    bar = element("span", "", class_="used", style=f"width: {100 * min(1.0, max(share, 0.004)):.1f}%")
    kinds = "".join(element("p", escape_xml(sentence_of(kind)), class_="words kind") for kind in layer.verdict.kinds)
    kinds += element("p", escape_xml(_without_untrained(layer)), class_="words") if _without_untrained(layer) else ""
    notes = "".join(element("li", escape_xml(note)) for note in layer.notes)
    return element(
        "div",
        element("h4", escape_xml(layer.name.capitalize()) + badge(layer.verdict.state))
        + element("p", escape_xml(layer.verdict.line), class_="evidence")
        + element("div", bar, class_="bar", role="img", aria_label=text)
        + element("p", text, class_="words")
        + kinds
        + (element("ul", notes, class_="notes") if notes else ""),
        class_="layer",
    )
