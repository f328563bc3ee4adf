"""The section of nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.stages.report.contents import Neighbours, ReportedRun, Shown
from ssltool.stages.report.html import caption_below, columns, element, escape, grid, lead, picture, run_heading


def render(runs: Sequence[ReportedRun]) -> str:
    """Images with those that the backbone takes for most alike."""
    grids = []
    for run in runs:
        found = run.neighbours
        caption = f"{run.sampled:,} images"
        if found.accuracy is not None:
            caption += f"; {found.accuracy:.1%} are put into their class by a vote of their {found.k} nearest"
        grids.append(grid(run_heading([run], runs), _neighbour_grid(found), caption))
    labelled = any(run.neighbours.accuracy is not None for run in runs)
    words = (
        "To the left an image, then those nearest to it by the cosine of the backbone's representations, which is "
        "written below."
    )
    words += " A cross and a broken frame mark a neighbour of another class." if labelled else ""
    return lead(words) + element("div", "".join(grids), class_="side")


def _neighbour_grid(found: Neighbours) -> str:
    rows = []
    for number, (query, near) in enumerate(zip(found.queries, found.found, strict=True)):
        alt = f"query {number + 1}" + (f", class {query.label}" if query.label is not None else "")
        under = caption_below(escape(query.label), title=query.label) if query.label is not None else ""
        cells = [element("th", picture(query.image, alt) + under, scope="row")]
        cells += [_neighbour(query, one, place + 1) for place, one in enumerate(near)]
        rows.append(element("tr", "".join(cells)))
    count = max(map(len, found.found), default=0)
    titles = [element("th", "image", scope="col")] + [element("th", str(i + 1), scope="col") for i in range(count)]
    return columns(titles, rows, class_="pictures")


def _neighbour(query: Shown, one: Shown, place: int) -> str:
    cosine = f"{one.similarity:.3f}"
    if one.label is None:
        return element("td", picture(one.image, f"neighbour {place}, cosine {cosine}") + caption_below(cosine))
    wrong = query.label is not None and one.label != query.label
    said = f"neighbour {place}, class {one.label}, {'another' if wrong else 'the same'} class, cosine {cosine}"
    name = caption_below(escape(("✕ " if wrong else "") + one.label), title=one.label)
    return element("td", picture(one.image, said) + name + caption_below(cosine), class_="wrong" if wrong else None)
