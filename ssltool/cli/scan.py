"""``ssltool scan``."""

from __future__ import annotations

from typing import Any

import click

from ssltool.cli.flags import Command, data_argument, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import ScanConfig


@click.command("scan", cls=Command)
@data_argument
@settings(ScanConfig)
@json_option
def command(config: ScanConfig, data_dir: str | None, as_json: bool) -> None:
    """Cluster the train images into classes without labels, by the three steps of SCAN (Van Gansbeke et al. 2020).

    \b
    mine       finds the neighbours of each image among representations   -> neighbours.pt
    cluster    trains the network and a linear classifier to put an image
               and its neighbours into one cluster                        -> clusters.pt
    selflabel  trains it on, by its own most confident answers            -> selflabelled.pt

    Each step reads the file of the one before it from the run folder, so any of them may be made by other means.
    Labels are used for the scores only: accuracy by the best one-to-one matching of clusters and classes, normalised
    mutual information and adjusted Rand index, on the val images where there are any. With more clusters than classes
    majority, where each cluster stands for its most frequent class, is shown beside them. --kmeans gives the baseline.

    SIGTERM, SIGINT and SIGUSR1 save and stop; the same line with --resume auto goes on to the same bits.

    \b
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --kmeans
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --step mine -o scan
    ssltool scan --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --step cluster --clusters 20 -o scan
    ssltool scan --step selflabel -o scan
    """
    from ssltool.stages.scan.scan import run

    result = run(with_data(config, data_dir))
    emit(result, _text(result), as_json)


def _text(result: dict[str, Any]) -> str:
    steps = dict(result["steps"])
    parts = []
    if "mine" in steps:
        mined = steps.pop("mine")
        share = "" if mined["accuracy"] is None else f", {mined['accuracy']:.1%} of them of its class"
        parts.append(f"{mined['neighbours']} neighbours of each image{share}")
    if steps:
        over = any(found["clusters"] > found["classes"] > 0 for found in steps.values())
        header = ["", "accuracy", *(["majority"] if over else []), "NMI", "ARI", "clusters", "classes"]
        header += ["empty", "smallest", "largest", "confident", "scored on"]
        parts.append(table([_row(name, found, over) for name, found in steps.items()], header))
    return "\n\n".join([*parts, f"run  {result['run']}"])


def _row(name: str, found: dict[str, Any], over: bool) -> list[Any]:
    row = [name, found["accuracy"], *([found["majority"]] if over else []), found["nmi"], found["ari"]]
    row += [found["clusters"], found["classes"], found["empty"], min(found["sizes"]), max(found["sizes"])]
    return [*row, found.get("confident"), f"{found['images']:,} {found['scored_on']} images"]
