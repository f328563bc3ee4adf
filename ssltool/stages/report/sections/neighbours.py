"""The section of nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.diagnosis.layer_metrics import KNN_NEIGHBOURS
from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import LabelledImage, Neighbours, ReportedRun
from ssltool.stages.report.html import picture, run_heading
from ssltool.viz.page import caption_below, columns, element, grid, image_caption, lead


def render(runs: Sequence[ReportedRun]) -> str:
    """Some images with their nearest neighbours in the space of the backbone."""
    grids = []
    for run in runs:
        found = run.neighbours
        if found is None:
            continue
        caption = f"Neighbours among {run.sampled:,} images"
        if run.accuracy is not None:
            caption += f"; kNN accuracy (k = {KNN_NEIGHBOURS}): {run.accuracy:.1%}"
        grids.append(grid(run_heading([run], runs), _neighbour_grid(found), f"{caption}."))
    labelled = any(run.neighbours is not None and run.accuracy is not None for run in runs)
    text = "Each row shows an image and its nearest neighbours, with the cosine of the backbone representations."
    text += " A cross and a dashed frame mark neighbours of another class." if labelled else ""
    return lead(text) + element("div", "".join(grids), class_="side")


def _neighbour_grid(found: Neighbours) -> str:
    rows = []
    for number, (query, near) in enumerate(zip(found.queries, found.nearest, strict=True)):
        alt = f"query {number + 1}" + (f", class {query.label}" if query.label is not None else "")
        alt += f", {query.name}"
        under = caption_below(escape_xml(query.label), title=query.label) if query.label is not None else ""
        under += image_caption(query.name)
        cells = [element("th", picture(query.image, alt) + under, scope="row")]
        cells += [_neighbour(query, image, rank) for rank, image in enumerate(near, start=1)]
        rows.append(element("tr", "".join(cells)))
    count = max(map(len, found.nearest), default=0)
    titles = [element("th", "image", scope="col")] + [element("th", str(i + 1), scope="col") for i in range(count)]
    return columns(titles, rows, class_="pictures")


def _neighbour(query: LabelledImage, near: LabelledImage, rank: int) -> str:
    cosine = f"{near.cosine:.3f}"
    named = image_caption(near.name) + caption_below(cosine)
    if near.label is None:
        return element("td", picture(near.image, f"neighbour {rank}, {near.name}, cosine {cosine}") + named)
    wrong = query.label is not None and near.label != query.label
    which = "another" if wrong else "the same"
    alt = f"neighbour {rank}, class {near.label}, {which} class, {near.name}, cosine {cosine}"
    name = caption_below(escape_xml(("✕ " if wrong else "") + near.label), title=near.label)
    return element("td", picture(near.image, alt) + name + named, class_="wrong" if wrong else None)
