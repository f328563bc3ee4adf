"""``ssltool diagnose``."""

from __future__ import annotations

import click

from ssltool.cli.collapse import COLLAPSED
from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, note, table
from ssltool.config import DiagnoseConfig
from ssltool.config.fields import STATES
from ssltool.errors import counted
from ssltool.settings import Record
from ssltool.training.launch import launch

LEVELS = {STATES[0]: "note", STATES[1]: "warning", STATES[2]: "fault"}


@click.command("diagnose", cls=Command, ranks=True)
@click.argument("items", metavar="RUN|LOG|CHECKPOINT...", nargs=-1, required=True)
@settings(DiagnoseConfig, positional=("items",))
@json_option
@click.pass_context
def command(ctx: click.Context, config: DiagnoseConfig, as_json: bool) -> None:
    """Diagnose any training: what went wrong, since when, the probable cause, and which checkpoint to keep.

    An item is a run folder of pretrain, a folder of ssltool.Monitor, a log of any program that docs/diagnose.md lists
    (DINO, DINOv2, MAE, MoCo v3, SimSiam, Barlow Twins, VICReg, Lightning, TensorBoard, Weights & Biases, ..., or a .csv
    table), a folder of such logs, or a checkpoint that --pretrained of other commands reads. Logs are recognised by
    their content. Checkpoints are measured together on --data, beside an untrained network, in the order of their
    epochs.

    \b
    ssltool diagnose logs/simsiam-resnet18-iid_0000
    ssltool diagnose log.txt --json --fail-on complete
    ssltool diagnose losses.csv --loss pretraining_loss
    ssltool diagnose checkpoint0020.pth checkpoint0040.pth --data images

    Exit code 3: a collapse, or a failure such as NaN, is of a severity or kind that --fail-on names.
    """
    from ssltool.stages.diagnose import run

    result = run(config)
    for text in result["notes"]:
        note(text)
    emit(result, "\n\n".join(map(_text, result["reports"])), as_json)
    if result["failed"] and launch().rank == 0:  # as for collapse
        ctx.exit(COLLAPSED)


def _text(report: Record) -> str:
    """The report, which begins with one plain sentence."""
    lines = [f"{cell(report['path'])}: {cell(report['line'])}"]
    if report["source"] in ("log", "monitor"):
        values = counted(report["values"], "look" if report["loss"] is None else "value")
        values += "" if report["loss"] is None else f" of {cell(report['loss'])}"
        lines.append(f"read as {report['read']}: {values}, {report['unit']} {report['first']:g} to {report['last']:g}")
    if "checkpoints" in report:
        lines += ["", _checkpoints(report["checkpoints"])]
    for finding in report["findings"]:
        lines += ["", *_finding(finding)]
    if (keep := report["keep"]) is not None:
        kept = "no checkpoint" if keep["path"] is None else cell(keep["path"])
        lines += ["", f"keep: {kept} ({keep['why']})"]
    lines += [""] if report["notes"] else []
    lines += [f"note: {cell(note)}" for note in report["notes"]]
    lines += [f"next: {cell(following)}" for following in report["next"]]
    return "\n".join(lines)


def _finding(finding: Record) -> list[str]:
    lines = [f"{LEVELS[finding['state']]}: {finding['kind']}: {cell(finding['line'])}"]
    lines += [f"  probable cause: {cell(finding['cause'])}"] if finding["cause"] else []
    if finding["advice"]:
        tested = f"tested: {finding['tested']}" if finding["tested"] else "not tested"
        lines.append(f"  advice: {cell(finding['advice'])} ({cell(tested)})")
    return lines


def _checkpoints(rows: list[Record]) -> str:
    names = ("auc", "effective_rank", "feature_std", "dead_directions")
    body = [
        [
            row["path"],
            "-" if row["epoch"] is None else row["epoch"],
            row["verdict"],
            *(row["metrics"].get(name) for name in names),
            row["norm"],
            None if row["knn"] is None else f"{row['knn']:.1%}",
        ]
        for row in rows
    ]
    return table(body, ["checkpoint", "epoch", "verdict", *names, "mean norm", "kNN"])
