"""``ssltool neighbours``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, note, table
from ssltool.config import NeighboursConfig
from ssltool.settings import Record


@click.command("neighbours", cls=Command, ranks=True)
@click.argument("reprs", metavar="REPRS")
@click.argument("queries", metavar="[QUERY]...", nargs=-1)
@settings(NeighboursConfig, positional=("reprs", "queries"))
@json_option
def command(config: NeighboursConfig, as_json: bool) -> None:
    """List the nearest images of each QUERY among the representations in REPRS, without labels.

    QUERY is the path of an image in the set, a part of it that no other has, or its number in the dataset. An image
    file that is not in the set is embedded by the checkpoint that REPRS names. Without QUERY, some different images are
    chosen. Distances are 1 - cosine. REPRS is a .pt, .npy, .npz or parquet file, or a pattern of several that are read
    as one.

    \b
    ssltool neighbours train_reprs_e0.pt
    ssltool neighbours train_reprs_e0.pt birds/kiwi.png 17 -k 12 --sheet kiwi.html
    ssltool neighbours train_reprs_e0.pt new/photo.jpg --out neighbours.csv
    """
    from ssltool.stages.neighbours import run

    result = run(config)
    if result["chosen"] is not None:
        note(f"no QUERY is given: {result['chosen']}")
    emit(result, _text(result), as_json)


def _text(result: Record) -> str:
    labelled = any(near["class"] is not None for found in result["queries"] for near in found["neighbours"])
    rows = [
        [found["query"] if near["rank"] == 1 else "", near["rank"], near["distance"], near["name"]]
        + ([near["class"]] if labelled else [])
        for found in result["queries"]
        for near in found["neighbours"]
    ]
    return table(rows, ["image", "rank", "distance", "neighbour", *(["class"] if labelled else [])]) if rows else ""
