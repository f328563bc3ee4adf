"""``ssltool lincls``."""

from __future__ import annotations

import click

from ssltool.cli.options import BY_TORCHRUN, DETECTED, Command, data_argument, gone, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import LinclsConfig


@click.command("lincls", cls=Command)
@data_argument
@settings(LinclsConfig)
@json_option
@gone(BY_TORCHRUN | DETECTED | {"--evaluate": "the val images are evaluated after every epoch"})
def command(config: LinclsConfig, data_dir: str | None, as_json: bool) -> None:
    """Train a linear probe on the frozen backbone of a checkpoint and report its accuracy on the val images.

    The paper's protocol: the backbone in eval mode and proved unchanged at the end, classifier weights from N(0, 0.01),
    random crops and flips, a cosine per epoch. --lars is its LARC. Dataset, stem and image size come from the
    checkpoint unless given. Writes config.json, metrics.jsonl and probe.pt into a run folder.

    \b
    ssltool lincls --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --epochs 10 --lr 1
    ssltool lincls --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --lars -b 1024
    """
    from ssltool.lincls import run

    result = run(with_data(config, data_dir))
    rows = [
        ["accuracy@1", f"{result['acc1']:.4f}"],
        ["accuracy@5", f"{result['acc5']:.4f}"],
        ["probe", f"{result['optimizer']}, {result['epochs']} epochs, {result['classes']} classes"],
        ["backbone", f"unchanged, sha256 {result['backbone_hash'][:16]}"],
        ["run", result["run"]],
    ]
    emit(result, table(rows), as_json)
