"""The section of the patches of ViTs."""

from __future__ import annotations

from collections.abc import Sequence

from ssltool.files.text import escape_xml
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import picture, run_heading
from ssltool.viz.page import caption_below, columns, element, grid, lead
from ssltool.viz.patch_pictures import PatchPicture, limits_of, painted

TITLES = ("image", "components", "cosines", "norms")


def render(runs: Sequence[ReportedRun]) -> str:
    """Principal components of patches as colours, cosines to a patch, and norms, for each run of a ViT."""
    grids = []
    for run in runs:
        if run.patches is None:
            continue
        row, column = run.patches[0].patch
        cosines, norms = _limits(run.patches)
        caption = (
            f"Cosines to the patch in row {row}, column {column} (counted from 0): from {cosines[0]:.2f}, dark, to "
            f"{cosines[1]:.2f}, light. Norms: from {norms[0]:.3g}, dark, to {norms[1]:.3g}, light."
        )
        grids.append(grid(run_heading([run], runs), _table(run.patches), escape_xml(caption)))
    text = (
        "The patches of some training images: their first three principal components as red, green and blue, so that "
        "equal colours mean similar patches; the cosine of each with the patch in the middle; and their norms."
    )
    return lead(text) + element("div", "".join(grids), class_="side")


def _limits(pictures: Sequence[PatchPicture]) -> tuple[tuple[float, float], tuple[float, float]]:
    return limits_of([one.cosines for one in pictures]), limits_of([one.norms for one in pictures])


def _table(pictures: Sequence[PatchPicture]) -> str:
    cosines, norms = _limits(pictures)
    rows = []
    for one in pictures:
        under = caption_below(escape_xml(one.name), title=one.name)
        maps = (one.colours, painted(one.cosines, cosines), painted(one.norms, norms))
        cells = [element("th", picture(one.image, one.name) + under, scope="row")]
        for title, values in zip(TITLES[1:], maps, strict=True):
            cells.append(element("td", picture(values, f"{title} of {one.name}")))
        rows.append(element("tr", "".join(cells)))
    titles = [element("th", title, scope="col") for title in TITLES]
    return columns(titles, rows, class_="pictures maps")
