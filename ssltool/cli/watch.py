"""``ssltool watch``."""

from __future__ import annotations

import shutil
import sys
import time

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import WatchConfig
from ssltool.settings import Record

CLEAR = "\x1b[H\x1b[J"
"""Moves the cursor to the first line of the terminal, and clears what follows."""


@click.command("watch", cls=Command)
@click.argument("runs", metavar="RUNS...", nargs=-1, required=True)
@settings(WatchConfig, positional=("runs",))
@json_option
def command(config: WatchConfig, as_json: bool) -> None:
    """Follow runs while they train, on a page in the browser or in the terminal. Nothing is written into their
    folders.

    RUNS are run folders of pretrain, folders of ssltool.Monitor, folders that hold some, and logs that diagnose reads;
    new runs appear by themselves. The page shows curves, spectra, verdicts, causes and advice, and compares runs. It is
    for this machine only; --host with --token opens it to others. --json prints what is known now, and so does
    --terminal if the output is no terminal.

    \b
    ssltool watch logs
    ssltool watch logs --port 0 --no-open
    ssltool watch logs --terminal
    """
    from ssltool.stages.watch import run

    if as_json or config.terminal:
        follow(config, as_json)
    else:
        run(config, lambda address: click.echo(f"{address}\nCtrl-C ends it"))


def follow(config: WatchConfig, as_json: bool) -> None:
    """Prints the table of the runs, on a terminal again and again until Ctrl-C."""
    from ssltool.stages.watch.run_index import RunIndex

    config.check()
    index = RunIndex(config.runs)
    index.refresh()
    if as_json or not sys.stdout.isatty():
        emit(index.contents, _text(index.contents), as_json)
        return
    try:
        while True:
            columns, lines = shutil.get_terminal_size()
            shown = [line[:columns] for line in _text(index.contents).splitlines()[: lines - 1]]
            click.echo(CLEAR + "\n".join(shown))
            time.sleep(config.every)
            index.refresh()
    except KeyboardInterrupt:
        click.echo()


def _text(contents: Record) -> str:
    from ssltool.stages.watch.status_table import HEADER, rows_of

    rows = rows_of(contents)
    return contents["summary"] + ("\n\n" + table(rows, HEADER) if rows else "")
