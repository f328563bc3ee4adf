"""``ssltool finetune``."""

from __future__ import annotations

from typing import Any

import click

from ssltool.cli.flags import Command, data_argument, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import FinetuneConfig

TITLES = {"pretrained": "pretrained", "scratch": "from scratch"}


@click.command("finetune", cls=Command)
@data_argument
@settings(FinetuneConfig)
@json_option
def command(config: FinetuneConfig, data_dir: str | None, as_json: bool) -> None:
    """Train the whole network of a checkpoint, with a new linear classifier, on labelled images, and report its
    accuracy on the val images.

    With --from-scratch an untrained network of the same make is trained beside it, on the same images, batches, order
    and crops, from the same classifier, for as many epochs; the difference is what pretraining was worth. Of several
    --seeds the spread is printed too, and a 95 % interval of the difference, seed by seed. The val images are looked at
    once, after the last epoch.

    Writes config.json, metrics.jsonl and a checkpoint of each network, which the other commands read. SIGTERM, SIGINT
    and SIGUSR1 save and stop; the same line with --resume auto goes on to the same bits.

    \b
    ssltool finetune --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --from-scratch --seeds 3
    ssltool finetune --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --labels-fraction 0.01 -b 32
    ssltool finetune --pretrained vit/checkpoint.pt --optimizer adamw --lr 0.001 --wd 0.05 --layer-decay 0.75
    """
    from ssltool.stages.finetune import run

    result = run(with_data(config, data_dir))
    emit(result, f"{_accuracies(result)}\n\n{_facts(result)}", as_json)


def _accuracies(result: dict[str, Any]) -> str:
    rows = [[TITLES[arm], *map(_mean, found.values())] for arm, found in result["arms"].items()]
    if "difference" in result:
        rows.append(["difference", *map(_difference, result["difference"].values())])
    return table(rows, ["", "accuracy@1", "accuracy@5", "mean of classes"])


def _mean(found: dict[str, Any]) -> str:
    return f"{found['mean']:.4f}" + ("" if found["sd"] is None else f" +- {found['sd']:.4f}")


def _difference(found: dict[str, Any]) -> str:
    interval = "" if found["sd"] is None else f" ({found['low']:+.4f} .. {found['high']:+.4f})"
    return f"{found['mean']:+.4f}{interval}"


def _facts(result: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, result["seeds"]))
    spread = "; +- is the standard deviation over them" if len(result["seeds"]) > 1 else ""
    if spread and "difference" in result:
        spread += ", (..) the 95 % interval of the mean difference"
    rows = [
        [
            "images",
            f"{result['train_size']:,} of {result['classes']} classes to learn from, {result['val_size']:,} val",
        ],
        ["training", f"{result['optimizer']}, {result['epochs']} epochs, batches of {result['batch_size']}"],
        ["seeds", f"{seeds}{spread}"],
        ["run", result["run"]],
    ]
    return table(rows)
