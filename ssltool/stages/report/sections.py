"""The sections of a report, from top to bottom; each takes the runs and gives HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssltool.config.common import STATES
from ssltool.diagnosis.metrics import MAIN, METRICS
from ssltool.diagnosis.verdict import Verdict
from ssltool.stages.report.contents import Exhibit, Layer, Neighbours, Shown
from ssltool.stages.report.html import SHAPES, charts, columns, element, escape, lead, legend, panel, sample
from ssltool.viz import curves, pictures, schedule
from ssltool.viz import spectra as spectra_figure
from ssltool.viz.pictures import EmbeddingMap, Views

SIGNS = dict(zip(STATES, "●◐○", strict=True))
"""A full, a half and an empty disc: a verdict is never told by its colour alone."""

FEW_PIXELS = 40
"""The pixels of images up to this side are shown as squares."""

SHORT = {"auc": "AUC", "rankme": "RankMe"}


def verdicts(runs: Sequence[Exhibit]) -> str:
    """A card for each run: the verdict on each layer with its evidence, and what to beware of."""
    cards = []
    for i, run in enumerate(runs):
        name = element("h3", sample(i) + escape(run.name)) if len(runs) > 1 else ""
        head = element("div", name + element("p", escape(_what(run)), class_="what"))
        cards.append(element("article", head + "".join(map(_layer, run.layers)), class_="card"))
    return element("div", "".join(cards), class_="cards")


def badge(verdict: Verdict) -> str:
    """The state of a verdict as a sign, a word and a colour."""
    word = f"{verdict.state} collapse" if verdict.severity else verdict.state
    return element("span", f"{SIGNS[verdict.state]} {word}", class_=f"badge {verdict.state}")


def _layer(layer: Layer) -> str:
    share = layer.verdict.details["used_share"]
    words = f"{layer.verdict.details['used']:.1f} of {layer.verdict.details['dimensions']:,} dimensions in use"
    bar = element("span", "", class_="used", style=f"width: {100 * min(1.0, max(share, 0.004)):.1f}%")
    notes = "".join(element("li", escape(note)) for note in layer.measured.notes)
    return element(
        "div",
        element("h4", escape(layer.name.capitalize()) + badge(layer.verdict))
        + element("p", escape(layer.verdict.line), class_="evidence")
        + element("div", bar, class_="bar", role="img", aria_label=words)
        + element("p", words, class_="words")
        + (element("ul", notes, class_="notes") if notes else ""),
        class_="layer",
    )


def _what(run: Exhibit) -> str:
    c, epochs = run.config, run.origin["epoch"]
    done = f"{epochs} epochs" if epochs == c["epochs"] else f"{epochs} of {c['epochs']} epochs"
    return f"{c['method']} · {c['arch']} · {c['strategy']} · {c['n_images']:,} images · {done}"


def metrics(runs: Sequence[Exhibit]) -> str:
    """A row for each run and layer, sortable by every column, and how to read each metric."""
    names = ["Run", "Layer", "Verdict", *map(_column, MAIN), "kNN (%)", "Loss", "Images", "Epochs"]
    titles = [
        element("th", element("button", escape(name), type="button"), scope="col", aria_sort="none") for name in names
    ]
    rows = []
    for i, run in enumerate(runs):
        for layer in run.layers:
            accuracy = run.neighbours.accuracy if layer.name == "backbone" else None
            loss = next((one["loss"] for one in run.records if one["epoch"] == run.origin["epoch"] - 1), None)
            numbers = [*(layer.measured.metrics[name] for name in MAIN), accuracy and 100 * accuracy, loss]
            cells = [
                element("th", (sample(i) if len(runs) > 1 else "") + escape(run.name), scope="row"),
                element("td", layer.name),
                element("td", badge(layer.verdict), data_value=layer.verdict.severity),
                *map(_number, [*numbers, run.config["n_images"], run.origin["epoch"]]),
            ]
            rows.append(element("tr", "".join(cells)))
    readings = [element("dt", _column(name)) + element("dd", escape(METRICS[name].reading)) for name in MAIN]
    votes = max(run.neighbours.k for run in runs)
    readings.append(
        element("dt", "kNN") + element("dd", f"a vote of the {votes} nearest by cosine, each image leaving itself out")
    )
    return (
        lead("Choose a column to sort by it; choose it again to turn the order round.")
        + columns(titles, rows, class_="sortable", id="runs")
        + element("dl", "".join(readings), class_="readings")
    )


def _column(name: str) -> str:
    return SHORT.get(name, name.replace("_", " ").capitalize())


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return element("td", "–", class_="number", data_value="")
    text = f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    return element("td", text, class_="number", data_value=repr(value))


def spectra(runs: Sequence[Exhibit]) -> str:
    """The paper's three curves of all runs, layer by layer."""
    parts = [
        lead(
            "Singular values of the centred representations. A cliff in the first two curves, or a third that rises at "
            "once, is a collapse onto few dimensions; the thin line is a flat spectrum."
        ),
        legend([run.name for run in runs], [sample(i) for i in range(len(runs))]) if len(runs) > 1 else "",
    ]
    for name in dict.fromkeys(layer.name for run in runs for layer in run.layers):
        # Every run keeps its place, so that it keeps its colour.
        found = [run.layer(name) for run in runs]
        values = [layer.measured.s if layer else None for layer in found]
        drawn = [
            panel(
                lambda axis, draw=draw, values=values: draw(axis, values),  # type: ignore[misc]
                f"spectrum-{name}-{number}",
                f"Spectrum of the {name}, curve {number + 1} of 3",
            )
            for number, draw in enumerate(spectra_figure.panels("svd"))
        ]
        there = [layer for layer in found if layer]
        areas = [
            (f"{run.name} " if len(runs) > 1 else "") + f"{layer.measured.metrics['auc']:.3f}"
            for run, layer in zip(runs, found, strict=True)
            if layer
        ]
        caption = f"Area under the third curve (AUC): {', '.join(areas)}. {' '.join(dict.fromkeys(map(_bound, there)))}"
        parts += [element("h3", name.capitalize()), charts(drawn, escape(caption))]
    return "\n".join(parts)


