"""The ``ssltool`` command. One file a command; none is imported before it is needed, and none imports torch on
import."""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

import ssltool
from ssltool.cli.flags import HELP_NAMES
from ssltool.cli.output import message
from ssltool.cli.streams import prepare_streams, require_utf8
from ssltool.errors import AnotherRankFailed, Interrupted, SSLToolError, unknown
from ssltool.files.text import one_line
from ssltool.registry import load_installed_plugins
from ssltool.training.launch import launch, tell_torchrun

COMMANDS = {
    "methods": "List the pretraining methods and their options.",
    "cache": "Decode image files once, for all later reading.",
    "pretrain": "Pretrain a network without labels.",
    "save-reprs": "Compute and save representations.",
    "knn": "Classify representations by their nearest neighbours.",
    "neighbours": "List the nearest images, without labels.",
    "duplicates": "Find near-duplicate images, within a set or in two.",
    "outliers": "List the images that are farthest from all others.",
    "lincls": "Train a linear probe on a frozen network.",
    "finetune": "Fine-tune a pretrained network with labels.",
    "scan": "Cluster images into classes without labels.",
    "collapse": "Measure the collapse of representations.",
    "diagnose": "Diagnose a training from its run folder, log or checkpoints.",
    "table": "Put runs, their settings, metrics and accuracies in one table.",
    "rank": "Rank runs or checkpoints without labels.",
    "plot": "Plot spectra, runs, views or schedules.",
    "watch": "Follow runs live, on a local page or in the terminal.",
    "report": "Write an HTML report on one or several runs.",
    "inspect": "Describe checkpoints and other files.",
    "export": "Convert a checkpoint for another library.",
    "doctor": "Check the installation and the machine, and their speed.",
}
"""Each command and its line in ``ssltool --help``."""


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Escapes the messages of usage errors, which quote arguments."""
    try:
        yield
    except click.UsageError as error:
        raise click.UsageError(one_line(error.format_message()), ctx=error.ctx) from error


class _Group(click.Group):
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _one_line_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:  # click would exit with 1
            raise Interrupted(signal.SIGINT) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        name = name.replace("_", "-")
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"ssltool.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name.replace("_", "-") not in COMMANDS:
            raise click.UsageError(str(unknown("command", name, COMMANDS)), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Group, context_settings={"max_content_width": 110, "help_option_names": HELP_NAMES})
@click.version_option(ssltool.__version__, prog_name="ssltool")
def cli() -> None:
    """Pretrain image networks without labels, and measure whether their representations collapsed.

    The commands exchange files: pretrain writes checkpoints, save-reprs computes representations with one of them, and
    knn, lincls and collapse evaluate these.

    \b
    ssltool pretrain -a resnet18 --strategy current
    ssltool save-reprs --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt -o train.pt
    ssltool collapse train.pt
    """


def main() -> None:
    """Runs the command line; an error that the user can fix is one line on stderr and exit code 1, a wrong command line
    exit code 2."""
    require_utf8()
    prepare_streams()
    atexit.register(gc.freeze)  # else the interpreter looks for cycles among all that torch imports, for up to 2 s
    try:
        load_installed_plugins()
        cli(prog_name="ssltool")
    except AnotherRankFailed as error:
        code = error.code
    except SSLToolError as error:
        message(f"error: {error}")
        tell_torchrun(str(error))
        code = 1
    except Interrupted as stop:
        if launch().rank == 0:  # under torchrun every rank stops; one says so
            message(stop)
        code = 128 + stop.number
    # An exception keeps what the stage held, worker processes too, and a frame that raises a local variable keeps it.
    if multiprocessing.active_children():
        gc.collect()
    sys.exit(code)
