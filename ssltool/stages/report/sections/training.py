"""The section of training: metrics over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.diagnosis.phases import phases_of_records
from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import charts, panel, sample
from ssltool.viz import curves
from ssltool.viz.page import element, lead, legend, sizes
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
    lines = "".join(map(_phases, runs)) + (legend(names, samples) if names else "")
    text = lead(
        f"{_measured(runs)}AUC and dead directions refer to the directions that a layer can have. Dotted: "
        "the value at complete collapse."
    )
    return text + lines + charts(drawn)


def _phases(run: ReportedRun) -> str:
    """The phases of a training, by the rank and the decay of the spectrum of its first layer."""
    layer = next((layer.name for layer in run.layers), "backbone")
    found = ", ".join(map(str, phases_of_records(run.records, layer)))
    unit = "epochs" if any("epoch" in record for record in run.records) else "steps"
    said = f"{run.name}: phases, in {unit}: {found}. A falling rank late in a training is no fault by itself."
    return element("p", escape_xml(said)) if found else ""


def _measured(runs: Sequence[ReportedRun]) -> str:
    """The images that the monitor measured; the other sections have another sample."""
    counts = [run.monitored_images for run in runs if run.monitored_images is not None]
    return f"Measured by the monitor on {sizes(counts)} images of each run. " if counts else ""
