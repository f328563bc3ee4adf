"""The section of spectra: the paper's three curves of all runs."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.report.contents import Layer, ReportedRun
from ssltool.stages.report.html import charts, element, escape, lead, legend, panel, sample
from ssltool.viz.spectra import panels


def render(runs: Sequence[ReportedRun]) -> str:
    """The paper's three curves of all runs, layer by layer."""
    parts = [
        lead(
            "Singular values of the centred representations. A cliff in the first two curves, or a third that rises at "
            "once, is a collapse onto few dimensions; the thin line is a flat spectrum."
        ),
        legend([run.name for run in runs], [sample(i) for i in range(len(runs))]) if len(runs) > 1 else "",
    ]
    for name in dict.fromkeys(layer.name for run in runs for layer in run.layers):
        # Every run keeps its place, so that it keeps its colour.
        found = [run.layer(name) for run in runs]
        values = [layer.measured.s if layer else None for layer in found]
        drawn = [
            panel(
                lambda axis, draw=draw, values=values: draw(axis, values),  # type: ignore[misc]
                f"spectrum-{name}-{number}",
                f"Spectrum of the {name}, curve {number + 1} of 3",
            )
            for number, draw in enumerate(panels("svd"))
        ]
        there = [layer for layer in found if layer]
        areas = [
            (f"{run.name} " if len(runs) > 1 else "") + f"{layer.measured.metrics['auc']:.3f}"
            for run, layer in zip(runs, found, strict=True)
            if layer
        ]
        caption = f"Area under the third curve (AUC): {', '.join(areas)}. {' '.join(dict.fromkeys(map(_bound, there)))}"
        parts += [element("h3", name.capitalize()), charts(drawn, escape(caption))]
    return "\n".join(parts)


def _bound(layer: Layer) -> str:
    count, values = layer.verdict.details["dimensions"], len(layer.measured.s)
    if count == values:
        return ""
    return f"At most {count} of {values} directions get through the {layer.name}; the verdict is on these."
