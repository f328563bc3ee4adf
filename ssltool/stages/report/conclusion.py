"""The first sentence of a report, for readers who know none of the terms."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.config.fields import STATES
from ssltool.stages.report.contents import ReportedRun

HEALTHY, PARTIAL, COMPLETE = STATES

OF_ONE = {
    HEALTHY: (
        "This run is healthy: the network gives different outputs for different images, and they differ in several "
        "independent ways."
    ),
    PARTIAL: (
        "This run has partly collapsed: the network tells images apart, but in fewer ways or by smaller differences "
        "than it could, so it has probably learned less than a healthy run."
    ),
    COMPLETE: (
        "This run has collapsed: the outputs of the network are nearly the same for all images, so they say little or "
        "nothing about an image."
    ),
}
"""The sentence about a run, by the verdict on its representations."""

MEANS = "; the outputs of a collapsed network are similar for all images"

HOW = {PARTIAL: "partly", COMPLETE: "completely"}


def plain_sentence(runs: Sequence[ReportedRun]) -> str:
    """What the verdicts mean, and of several runs which collapsed and which to keep."""
    if len(runs) == 1:
        return _of_one(runs[0])
    healthy = [run for run in runs if not run.worst.severity]
    collapsed = [f"{run.name} ({HOW[run.worst.state]}{_where(run)})" for run in runs if run.worst.severity]
    if not healthy:
        return f"All {len(runs)} runs have collapsed: {', '.join(collapsed)}; keep none of them{MEANS}."
    if not collapsed:
        return f"None of the {len(runs)} runs has collapsed; keep {_choice(healthy)}."
    verb = "has" if len(collapsed) == 1 else "have"
    which = f"{', '.join(collapsed)} {verb} collapsed"
    return f"Of {len(runs)} runs, {which}; keep {_choice(healthy)}{MEANS}."


def _of_one(run: ReportedRun) -> str:
    first, rest = run.layers[0], run.layers[1:]
    worst = max(rest, key=lambda layer: layer.verdict.severity, default=None)
    if first.verdict.severity or worst is None or not worst.verdict.severity:
        return OF_ONE[first.verdict.state]
    return (
        f"{OF_ONE[HEALTHY][:-1]}; only the outputs of its {worst.name}, a part for training, have "
        f"{HOW[worst.verdict.state]} collapsed."
    )


def _where(run: ReportedRun) -> str:
    """Of a collapse that the representations do not have, the layer that has it."""
    first, *rest = run.layers
    worst = max(rest, key=lambda layer: layer.verdict.severity, default=first)
    return "" if first.verdict.severity else f", only the {worst.name}"


def _choice(healthy: Sequence[ReportedRun]) -> str:
    """Which of the healthy runs to keep: that with the highest kNN accuracy, if all are measured on the same images."""
    names = [run.name for run in healthy]
    if len(names) == 1:
        return f"{names[0]}, which has not"
    same = len({(run.settings.get("fingerprint"), run.sampled) for run in healthy}) == 1
    known = [run.accuracy for run in healthy if run.accuracy is not None]
    if same and len(known) == len(healthy):
        best = max(healthy, key=lambda run: run.accuracy or 0.0)
        return f"{best.name}, whose outputs tell the classes apart best (kNN accuracy {best.accuracy:.1%})"
    return f"one of {', '.join(names)}"
