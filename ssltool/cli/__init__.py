"""The ``ssltool`` command. One file a command; none is imported before it is needed, and none imports torch on
import."""

from __future__ import annotations

import importlib
import os
import sys

import click

import ssltool
from ssltool.errors import Interrupted, SSLToolError
from ssltool.registry import load_installed_plugins

COMMANDS = {
    "methods": "List the methods of pretraining and their options.",
    "pretrain": "Pretrain a network without labels.",
    "save-reprs": "Save what a pretrained network makes of a dataset.",
    "knn": "Classify representations by their nearest neighbours.",
    "lincls": "Train a linear probe on a frozen network.",
    "finetune": "Train a pretrained network further, on labels.",
    "scan": "Cluster images into classes without labels.",
    "collapse": "Measure how far representations have collapsed.",
    "rank": "Order runs or checkpoints without labels.",
    "plot": "Draw spectra, runs, views or schedules for print.",
    "report": "Write one page about one or several runs.",
    "inspect": "Say what a file is.",
    "export": "Write a checkpoint as other programs load it.",
}
"""Each command and its line in ``ssltool --help``."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = name.replace("_", "-")
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ssltool.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Group, context_settings={"max_content_width": 110})
@click.version_option(ssltool.__version__, prog_name="ssltool")
def cli() -> None:
    """Pretrain without labels, and see whether the representations collapsed.

    The stages hand each other files: pretrain writes checkpoints, save-reprs turns one into representations, and knn,
    lincls and collapse say what these are worth.

    \b
    ssltool pretrain -a resnet18 --strategy current
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt -o train.pt
    ssltool collapse train.pt
    """


def main() -> None:
    """Runs the command line; an error that the user can mend is one line on stderr and exit code 1."""
    try:
        load_installed_plugins()
        cli(prog_name="ssltool")
    except SSLToolError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank stops; one says so
            print(stop, file=sys.stderr)
        code = 128 + stop.number
    sys.exit(code)  # not above: the exception would keep what the stage held, worker processes too, until the very end
