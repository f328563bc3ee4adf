"""``ssltool table``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, message, note
from ssltool.cli.output import table as as_table
from ssltool.config import TableConfig
from ssltool.runs.differing import OPTION
from ssltool.settings import Record

SHOWN = ("auc", "effective_rank", "dead_directions", "knn")
"""The metrics of each layer that are printed."""


@click.command("table", cls=Command)
@click.argument("runs", metavar="RUN_DIR...", nargs=-1, required=True)
@settings(TableConfig, positional=("runs",))
@json_option
def command(config: TableConfig, as_json: bool) -> None:
    """Put runs in one table: the settings in which they differ, loss, metrics and accuracies.

    A row is a run folder of pretrain, or of a monitor in another program's training, at the last epoch or step that was
    monitored. Run folders of lincls, finetune and scan may be named too: their accuracies stand in the row of the run
    whose checkpoint they used. The printed table has the main columns, --out and --json have all of them. A folder that
    cannot be read is named on stderr with the reason.

    \b
    ssltool table logs/*/
    ssltool table logs/*/ --out runs.csv
    """
    from ssltool.stages.table import run

    result = run(config)
    for text in result["notes"]:
        note(text)
    for one in result["left_out"]:
        message(f"left out: {one['why'] if one['path'] in one['why'] else ': '.join(one.values())}")
    emit(result, _text(result, config), as_json)


def _text(result: Record, config: TableConfig) -> str:
    rows = result["rows"]
    layers = [name.removesuffix("_auc") for name in rows[0] if name.endswith("_auc")]
    metrics = [f"{layer}_{metric}" for layer in layers for metric in SHOWN]
    differing = result["differing"]
    wanted = ["run", *differing, "epoch", "step", "loss", "verdict", *metrics, *result["accuracies"]]
    shown = [name for name in wanted if _is_useful(name, rows, differing)]
    if "epoch" in shown and all(row["epoch"] is not None for row in rows):
        shown = [name for name in shown if name != "step"]
    cells = [[_shown(name, row[name]) for name in shown] for row in rows]
    text = as_table(cells, shown)
    more = len(rows[0]) - len(shown)
    where = f"{cell(config.out)} has" if config.out else "--out FILE.csv writes"
    return f"{text}\n\n{where} all columns: {more} more than are printed" if more else text


def _is_useful(name: str, rows: list[Record], differing: list[str]) -> bool:
    """Whether any row has a value; of settings, whether the runs that have the setting differ in it. None is a value of
    a setting, but not of the option of a method, which other methods lack; monitors have no settings."""
    if name in differing and not name.endswith(OPTION):
        return len({str(row[name]) for row in rows if row.get("method") is not None}) > 1
    values = {str(row[name]) for row in rows if row.get(name) is not None}
    return len(values) > (name in differing)


def _shown(name: str, value: object) -> object:
    """A cell of the table, where epochs count from 1."""
    return value + 1 if name == "epoch" and isinstance(value, int) else value
