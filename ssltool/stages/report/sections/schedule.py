"""The section of the data schedule."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import charts, escape, legend, panel, run_heading, sample
from ssltool.viz import schedule


def render(runs: Sequence[ReportedRun]) -> str:
    """Which images each epoch draws from, how often each is seen, the learning rate; once for runs with the same."""
    shown: dict[tuple[bytes, ...], list[ReportedRun]] = {}
    for run in runs:
        shown.setdefault(run.schedule.key(), []).append(run)
    parts = []
    for number, alike in enumerate(shown.values()):
        course = alike[0].schedule
        drawn = [
            panel(
                lambda axis, draw=draw, course=course: draw(axis, course),  # type: ignore[misc]
                f"schedule-{number}-{which}",
                f"Schedule of {', '.join(run.name for run in alike)}, chart {which + 1} of 3",
            )
            for which, draw in enumerate((schedule.draw_slices, schedule.draw_exposure, schedule.draw_rates))
        ]
        names = schedule.rate_names(course)
        lines = legend(names, [sample(i) for i in range(len(names))]) if len(names) > 1 else ""
        parts += [run_heading(alike, runs), charts(drawn, escape(course.note)), lines]
    return "\n".join(parts)
