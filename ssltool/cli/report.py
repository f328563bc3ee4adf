"""``ssltool report``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, table
from ssltool.config import ReportConfig


@click.command("report", cls=Command)
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, required=True)
@settings(ReportConfig, positional=("runs",))
@json_option
def command(config: ReportConfig, as_json: bool) -> None:
    """Write an HTML report on one or several runs: a single file that can be opened offline.

    It shows verdicts with their evidence, a sortable table, spectra, metrics over the epochs, a map, nearest
    neighbours, sample views, the data schedule, and the settings. The checkpoint of each run is evaluated on --size of
    its training images.

    \b
    ssltool report logs/simsiam-resnet18-current_0000 -o report.html
    ssltool report logs/simsiam_0000 logs/byol_0000 --checkpoint checkpoint_0009.pt -o two.html
    """
    from ssltool.stages.report.report import run

    result = run(config)
    rows = [
        [one["name"], layer, found["verdict"], found["line"]]
        for one in result["runs"]
        for layer, found in one["layers"].items()
    ]
    text = (
        table(rows, ["run", "layer", "verdict", ""]) + f"\n\n{cell(result['report'])}: {result['bytes'] / 1e6:.1f} MB"
    )
    emit(result, text, as_json)
