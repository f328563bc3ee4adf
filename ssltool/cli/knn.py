"""``ssltool knn``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, obsolete_flags, settings
from ssltool.cli.output import emit, note, table
from ssltool.config import KnnConfig
from ssltool.errors import counted
from ssltool.settings import Record


@click.command("knn", cls=Command, ranks=True)
@click.argument("bank", metavar="[TRAIN]", required=False)
@click.argument("queries", metavar="[VAL]", required=False)
@settings(KnnConfig, positional=("bank", "queries"))
@json_option
@obsolete_flags({"--recompute": "neighbours are not cached"})
def command(config: KnnConfig, as_json: bool) -> None:
    """Classify the representations in VAL by their nearest neighbours in TRAIN.

    Accuracy is the fraction of VAL's labelled rows whose k nearest rows of TRAIN vote for the correct class; ties go to
    the smallest label. Its interval is Wilson's, 95 %. Classes are compared by name. An image that is in both files
    (same number in the dataset) is not its own neighbour. Files are .pt, .npy, .npz or parquet; TRAIN and VAL may be
    glob patterns, whose files are read as one.

    Report the accuracy of a fixed k, or of the k chosen with --select-k holdout.

    \b
    ssltool knn train_reprs_e0.pt val_reprs_e0.pt
    ssltool knn train_reprs_e0.pt val_reprs_e0.pt --weighted -k 10,20,100,200 --select-k holdout
    ssltool knn 'train_reprs_e0.rank*.pt' val_reprs_e0.pt --memory 2048 --neighbours neighbours.pt --json
    ssltool knn train_reprs_e0.pt val_reprs_e0.pt --per-class --confusion
    """
    from ssltool.stages.knn import run

    result = run(config)
    for text in result["notes"]:
        note(text)
    emit(result, _text(result), as_json)


def _text(result: Record) -> str:
    vote = f"weighted, temperature {result['temperature']}" if result["weighted"] else "majority"
    rows = [
        ["vote", f"{result['metric']}, {vote}"],
        ["bank", f"{counted(result['bank_size'], 'row')} of {counted(result['classes'], 'class')}, {result['bank']}"],
        ["queries", f"{counted(result['query_size'], 'row')}, {result['queries']}"],
    ]
    if result["k"] is not None:
        chosen = f", chosen on {result['selected_on']}" if result["selected_on"] else ""
        rows[:0] = [
            ["accuracy", f"{result['accuracy']:.4f}, 95 % interval {_interval(result)}"],
            ["mean of classes", f"{result['balanced_accuracy']:.4f}"],
            ["k", f"{result['k']}{chosen}"],
        ]
    parts = [table(rows), _accuracies(result["accuracies"]), _classes(result), _confusion(result)]
    return "\n\n".join(part for part in parts if part)


def _interval(accuracy: Record) -> str:
    return "{:.4f} .. {:.4f}".format(*accuracy["interval"])


def _accuracies(found: list[Record]) -> str:
    """A row for each k, if there are several."""
    if len(found) == 1:
        return ""
    held = ["held_out_accuracy"] if "held_out_accuracy" in found[0] else []
    rows = [[one["k"], f"{one['accuracy']:.4f}", _interval(one), *(f"{one[key]:.4f}" for key in held)] for one in found]
    return table(rows, ["k", "accuracy", "95 % interval", *(["on held-out rows"] if held else [])])


def _classes(result: Record) -> str:
    """A row for each class, if requested."""
    rows = [
        [one["class"], f"{one['accuracy']:.4f}", _interval(one), one["queries"], one["bank"]]
        for one in result.get("per_class", ())
    ]
    return table(rows, ["class", "accuracy", "95 % interval", "queries", "bank"]) if rows else ""


def _confusion(result: Record) -> str:
    """A row for each true class, a column for each predicted one, if requested."""
    if "confusion" not in result:
        return ""
    names, counts = result["confusion"]["classes"], result["confusion"]["counts"]
    rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
    return table(rows, ["true \\ predicted", *names])
