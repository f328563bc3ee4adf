"""``ssltool duplicates``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, note, table
from ssltool.config import DuplicatesConfig
from ssltool.errors import counted
from ssltool.settings import Record

TITLES = {"equal": "equal images", "near": "near-duplicates"}

PER_GROUP = 20
"""Images of a group in the table."""


@click.command("duplicates", cls=Command)
@click.argument("reprs", metavar="REPRS")
@click.argument("others", metavar="[REPRS2]", required=False)
@settings(DuplicatesConfig, positional=("reprs", "others"))
@json_option
def command(config: DuplicatesConfig, as_json: bool) -> None:
    """Find equal images and near-duplicates among the representations in REPRS.

    With REPRS2, only groups with images of both files are listed: val images that are in train, say. Equal images have
    the same content. Near-duplicates are images of different content whose cosine distance is at most --threshold; a
    group is all images that are connected by such pairs, so its farthest ones may be less similar.

    \b
    ssltool duplicates train_reprs_e0.pt
    ssltool duplicates train_reprs_e0.pt val_reprs_e0.pt --sheet leaks.html
    ssltool duplicates train_reprs_e0.pt --threshold 0.01 --out groups.csv
    """
    from ssltool.stages.duplicates import run

    result = run(config)
    for text in result["notes"]:
        note(text)
    emit(result, _text(result, config), as_json)


def _text(result: Record, config: DuplicatesConfig) -> str:
    parts, several = [], len(result["files"]) > 1
    for kind, title in TITLES.items():
        groups = result[kind]
        shown = f"; the {config.show:,} largest:" if len(groups) > config.show else ":" if groups else ""
        parts.append(f"{counted(len(groups), 'group')} of {title}, {counted(sum(map(len, groups)), 'image')}{shown}")
        if groups:
            parts[-1] += "\n" + _groups(groups[: config.show], distances=kind == "near", files=several)
    line = (
        f"near: cosine distance of at most {result['threshold']:g}; two random images: {result['median_distance']:.4g}"
    )
    if result["leaked"] is not None:
        count, total = result["leaked"], result["n"][1]
        line = f"{count:,} of {total:,} images of {result['files'][1]} ({count / total:.1%}) are in a group\n{line}"
    return "\n\n".join([*parts, line])


def _groups(groups: list[list[Record]], *, distances: bool, files: bool) -> str:
    """A row for each image, of at most ``PER_GROUP`` of a group."""
    rows = []
    for number, group in enumerate(groups, start=1):
        for place, image in enumerate(group[:PER_GROUP]):
            copies = f" (+{image['copies']:,} equal)" if image.get("copies") else ""
            row = ["" if place else str(number), image["name"] + copies, image["file"]]
            rows.append([*row[:1], *([image["distance"]] if distances else []), *row[1 : 2 + files]])
        if len(group) > PER_GROUP:
            more = f"... {len(group) - PER_GROUP:,} more"
            rows.append(["", *([None] if distances else []), more, *([""] if files else [])])
    return table(rows, ["group", *(["distance"] if distances else []), "image", *(["file"] if files else [])])
