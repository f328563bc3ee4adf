"""The section of the data schedule."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import charts, panel, run_heading, sample
from ssltool.viz.data_schedule import Schedule, draw_exposure, draw_rates, draw_slices, rate_names
from ssltool.viz.page import legend


def render(runs: Sequence[ReportedRun]) -> str:
    """The images of each epoch, how often each is seen, and the learning rate; once for runs with equal schedules."""
    groups: dict[tuple[bytes, ...], tuple[Schedule, list[ReportedRun]]] = {}
    for run in runs:
        if run.schedule is not None:
            groups.setdefault(run.schedule.key(), (run.schedule, []))[1].append(run)
    parts = []
    for number, (plan, group) in enumerate(groups.values()):
        drawn = [
            panel(
                lambda axis, draw=draw, plan=plan: draw(axis, plan),  # type: ignore[misc]
                f"schedule-{number}-{which}",
                f"Schedule of {', '.join(run.name for run in group)}, chart {which + 1} of 3",
            )
            for which, draw in enumerate((draw_slices, draw_exposure, draw_rates))
        ]
        names = rate_names(plan)
        lines = legend(names, [sample(i) for i in range(len(names))]) if len(names) > 1 else ""
        parts += [run_heading(group, runs), charts(drawn, escape_xml(plan.note)), lines]
    return "\n".join(parts)