def _bound(layer: Layer) -> str:
    count, values = layer.verdict.details["dimensions"], len(layer.measured.s)
    if count == values:
        return ""
    return f"At most {count} of {values} directions get through the {layer.name}; the verdict is on these."


def training(runs: Sequence[Exhibit]) -> str:
    """Metrics over epochs, from the runs' own records."""
    records = [run.records for run in runs]
    shown = curves.curves_of(records)
    names = [run.name for run in runs] if len(runs) > 1 else []
    samples = [sample(i, "-", marker=True) for i in range(len(names))]
    if curves.has_projector(shown, records):
        names += list(curves.LAYERS)
        samples += [sample(len(spectra_figure.COLOURS) - 1, style) for style in curves.LAYERS.values()]
    drawn = [
        panel(
            lambda axis, curve=curve: curves.draw_curve(axis, curve, records),  # type: ignore[misc]
            f"curve-{number}",
            f"{curve.title} over epochs",
        )
        for number, curve in enumerate(shown)
    ]
    if not drawn:
        return element("p", "No run has recorded an epoch.")
    key = legend(names, samples) if names else ""
    return lead("A dotted line marks where a collapse ends.") + key + charts(drawn)


def neighbours(runs: Sequence[Exhibit]) -> str:
    """Images with those that the backbone takes for most alike."""
    grids = []
    for run in runs:
        found = run.neighbours
        caption = f"{run.sampled:,} images"
        if found.accuracy is not None:
            caption += f"; {found.accuracy:.1%} are put into their class by a vote of their {found.k} nearest"
        grids.append(_grid(_name_over([run], runs), _neighbour_grid(found), caption))
    labelled = any(run.neighbours.accuracy is not None for run in runs)
    words = (
        "To the left an image, then those nearest to it by the cosine of the backbone's representations, which is "
        "written below."
    )
    words += " A cross and a broken frame mark a neighbour of another class." if labelled else ""
    return lead(words) + element("div", "".join(grids), class_="side")


