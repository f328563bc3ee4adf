"""``ssltool finetune``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, config_option, data_argument, json_option, settings, with_file
from ssltool.cli.output import emit, table
from ssltool.config import FinetuneConfig
from ssltool.errors import counted
from ssltool.settings import Record

TITLES = {"pretrained": "pretrained", "scratch": "from scratch"}


@click.command("finetune", cls=Command, ranks=True)
@data_argument
@settings(FinetuneConfig)
@config_option
@json_option
@click.pass_context
def command(
    ctx: click.Context, config: FinetuneConfig, data_dir: str | None, config_file: str | None, as_json: bool
) -> None:
    """Fine-tune the whole network of a checkpoint, with a new linear classifier, on labelled images, and report its
    accuracy on the val images.

    --from-scratch also trains an untrained network of the same architecture on the same images, batches, order and
    crops, with the same initial classifier and for as many epochs; the difference is the gain from pretraining. With
    several --seeds, the standard deviation and a 95 % interval of the paired difference are printed too. The val images
    are evaluated once, after the last epoch.

    Writes config.json, metrics.jsonl and a checkpoint of each network, which the other commands read. SIGTERM, SIGINT
    and SIGUSR1 save and stop; re-run the command with --resume auto to continue: the result is bit-identical.

    \b
    ssltool finetune --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --from-scratch --seeds 3
    ssltool finetune --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --labels-fraction 0.01 -b 32
    ssltool finetune --pretrained vit/checkpoint.pt --optimizer adamw --lr 0.001 --weight-decay 0.05 --layer-decay 0.75
    """
    from ssltool.stages.finetune import run

    result = run(with_file(ctx, config, data_dir, config_file))
    emit(result, f"{_accuracies(result)}\n\n{_facts(result)}", as_json)


def _accuracies(result: Record) -> str:
    rows = [[TITLES[arm], *map(_mean, found.values())] for arm, found in result["arms"].items()]
    if "difference" in result:
        rows.append(["difference", *map(_difference, result["difference"].values())])
    return table(rows, ["", "accuracy@1", "accuracy@5", "mean of classes"])


def _mean(found: Record) -> str:
    return f"{found['mean']:.4f}" + ("" if found["sd"] is None else f" +- {found['sd']:.4f}")


def _difference(found: Record) -> str:
    interval = "" if found["sd"] is None else f" ({found['low']:+.4f} .. {found['high']:+.4f})"
    return f"{found['mean']:+.4f}{interval}"


def _facts(result: Record) -> str:
    seeds = ", ".join(map(str, result["seeds"]))
    spread = "; +- is the standard deviation over them" if len(result["seeds"]) > 1 else ""
    if spread and "difference" in result:
        spread += ", (..) the 95 % interval of the mean difference"
    rows = [
        [
            "images",
            f"{result['train_size']:,} train of {result['classes']} classes, {result['val_size']:,} val",
        ],
        ["training", f"{result['optimizer']}, {counted(result['epochs'], 'epoch')}, batches of {result['batch_size']}"],
        ["seeds", f"{seeds}{spread}"],
        ["run", result["run"]],
    ]
    return table(rows)
