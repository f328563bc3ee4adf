"""``ssltool outliers``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import OutliersConfig
from ssltool.settings import Record


@click.command("outliers", cls=Command, ranks=True)
@click.argument("reprs", metavar="REPRS")
@settings(OutliersConfig, positional=("reprs",))
@json_option
def command(config: OutliersConfig, as_json: bool) -> None:
    """List the images of REPRS that are farthest from all others, by the distance to their k-th nearest one.

    Distances are 1 - cosine. The line below the table has the median of all images for comparison.

    \b
    ssltool outliers train_reprs_e0.pt
    ssltool outliers train_reprs_e0.pt -n 50 --sheet outliers.html --out outliers.csv
    """
    from ssltool.stages.outliers import run

    result = run(config)
    emit(result, _text(result), as_json)


def _text(result: Record) -> str:
    found = result["outliers"]
    labelled = any(one["class"] is not None for one in found)
    rows = [
        [one["rank"], one["distance"], one["name"], *([one["class"]] if labelled else []), one["nearest"]]
        for one in found
    ]
    header = ["rank", "distance", "image", *(["class"] if labelled else []), "nearest image"]
    line = f"distance to neighbour {result['k']}; the median of all {result['n']:,} images is {result['median']:.4g}"
    return f"{table(rows, header)}\n\n{line}"