def _grid(title: str, grid: str, caption: str) -> str:
    return element("figure", title + grid + (element("figcaption", caption) if caption else ""))


def _name_over(shown: Sequence[Exhibit], runs: Sequence[Exhibit]) -> str:
    """The heading over what is of some of the runs; none where there is one run only."""
    return element("h3", escape(", ".join(run.name for run in shown))) if len(runs) > 1 else ""


def _neighbour_grid(found: Neighbours) -> str:
    rows = []
    for number, (query, near) in enumerate(zip(found.queries, found.found, strict=True)):
        alt = f"query {number + 1}" + (f", class {query.label}" if query.label is not None else "")
        under = _under(escape(query.label), title=query.label) if query.label is not None else ""
        cells = [element("th", _picture(query, alt) + under, scope="row")]
        cells += [_neighbour(query, one, place + 1) for place, one in enumerate(near)]
        rows.append(element("tr", "".join(cells)))
    count = max(map(len, found.found), default=0)
    titles = [element("th", "image", scope="col")] + [element("th", str(i + 1), scope="col") for i in range(count)]
    return columns(titles, rows, class_="pictures")


def _neighbour(query: Shown, one: Shown, place: int) -> str:
    cosine = f"{one.similarity:.3f}"
    if one.label is None:
        return element("td", _picture(one, f"neighbour {place}, cosine {cosine}") + _under(cosine))
    wrong = query.label is not None and one.label != query.label
    said = f"neighbour {place}, class {one.label}, {'another' if wrong else 'the same'} class, cosine {cosine}"
    name = _under(escape(("✕ " if wrong else "") + one.label), title=one.label)
    return element("td", _picture(one, said) + name + _under(cosine), class_="wrong" if wrong else None)


def _picture(shown: Shown, alt: str) -> str:
    few = "few" if max(shown.image.shape[:2]) <= FEW_PIXELS else None
    return element("img", src=pictures.data_url(shown.image), alt=alt, class_=few)


def _under(text: str, **attributes: object) -> str:
    return element("span", text, **attributes)


def maps(runs: Sequence[Exhibit]) -> str:
    """Two dimensions of each run's representations."""
    drawn, told = [], [pictures.shown_classes(run.cloud.labels) for run in runs]
    same = len({(tuple(told_), run.cloud.classes) for told_, run in zip(told, runs, strict=True)}) == 1
    for number, (run, classes) in enumerate(zip(runs, told, strict=True)):
        chart = panel(
            lambda axis, run=run, classes=classes: pictures.draw_map(axis, run.cloud, classes),  # type: ignore[misc]
            f"map-{number}",
            f"Map of the representations of {run.name}",
            (4.4, 4.2),
        )
        names = "" if same else _classes(run.cloud, classes)
        away = run.cloud.outside()
        caption = f"{away} of {len(run.cloud.points):,} points lie outside the frame." if away else ""
        drawn.append(_grid(_name_over([run], runs), chart + names, caption))
    shared = _classes(runs[0].cloud, told[0]) if same else ""
    rest = any(np.any(~np.isin(run.cloud.labels, classes)) for run, classes in zip(runs, told, strict=True))
    words = "Each point is an image; its place is that of the backbone's representation in two dimensions."
    if any(told) and rest:
        words += f" The {pictures.MAX_CLASSES} largest classes are told apart, other images are small dots."
    return lead(words) + shared + element("div", "".join(drawn), class_="charts wide")


def _classes(cloud: EmbeddingMap, classes: Sequence[int]) -> str:
    return legend(
        [pictures.class_name(cloud, number) for number in classes],
        [_marker(place) for place in range(len(classes))],
    )


