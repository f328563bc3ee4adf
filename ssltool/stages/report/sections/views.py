"""The section of sample views."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import picture, run_heading
from ssltool.viz.page import columns, element, grid, image_caption, lead
from ssltool.viz.pictures import Views


def render(runs: Sequence[ReportedRun]) -> str:
    """Augmented views of some training images; once for runs with equal views."""
    groups: dict[tuple[str, str], list[ReportedRun]] = {}
    for run in runs:
        if run.views is None:
            continue
        content = _view_grid(run.views), "<br>".join(map(escape_xml, run.views.recipes))
        groups.setdefault(content, []).append(run)
    grids = [grid(run_heading(group, runs), *content) for content, group in groups.items()]
    epochs = sorted({run.views.epoch + 1 for run in runs if run.views is not None})
    when = "the first epoch" if epochs == [1] else f"epoch {' or '.join(map(str, epochs))}"
    text = f"Training images and their augmented views in the first step of {when}."
    return lead(text) + element("div", "".join(grids), class_="side")


def _view_grid(views: Views) -> str:
    rows = []
    for number, (original, augmented) in enumerate(zip(views.originals, views.augmented, strict=True)):
        name = views.names[number]
        cells = [element("th", picture(original, f"image {number + 1}, {name}") + image_caption(name), scope="row")]
        for title, view in zip(views.titles, augmented, strict=True):
            cells.append(element("td", picture(view, f"{title} of image {number + 1}")))
        rows.append(element("tr", "".join(cells)))
    titles = [element("th", escape_xml(title), scope="col") for title in ("image", *views.titles)]
    return columns(titles, rows, class_="pictures")
