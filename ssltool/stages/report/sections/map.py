"""The section of maps: two dimensions of the representations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.html import SHAPES, panel, run_heading
from ssltool.viz import pictures
from ssltool.viz.page import element, grid, lead, legend
from ssltool.viz.pictures import EmbeddingMap
from ssltool.viz.style import COLOURS


def render(runs: Sequence[ReportedRun]) -> str:
    """A two-dimensional map of the representations of each run."""
    clouds = [(run, run.map) for run in runs if run.map is not None]
    drawn, classes_of = [], [pictures.shown_classes(cloud.labels) for _, cloud in clouds]
    same = len({(tuple(ids), cloud.classes) for ids, (_, cloud) in zip(classes_of, clouds, strict=True)}) == 1
    for number, ((run, cloud), classes) in enumerate(zip(clouds, classes_of, strict=True)):
        chart = panel(
            lambda axis, cloud=cloud, classes=classes: pictures.draw_map(axis, cloud, classes),  # type: ignore[misc]
            f"map-{number}",
            f"Map of the representations of {run.name}",
            (4.4, 4.2),
        )
        names = "" if same else _classes(cloud, classes)
        outside = cloud.outside()
        caption = f"{outside} of {len(cloud.points):,} points are outside the frame." if outside else ""
        drawn.append(grid(run_heading([run], runs), chart + names, caption))
    shared = _classes(clouds[0][1], classes_of[0]) if same else ""
    rest = any(np.any(~np.isin(cloud.labels, classes)) for (_, cloud), classes in zip(clouds, classes_of, strict=True))
    text = "Each point is an image: its backbone representation, projected to two dimensions."
    if any(classes_of) and rest:
        text += f" The {pictures.MAX_CLASSES} largest classes have colours and markers; other images are small dots."
    return lead(text) + shared + element("div", "".join(drawn), class_="charts wide")


def _classes(cloud: EmbeddingMap, classes: Sequence[int]) -> str:
    return legend(
        [pictures.class_name(cloud, number) for number in classes],
        [_marker(place) for place in range(len(classes))],
    )


def _marker(place: int) -> str:
    colour, marker = pictures.class_style(place)
    fill = COLOURS.index(colour)
    name = "currentColor" if colour == "#000000" else f"var(--series-{fill})"
    return f'<svg class="marker" viewBox="0 0 12 12" aria-hidden="true" fill="{name}">{SHAPES[marker]}</svg>'
