"""The section of verdicts: a card for each run."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.report.contents import Layer, ReportedRun
from ssltool.stages.report.html import badge, element, escape, sample


def render(runs: Sequence[ReportedRun]) -> str:
    """A card for each run: the verdict on each layer with its evidence and caveats."""
    cards = []
    for i, run in enumerate(runs):
        name = element("h3", sample(i) + escape(run.name)) if len(runs) > 1 else ""
        head = element("div", name + element("p", escape(_what(run)), class_="what"))
        cards.append(element("article", head + "".join(map(_layer, run.layers)), class_="card"))
    return element("div", "".join(cards), class_="cards")


def _layer(layer: Layer) -> str:
    share = layer.verdict.details["used_share"]
    words = f"{layer.verdict.details['used']:.1f} of {layer.verdict.details['dimensions']:,} dimensions in use"
    bar = element("span", "", class_="used", style=f"width: {100 * min(1.0, max(share, 0.004)):.1f}%")
    notes = "".join(element("li", escape(note)) for note in layer.measured.notes)
    return element(
        "div",
        element("h4", escape(layer.name.capitalize()) + badge(layer.verdict))
        + element("p", escape(layer.verdict.line), class_="evidence")
        + element("div", bar, class_="bar", role="img", aria_label=words)
        + element("p", words, class_="words")
        + (element("ul", notes, class_="notes") if notes else ""),
        class_="layer",
    )


def _what(run: ReportedRun) -> str:
    c, epochs = run.config, run.origin["epoch"]
    done = f"{epochs} epochs" if epochs == c["epochs"] else f"{epochs} of {c['epochs']} epochs"
    return f"{c['method']} · {c['arch']} · {c['strategy']} · {c['n_images']:,} images · {done}"