def _marker(place: int) -> str:
    colour, marker = pictures.class_style(place)
    fill = spectra_figure.COLOURS.index(colour)
    name = "currentColor" if colour == "#000000" else f"var(--series-{fill})"
    return f'<svg class="marker" viewBox="0 0 12 12" aria-hidden="true" fill="{name}">{SHAPES[marker]}</svg>'


def views(runs: Sequence[Exhibit]) -> str:
    """What each method sees of some images; once for runs that see the same."""
    shown: dict[tuple[str, str], list[Exhibit]] = {}
    for run in runs:
        grid = _view_grid(run.views), "<br>".join(map(escape, run.views.recipes))
        shown.setdefault(grid, []).append(run)
    grids = [_grid(_name_over(alike, runs), *grid) for grid, alike in shown.items()]
    words = "Training images, and the views of them in the first step of the first epoch, as the method sees them."
    return lead(words) + element("div", "".join(grids), class_="side")


def _view_grid(views: Views) -> str:
    rows = []
    for number, (original, made) in enumerate(zip(views.originals, views.made, strict=True)):
        cells = [element("th", _picture(Shown(original, None), f"image {number + 1}"), scope="row")]
        for title, view in zip(views.titles, made, strict=True):
            cells.append(element("td", _picture(Shown(view, None), f"{title} of image {number + 1}")))
        rows.append(element("tr", "".join(cells)))
    titles = [element("th", escape(title), scope="col") for title in ("image", *views.titles)]
    return columns(titles, rows, class_="pictures")


def schedules(runs: Sequence[Exhibit]) -> str:
    """Which images each epoch draws from, how often each is seen, the learning rate; once for runs with the same."""
    shown: dict[tuple[bytes, ...], list[Exhibit]] = {}
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
        key = legend(names, [sample(i) for i in range(len(names))]) if len(names) > 1 else ""
        parts += [_name_over(alike, runs), charts(drawn, escape(course.note)), key]
    return "\n".join(parts)


def settings(runs: Sequence[Exhibit]) -> str:
    """Every setting: first those in which the runs differ, then all; and where the numbers come from."""
    flat = [_flat(run.config) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    apart = [name for name in names if len({one.get(name) for one in flat}) > 1]
    heads = [element("th", "", scope="col")] + [element("th", escape(run.name), scope="col") for run in runs]

    def rows(chosen: Sequence[str], values: Sequence[dict[str, str]]) -> list[str]:
        def row(name: str) -> str:
            cells = [element("td", element("code", escape(one.get(name, "–")))) for one in values]
            return element("tr", element("th", escape(name), scope="row") + "".join(cells))

        return [row(name) for name in chosen]

    parts = []
    if len(runs) > 1:
        what = f"{len(apart)} of {len(names)} settings differ." if apart else "The runs have the same settings."
        parts.append(element("h3", "What differs") + element("p", what, class_="caption"))
        parts += [columns(heads, rows(apart, flat), class_="settings")] if apart else []
    origins = [{k: str(v) for k, v in run.origin.items()} for run in runs]
    parts.append(element("h3", "Where the numbers come from"))
    parts.append(columns(heads, rows(list(origins[0]), origins), class_="settings"))
    everything = columns(heads, rows(names, flat), class_="settings")
    parts.append(element("details", element("summary", f"All {len(names)} settings") + everything))
    return "\n".join(parts)


def _flat(config: Any) -> dict[str, str]:
    """Settings as text, the method's options among them."""
    options = {f"{name} (option)": value for name, value in config["method_options"].items()}
    values = {name: value for name, value in config.items() if name != "method_options"} | options
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


SECTIONS = {
    "verdict": ("Verdict", verdicts),
    "metrics": ("Metrics", metrics),
    "spectra": ("Spectra", spectra),
    "training": ("Over the epochs", training),
    "map": ("Map", maps),
    "neighbours": ("Nearest neighbours", neighbours),
    "views": ("Sample views", views),
    "schedule": ("Data schedule", schedules),
    "settings": ("Settings", settings),
}
"""The sections in order: what links to each, its heading, and what makes it."""
