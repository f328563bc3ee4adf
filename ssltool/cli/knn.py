"""``ssltool knn``."""

from __future__ import annotations

import click

from ssltool.cli.options import Command, gone, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.config import KnnConfig


@click.command("knn", cls=Command)
@click.argument("bank", metavar="[TRAIN]", required=False)
@click.argument("queries", metavar="[VAL]", required=False)
@settings(KnnConfig, positional=("bank", "queries"))
@json_option
@gone({"--recompute": "neighbours are computed anew each time"})
def command(config: KnnConfig, as_json: bool) -> None:
    """Classify the representations in VAL by their nearest neighbours in TRAIN.

    Accuracy is the share of VAL's labelled rows whose k nearest rows of TRAIN elect their class; ties go to the
    smallest label. Where TRAIN and VAL are one file, a row is not its own neighbour.

    With --folder, --source and --target the paper's files (knn_stats, knn_accs, knn_summary) are written too; the
    best_k in its summary is chosen on the evaluation labels, so quote the fixed -k.

    \b
    ssltool knn train_reprs_e0.pt val_reprs_e0.pt
    ssltool knn train_reprs_e0.pt val_reprs_e0.pt --weighted -k 200 --json
    ssltool knn --folder data/resnet18_exp0000/bundled --source train_reprs_e0.pt --target val_reprs_e0.pt --metric cos
    """
    from ssltool.knn import run

    result = run(config)
    vote = f"weighted, temperature {result['temperature']}" if result["weighted"] else "majority"
    rows = [
        ["accuracy", f"{result['accuracy']:.4f}"],
        ["k", f"{result['k']}, {result['metric']}, {vote}"],
        ["bank", f"{result['bank_size']:,} rows of {result['classes']} classes, {result['bank']}"],
        ["queries", f"{result['query_size']:,} rows, {result['queries']}"],
    ]
    emit(result, table(rows), as_json)
