"""``ssltool pretrain``."""

from __future__ import annotations

from typing import Any

import click

from ssltool.cli.options import BY_TORCHRUN, Command, data_argument, gone, json_option, settings, with_data
from ssltool.cli.output import emit, table
from ssltool.config import PretrainConfig


@click.command("pretrain", cls=Command)
@data_argument
@settings(PretrainConfig)
@json_option
@gone(BY_TORCHRUN | {"--nnsiam": "it will be --method nnsiam", "--no-resume": "nothing is resumed without --resume"})
def command(config: PretrainConfig, data_dir: str | None, as_json: bool) -> None:
    """Pretrain a network on the images in DATA, without labels.

    DATA is an ImageNet-style folder (train and val inside), a folder of class folders, a folder of unlabelled
    images, or holds Fashion-MNIST, CIFAR, STL-10 or Places365; without it the bundled Fashion-MNIST subset is used.

    Writes a run folder: config.json, metrics.jsonl (a line per epoch), checkpoints, and the order of the data.
    SIGTERM, SIGINT and SIGUSR1 save and stop; the same line with --resume auto goes on to the same bits. Several
    processes: torchrun --nproc-per-node N -m ssltool pretrain ...

    \b
    ssltool pretrain -a resnet18 --strategy current
    ssltool pretrain -a resnet18 --strategy current --dry-run
    ssltool pretrain -a resnet18_w16 --stem small-stride2 --epochs 2 --fix-pred-lr
    ssltool pretrain -a resnet18_w16 --stem small-stride2 --epochs 2 --set stop_grad=false --exp-name collapsing
    """
    config = with_data(config, data_dir)
    if config.dry_run:
        from ssltool.plan import make_plan

        plan = make_plan(config)
        emit(plan, _describe(plan), as_json)
        return
    from ssltool.pretrain import pretrain
    from ssltool.training.distributed import is_main

    folder = pretrain(config)
    if is_main():
        emit({"run": str(folder), "checkpoint": str(folder / "checkpoint.pt")}, str(folder), as_json)


def _describe(plan: dict[str, Any]) -> str:
    c, seen = plan["config"], plan["exposure"]
    hours, rest = divmod(int(plan["estimated_seconds"]), 3600)
    size = f"{plan['parameters']:,} parameters"
    facts = {
        "data": plan["data"],
        "model": f"{c['method']} {c['arch']}, stem {c['stem']}, {c['image_size']} px, {size}",
        "strategy": f"{c['strategy']}, {c['epochs']} epochs of {plan['steps_per_epoch']} steps of {c['batch_size']}",
        "each image": f"{seen['min']} to {seen['max']} times, {seen['mean']:.1f} on average, {seen['never']} never",
        "memory": f"about {plan['memory_bytes'] / 2**30:.2f} GiB for weights, gradients, optimiser and activations",
        "time": f"about {hours} h {rest // 60} min {rest % 60} s, at the {plan['images_per_second']:,.0f} images/s "
        "of trial steps (making views not counted)",
        "run folder": f"{plan['run']} (not made)",
    }
    rows = [
        (
            e["epoch"],
            "{}:{}".format(*e["slice"]),
            e["unique_images"],
            e["steps"],
            e["times_each"],
            e["lr"],
            e["fixed_lr"],
        )
        for e in plan["epochs"]
    ]
    header = ["epoch", "slice of the order", "unique images", "steps", "times each", "lr", "fixed lr"]
    return f"{table(list(facts.items()))}\n\n{table(rows, header)}"
