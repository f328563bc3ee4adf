"""``ssltool scan``."""

from __future__ import annotations

from typing import Any

import click

from ssltool.cli.flags import Command, config_option, data_argument, json_option, settings, with_file
from ssltool.cli.output import cell, emit, table
from ssltool.config import ScanConfig
from ssltool.settings import Record


@click.command("scan", cls=Command, ranks=True)
@data_argument
@settings(ScanConfig)
@config_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, config: ScanConfig, data_dir: str | None, config_file: str | None, as_json: bool
) -> None:
    """Cluster the train images into classes without labels, with the three steps of SCAN (Van Gansbeke et al. 2020).

    \b
    mine       finds the nearest neighbours of each image                 -> neighbours.pt
    cluster    trains the network and a linear classifier to assign an
               image and its neighbours to the same cluster               -> clusters.pt
    selflabel  trains both further on their most confident predictions    -> selflabelled.pt

    Each step reads the previous step's file in the run folder; the file may also come from another program. Labels
    are used only for the scores: accuracy with the best one-to-one matching of clusters and classes, normalised mutual
    information and adjusted Rand index, on the val images if there are any. With more clusters than classes, majority
    is the accuracy if each cluster predicts its most frequent class. --kmeans adds a baseline.

    SIGTERM, SIGINT and SIGUSR1 save and stop; re-run the command with --resume auto to continue: the result is
    bit-identical.

    \b
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --kmeans
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --step mine -o scan
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --step cluster --clusters 20 -o scan
    ssltool scan --step selflabel -o scan
    """
    from ssltool.stages.scan.scan import run

    result = run(with_file(ctx, config, data_dir, config_file))
    emit(result, _text(result), as_json)


def _text(result: Record) -> str:
    steps = dict(result["steps"])
    parts = []
    if "mine" in steps:
        mined = steps.pop("mine")
        share = "" if mined["accuracy"] is None else f", {mined['accuracy']:.1%} of them of the same class"
        parts.append(f"{mined['neighbours']} neighbours of each image{share}")
    if steps:
        with_majority = any(scores["clusters"] > scores["classes"] > 0 for scores in steps.values())
        header = ["", "accuracy", *(["majority"] if with_majority else []), "NMI", "ARI", "clusters", "classes"]
        header += ["empty", "smallest", "largest", "confident", "scored on"]
        parts.append(table([_row(name, scores, with_majority) for name, scores in steps.items()], header))
    return "\n\n".join([*parts, f"run  {cell(result['run'])}"])


def _row(name: str, scores: Record, with_majority: bool) -> list[Any]:
    row = [name, scores["accuracy"], *([scores["majority"]] if with_majority else []), scores["nmi"], scores["ari"]]
    row += [scores["clusters"], scores["classes"], scores["empty"], min(scores["sizes"]), max(scores["sizes"])]
    return [*row, scores.get("confident"), f"{scores['images']:,} {scores['scored_on']} images"]
