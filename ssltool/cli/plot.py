"""``ssltool plot``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import PlotConfig
from ssltool.config.plot import PLOTS


@click.command("plot", cls=Command)
@click.argument("kind", type=click.Choice(PLOTS))
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@settings(PlotConfig, positional=("kind", "inputs"))
@json_option
def command(config: PlotConfig, as_json: bool) -> None:
    """Plot a figure for print: .png, .pdf or .svg, with text as text.

    \b
    spectrum  INPUT: spectra or representations. Singular values, singular values divided by the
              largest, and cumulative explained variance with the AUC; with --type cov the
              eigenvalues of the covariance on a logarithmic scale
    curves    INPUT: run folders. Loss, AUC, effective rank, feature std and kNN accuracy over
              the epochs
    auc       INPUT: run folders. AUC of the last monitored epoch against --x, a line for each
              value of --group-by
    views     INPUT: a run folder. Training images and the views that the run trained on
    schedule  INPUT: a run folder. Images of each epoch, how often each is seen, learning rate

    \b
    ssltool plot spectrum a/train_svd.pt b/train_svd.pt -o spectra.pdf
    ssltool plot curves logs/simsiam_0000 logs/byol_0000 -o curves.svg
    ssltool plot auc logs/simsiam_0000 logs/simsiam_0001 --x accuracy --group-by arch -o auc.pdf
    ssltool plot views logs/simsiam_0000 -o views.png
    """
    from ssltool.stages.plot import run

    result = run(config)
    emit(result, table([[result["path"], result["kind"], len(result["inputs"])]], ["file", "plot", "inputs"]), as_json)
