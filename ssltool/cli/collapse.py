"""``ssltool collapse``."""

from __future__ import annotations

import click

from ssltool.cli.options import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import CollapseConfig


@click.command("collapse", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@settings(CollapseConfig, positional=("files",))
@json_option
def command(config: CollapseConfig, as_json: bool) -> None:
    """Measure how far the representations in each FILE have collapsed, and save their spectra.

    \b
    auc             area under the cumulative explained variance: just above 0.5 is a flat
                    spectrum, 1 complete collapse; the paper's metric
    effective_rank  dimensions in use: from 1 (or 0 where all rows are equal) to the width
    rankme          the same of the uncentred matrix (Garrido et al. 2022)
    feature_std     spread of directions: 1 even, 0 complete collapse; below 1 for outputs
                    of a ReLU; a collapse onto a subspace can pass it, auc and
                    effective_rank show that

    Singular values are those of the centred matrix, in float64, in one pass. Each spectrum is written beside its
    input as STEM_svd.pt (STEM_normalized_svd.pt with --normalize).

    \b
    ssltool collapse train_reprs_e0.pt --type svd
    ssltool collapse a/train_reprs_e0.pt b/train_reprs_e0.pt --normalize --plot spectra.png
    """
    from ssltool.collapse.measure import run
    from ssltool.collapse.metrics import READING

    result = run(config)
    rows = [[f["path"], f["n"], f["d"], *(f["metrics"][name] for name in READING)] for f in result["files"]]
    text = table(rows, ["file", "rows", "width", *READING])
    text += "\n\n" + "\n".join(f"{name}: {meaning}" for name, meaning in READING.items())
    emit(result, text, as_json)
