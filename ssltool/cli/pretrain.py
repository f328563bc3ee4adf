"""``ssltool pretrain``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ssltool.cli.collapse import COLLAPSED
from ssltool.cli.flags import (
    BY_TORCHRUN,
    Command,
    Setting,
    config_option,
    data_argument,
    given,
    json_option,
    obsolete_flags,
    settings,
    with_data,
)
from ssltool.cli.output import cell, emit, table
from ssltool.config import PretrainConfig
from ssltool.errors import Collapsed, counted, duration
from ssltool.settings import Record

ALGS = {"simsiam": "simsiam", "moco": "mocov3", "byol": "byol"}
"""The paper's names of methods in its scripts, and ours."""


SAME_AS = {"data_dir": "data", "alg": "method", "nnsiam": "method"}
"""Parameters that give a setting another name."""


@click.command("pretrain", cls=Command, ranks=True)
@data_argument
@settings(PretrainConfig)
@config_option
@json_option
@click.option(
    "--recipe",
    cls=Setting,
    section="Method",
    type=click.Choice(("cifar", "imagenet")),
    help="use the method's published settings; options given here take precedence",
)
@click.option(
    "--alg",
    cls=Setting,
    section="Method",
    type=click.Choice(tuple(ALGS)),
    help="method by the paper's names; moco is mocov3",
    alias=True,
)
@click.option("--nnsiam", cls=Setting, section="Method", is_flag=True, help="same as --method nnsiam", alias=True)
@obsolete_flags(
    BY_TORCHRUN
    | {
        "--no-resume": "nothing is resumed without --resume",
        "--teacher-arch NAME": "the architecture is read from the teacher's checkpoint",
        "--teacher-repr-path FILE": "the running means and deviations start at 0 and 1",
    }
)
@click.pass_context
def command(
    ctx: click.Context,
    config: PretrainConfig,
    data_dir: str | None,
    config_file: str | None,
    as_json: bool,
    recipe: str | None,
    alg: str | None,
    nnsiam: bool,
) -> None:
    """Pretrain a network on the images in DATA, without labels.

    DATA is an ImageNet-style folder (with train and val), a folder of class folders, a folder of unlabelled images, a
    zip or tar archive of one, a table of paths, WebDataset shards, a Hugging Face dataset (hf:NAME), NumPy arrays, or
    one of the datasets that --dataset-type names. The default is the bundled Fashion-MNIST subset.

    Writes a run folder: config.json, metrics.jsonl (a line per epoch), checkpoints, and the order of the data. After
    each epoch a monitor measures collapse and reports it on stderr; --stop-on stops a collapsed run with exit code 3.
    SIGTERM, SIGINT and SIGUSR1 save and stop; re-run the command with --resume auto to continue: the result is
    bit-identical. --config repeats a run into a new folder. For several processes, use
    torchrun --nproc-per-node N -m ssltool pretrain ...

    \b
    ssltool pretrain -a resnet18 --strategy current
    ssltool pretrain -a resnet18 --strategy current --dry-run
    ssltool pretrain -a resnet18_w16 --stem small-stride2 --epochs 2 --fix-pred-lr
    ssltool pretrain -a resnet18_w16 --stem small-stride2 --epochs 2 --set stop_grad=false --exp-name collapsing
    ssltool pretrain -a resnet18_w16 --stem small-stride2 --method vicreg --set dim=512 --set hidden=512 --epochs 2
    """
    explicit = given(ctx)
    config = _with_method(with_data(config, data_dir), alg, nnsiam, given="method" in explicit)
    if config_file is not None and recipe is not None:
        raise click.UsageError(
            "--recipe does nothing with --config, whose file has all settings; leave one of them out"
        )
    if recipe is not None:
        from ssltool.stages.pretrain.recipe import apply_recipe

        config = apply_recipe(config, recipe, explicit)
    if config_file is not None:
        from ssltool.stages.pretrain.recipe import repeat_run

        config = repeat_run(config, config_file, explicit | {SAME_AS[name] for name in explicit & SAME_AS.keys()})
    if config.dry_run:
        from ssltool.stages.pretrain import plan

        planned = plan(config)
        emit(planned, _describe(planned), as_json)
        return
    from ssltool.stages.pretrain import run
    from ssltool.training.distributed import is_main

    code = 0
    try:
        folder = run(config)
    except Collapsed as stop:
        folder, code = stop.folder, COLLAPSED
    if is_main():
        emit(_result(folder), cell(str(folder)), as_json)
    ctx.exit(code)


def _result(folder: Path) -> Record:
    """The document of ``--json`` for the run in ``folder``."""
    from ssltool.runs.folder import RunFolder

    found = RunFolder(folder).read_config()["found"]
    return {"run": str(folder), "checkpoint": str(folder / "checkpoint.pt"), "found": [found]}


def _with_method(config: PretrainConfig, alg: str | None, nnsiam: bool, *, given: bool) -> PretrainConfig:
    """The method that ``--alg`` or ``--nnsiam`` names.

    Raises:
        click.UsageError: if it is named twice.
    """
    named = [name for name in (ALGS[alg] if alg else None, "nnsiam" if nnsiam else None) if name]
    if len(named) + given > 1:
        raise click.UsageError("--method, --alg and --nnsiam each name the method; keep one of them")
    return dataclasses.replace(config, method=named[0]) if named else config


def _describe(plan: Record) -> str:
    c, seen = plan["config"], plan["exposure"]
    size = f"{plan['parameters']:,} parameters"
    facts = {
        "data": plan["data"],
        "model": f"{c['method']} {c['arch']}, stem {c['stem']}, {c['image_size']} px, {size}",
        "strategy": f"{c['strategy']}, {counted(c['epochs'], 'epoch')} of {counted(plan['steps_per_epoch'], 'step')}, "
        f"batches of {c['batch_size']}",
        "each image": f"{seen['min']} to {seen['max']} times, {seen['mean']:.1f} on average, {seen['never']} never",
        "monitor": f"{c['monitor_size']:,} images, --monitor-every {c['monitor_every']}"
        if c["monitor_every"]
        else "off",
        "memory": f"about {plan['memory_bytes'] / 2**30:.2f} GiB for weights, gradients, optimizer and activations",
        "time": f"about {duration(plan['estimated_seconds'])}, at the {plan['images_per_second']:,.0f} images/s "
        "of trial steps (without augmentation)",
        "run folder": f"{plan['run']} (not created)",
    }
    rows = [
        (
            e["epoch"] + 1,
            "{}:{}".format(*e["slice"]) + (f" + {e['replayed']:,} replayed" if e.get("replayed") else ""),
            e["unique_images"],
            e["steps"],
            e["times_each"],
            e["lr"],
            e["fixed_lr"],
        )
        for e in plan["epochs"]
    ]
    header = ["epoch", "slice of the order", "unique images", "steps", "times each", "lr", "fixed lr"]
    facts |= {f"warning {number}": text for number, text in enumerate(plan["warnings"], 1)}
    return f"{table(list(facts.items()))}\n\n{table(rows, header)}"
