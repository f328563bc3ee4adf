"""``ssltool plot``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.cli.parameter_types import OneOf
from ssltool.config import PlotConfig
from ssltool.viz import PLOTS


class PlotCommand(Command):
    """A command whose help lists the kinds of plots, those of plug-ins included."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Kinds"):
            formatter.write_dl([(kind, f"INPUT: {plot.inputs}. {plot.help}") for kind, plot in PLOTS.items()])
        super().format_options(ctx, formatter)


@click.command("plot", cls=PlotCommand)
@click.argument("kind", type=OneOf(PLOTS))
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@settings(PlotConfig, positional=("kind", "inputs"))
@json_option
def command(config: PlotConfig, as_json: bool) -> None:
    """Plot a figure for print as .png, .pdf or .svg; .pdf and .svg keep text as text.

    \b
    ssltool plot spectrum a/train_svd.pt b/train_svd.pt -o spectra.pdf
    ssltool plot curves logs/simsiam_0000 logs/byol_0000 -o curves.svg
    ssltool plot auc logs/simsiam_0000 logs/simsiam_0001 --x accuracy --group-by arch -o auc.pdf
    ssltool plot views logs/simsiam_0000 -o views.png
    """
    from ssltool.stages.plot import run

    result = run(config)
    emit(result, table([[result["path"], result["kind"], len(result["inputs"])]], ["file", "plot", "inputs"]), as_json)
