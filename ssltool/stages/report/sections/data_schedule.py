"""The section of the data schedule."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import charts, legend, panel, run_heading, sample
from ssltool.viz.data_schedule import draw_exposure, draw_rates, draw_slices, rate_names


def render(runs: Sequence[ReportedRun]) -> str:
    """The images of each epoch, how often each is seen, and the learning rate; once for runs with equal schedules."""
    groups: dict[tuple[bytes, ...], list[ReportedRun]] = {}
    for run in runs:
        groups.setdefault(run.schedule.key(), []).append(run)
    parts = []
    for number, group in enumerate(groups.values()):
        plan = group[0].schedule
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
