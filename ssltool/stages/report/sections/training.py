"""The section of training: metrics over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import charts, element, lead, legend, panel, sample, sizes
from ssltool.viz import curves
from ssltool.viz.style import COLOURS


def render(runs: Sequence[ReportedRun]) -> str:
    """Metrics over epochs, from the records of the runs."""
    records = [run.records for run in runs]
    shown = curves.curves_of(records)
    names = [run.name for run in runs] if len(runs) > 1 else []
    samples = [sample(i, "-", marker=True) for i in range(len(names))]
    layers = curves.shown_layers(shown, records)
    names += layers
    samples += [sample(len(COLOURS) - 1, style) for style in layers.values()]
    drawn = [
        panel(
            lambda axis, curve=curve: curves.draw_curve(axis, curve, records),  # type: ignore[misc]
            f"curve-{number}",
            f"{curve.title} over {'epochs' if curves.has_epochs(records) else 'steps'}",
        )
        for number, curve in enumerate(shown)
    ]
    if not drawn:
        return element("p", "No epochs are recorded.")
    lines = legend(names, samples) if names else ""
    text = lead(
        f"{_measured(runs)}AUC and dead directions refer to the directions that a layer can have. Dotted: "
        "the value at complete collapse."
    )
    return text + lines + charts(drawn)


def _measured(runs: Sequence[ReportedRun]) -> str:
    """The images that the monitor measured; the other sections have another sample."""
    counts = [run.monitored_images for run in runs if run.monitored_images is not None]
    return f"Measured by the monitor on {sizes(counts)} images of each run. " if counts else ""
