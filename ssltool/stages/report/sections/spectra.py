"""The section of spectra: the three curves of the collapse paper."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import Layer, ReportedRun
from ssltool.stages.report.html import charts, panel, sample
from ssltool.viz.page import element, lead, legend
from ssltool.viz.spectra import panels
from ssltool.viz.style import COLOURS


def render(runs: Sequence[ReportedRun]) -> str:
    """The three curves of the collapse paper for all runs, by layer."""
    parts = [
        lead(
            "Singular values of the centred representations. A steep drop in the first two curves, or a third curve "
            "that rises immediately, indicates collapse to few dimensions. Thin grey line: a flat spectrum."
        ),
        _legend(runs),
    ]
    layers = []
    for place, name in enumerate(dict.fromkeys(layer.name for run in runs for layer in run.layers)):
        # A run without the layer keeps its place, so that the colours of runs are the same in all charts.
        found = [run.layer(name) for run in runs]
        values = [layer.s if layer else None for layer in found]
        before = [layer.untrained_s if layer else None for layer in found]
        drawn = [
            panel(
                lambda axis, draw=draw, values=values, before=before: draw(axis, values, before),  # type: ignore[misc]
                f"spectrum-{place}-{number}",
                f"Spectrum of the {name}, curve {number + 1} of 3",
            )
            for number, draw in enumerate(panels("svd"))
        ]
        present = [(run, layer) for run, layer in zip(runs, found, strict=True) if layer]
        aucs = [(f"{run.name} " if len(runs) > 1 else "") + f"{layer.metrics['auc']:.3f}" for run, layer in present]
        bounds = " ".join(dict.fromkeys(_bound(run.sampled, layer) for run, layer in present))
        caption = f"Area under the third curve (AUC): {', '.join(aucs)}. {bounds}"
        layers.append(element("div", element("h3", escape_xml(name.capitalize())) + charts(drawn, escape_xml(caption))))
    return "\n".join([*parts, element("div", "\n".join(layers), class_="halves")])


def _legend(runs: Sequence[ReportedRun]) -> str:
    """The runs, and the line of the untrained network if there is one."""
    names, samples = [run.name for run in runs], [sample(i) for i in range(len(runs))]
    has_untrained = any(layer.untrained_s is not None for run in runs for layer in run.layers)
    if has_untrained:
        names.append("untrained network" + (", in the colour of the run" if len(runs) > 1 else ""))
        samples.append(sample(0 if len(runs) == 1 else len(COLOURS) - 1, ":"))
    return legend(names, samples) if len(names) > 1 else ""


def _bound(n: int, layer: Layer) -> str:
    count = layer.verdict.details["dimensions"]
    return f"Of {n:,} images, and the {count:,} of {layer.d:,} directions that the layer can have."
