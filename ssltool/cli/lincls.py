"""``ssltool lincls``."""

from __future__ import annotations

import click

from ssltool.cli.flags import (
    BY_TORCHRUN,
    DETECTED,
    Command,
    config_option,
    data_argument,
    json_option,
    obsolete_flags,
    settings,
    with_file,
)
from ssltool.cli.output import emit, table
from ssltool.config import LinclsConfig
from ssltool.errors import counted
from ssltool.settings import Record


@click.command("lincls", cls=Command, ranks=True)
@data_argument
@settings(LinclsConfig)
@config_option
@json_option
@obsolete_flags(BY_TORCHRUN | DETECTED)
@click.pass_context
def command(
    ctx: click.Context, config: LinclsConfig, data_dir: str | None, config_file: str | None, as_json: bool
) -> None:
    """Train a linear probe on frozen features and report its accuracy on the val images.

    On images it follows the paper's protocol: the backbone in eval mode and verified to be unchanged at the end,
    classifier weights from N(0, 0.01), random crops and flips, a cosine schedule per epoch. --optimizer larc is the
    paper's LARC. Dataset, stem and image size are the checkpoint's unless given; DATA may be another labelled dataset.
    On two files of save-reprs (--reprs) it does the same without crops, or logistic regression (--solver lbfgs).

    --lr-sweep and --c-grid choose the best value on held-out training images, never on the val images. Writes
    config.json, metrics.jsonl and, after every epoch, probe.pt into a run folder; --resume auto continues from it.

    \b
    ssltool lincls --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --epochs 10 --lr-sweep 0.1,0.3,1,3
    ssltool lincls --pretrained logs/simsiam-resnet18-current_0000/checkpoint.pt --optimizer larc -b 1024
    ssltool lincls --reprs train_reprs_e0.pt val_reprs_e0.pt --solver lbfgs --c-grid 0.01,0.1,1,10
    ssltool lincls --reprs train_reprs_e0.pt val_reprs_e0.pt --labels-fraction 0.01 --lr-sweep 0.1,1,10
    ssltool lincls --pretrained checkpoint.pt --resume logs/lincls-run_0000/probe.pt --evaluate
    """
    from ssltool.stages.lincls import run

    result = run(with_file(ctx, config, data_dir, config_file))
    emit(result, "\n\n".join(_tables(result)), as_json)


def _tables(result: Record) -> list[str]:
    rows = [
        ["accuracy@1", f"{result['acc1']:.4f}"],
        ["accuracy@5", f"{result['acc5']:.4f}"],
        ["mean of classes", f"{result['class_acc1']:.4f}"],
        ["evaluated on", f"{result['val_size']:,} {result['features']}"],
        ["classes", f"{result['classes']} that the probe predicts"],
    ]
    if "train_size" in result:
        rows += [["trained on", f"{result['train_size']:,} {result['features']}{_held(result)}"]]
        rows += [["probe", _probe(result)]]
    if "backbone_hash" in result:
        rows.append(["backbone", f"unchanged, sha256 {result['backbone_hash'][:16]}"])
    rows.append(["run", result["run"]] if "run" in result else ["probe", result["probe"]])
    if "tried" not in result:
        return [table(rows)]
    names = [
        name for name in ("lr", "c", "held_acc1", "loss", "train_acc1", "iterations") if name in result["tried"][0]
    ]
    return [table([[one[name] for name in names] for one in result["tried"]], names), table(rows)]


def _held(result: Record) -> str:
    if "held_size" not in result:
        return ""
    refitted = result["optimizer"] == "lbfgs"  # the best C is fitted again to all rows
    return f", {'of which' if refitted else 'and'} {result['held_size']:,} held out for selection"


def _probe(result: Record) -> str:
    scaled = ", standardised" if result["standardised"] else ""
    if result["optimizer"] == "lbfgs":
        end = "converged" if result["converged"] else "not converged"
        return f"lbfgs, C {result['c']:g}, {result['iterations']} iterations, {end}{scaled}"
    schedule = f"{counted(result['epochs'], 'epoch')}, batches of {result['batch_size']}"
    return f"{result['optimizer']}, lr {result['lr']:g}, {schedule}{scaled}"
