"""``ssltool collapse``."""

from __future__ import annotations

from typing import Any

import click

from ssltool.cli.flags import Command, Setting, json_option, settings
from ssltool.cli.output import cell, emit, note, table
from ssltool.config import CollapseConfig, CollapseLayersConfig
from ssltool.errors import counted
from ssltool.settings import Record
from ssltool.training.launch import launch

UNSHOWN = ("effective_rank", "total_variance", "coding_rate")
"""Metrics of layers that are not in the table beside the others; the first has a place of its own."""

COLLAPSED = 3
"""Exit code for a verdict at least as severe as ``--fail-on``."""


@click.command("collapse", cls=Command, ranks=True)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--layers",
    cls=Setting,
    section="Options",
    is_flag=True,
    help="measure every block of a network: each FILE is a checkpoint or a run folder. The options in Data and Model "
    "are for this",
)
@settings(CollapseConfig, positional=("files",), layers=CollapseLayersConfig)
@json_option
@click.pass_context
def command(ctx: click.Context, config: CollapseConfig | CollapseLayersConfig, layers: bool, as_json: bool) -> None:
    """Measure the collapse of the representations in each FILE, give a verdict, and save their spectra.

    \b
    auc             area under the cumulative explained variance, the paper's metric: just
                    above 0.5 for a flat spectrum, 1 for complete collapse
    effective_rank  dimensions in use: from 1 (0 if all rows are equal) to the width
    rankme          effective rank of the uncentred matrix (Garrido et al. 2022)
    feature_std     spread of directions: 1 uniform, 0 complete collapse; below 1 for outputs
                    of a ReLU; does not detect a collapse onto a subspace, which auc and
                    effective_rank do

    With one FILE, every metric is printed with its interpretation; with several, a row per FILE. The verdict is
    healthy, partial or complete collapse and depends on feature_std, effective_rank and dead_directions. The singular
    values are those of the centred matrix in float64, computed in one pass for files of any size. Each spectrum is
    written next to its input as STEM_svd.pt (STEM_normalized_svd.pt with --normalize). Exit code 3: the collapse of a
    FILE is of a severity or kind that --fail-on names.

    With --layers, each FILE is a checkpoint that --pretrained of other commands reads. The images pass once through it
    and an untrained network of the same kind; a row for each block says whether its output is collapsed, from shallow
    to deep, and a line where in depth the collapse begins. cka is the similarity to the untrained network, the previous
    checkpoint and the momentum teacher.

    \b
    ssltool collapse train_reprs_e0.pt --type svd
    ssltool collapse train_reprs_e0.pt --metrics all --bootstrap 100 --subsample 500,2000
    ssltool collapse a/train_reprs_e0.pt b/train_reprs_e0.pt --normalize --plot spectra.png
    ssltool collapse logs/*/train_reprs.pt --group-by arch --out table.csv
    ssltool collapse train_reprs_e0.pt --fail-on partial --threshold partial_rank=0.2
    ssltool collapse train_reprs_e0.pt --reference untrained_reprs.pt --fail-on complete,scale
    ssltool collapse --layers logs/simsiam-resnet18-iid_0000 --plot depth.png
    """
    from ssltool.stages.collapse import run, run_layers

    if isinstance(config, CollapseLayersConfig):
        result = run_layers(config)
        items, text = result["networks"], _layers(result)
    else:
        result = run(config)
        items, text = result["files"], _text(result, config)
    for one in items:
        for line in one["notes"]:
            note(f"{one['path']}: {line}")
    emit(result, text, as_json)
    if result["failed"] and launch().rank == 0:  # an exit code of another rank may end rank 0 before it prints
        ctx.exit(COLLAPSED)


def _text(result: Record, config: CollapseConfig) -> str:
    """Without ``--metrics``, several files show only the main metrics; JSON and tables in files have all."""
    from ssltool.diagnosis.metrics import MAIN

    files = result["files"]
    names = list(dict.fromkeys(name for one in files for name in one["metrics"]))
    if config.metrics is None:
        names = [name for name in names if name in MAIN]
    parts = [_one(files[0])] if len(files) == 1 else [_many(files, names), _verdicts(files)]
    parts += [_asked({one["path"]: one["asked"] for one in files}, "file")] if "asked" in files[0] else []
    parts += [_subsamples(one) for one in files if "subsamples" in one]
    parts += [_groups(result["groups"], names)] if "groups" in result else []
    return "\n\n".join(parts)


def _one(found: Record) -> str:
    """All metrics of one file, a line each."""
    from ssltool.diagnosis.metrics import METRICS

    titles = {"intervals": "95 % interval", "like": "in --like", "reference": "in --reference"}
    extra = [name for name in titles if name in found]
    rows = []
    for name, value in found["metrics"].items():
        row: list[Any] = [name, value]
        for key in extra:
            other = found[key].get(name)
            row.append(" .. ".join(map(cell, other)) if isinstance(other, tuple) else cell(other))
        rows.append([*row, METRICS[name].interpretation])
    head = f"{cell(found['path'])}: {counted(found['n'], 'row')} of width {found['d']:,}"
    if found["normalized"]:
        head += ", rows scaled to length 1"
    return f"{head}\n{found['verdict']['line']}\n\n" + table(
        rows, ["metric", "value", *(titles[key] for key in extra), ""]
    )


def _many(files: list[Record], names: list[str]) -> str:
    """A row for each file."""
    rows = [
        [one["path"], one["n"], one["d"], one["verdict"]["state"], *(one["metrics"].get(n) for n in names)]
        for one in files
    ]
    return table(rows, ["file", "rows", "width", "verdict", *names])


def _verdicts(files: list[Record]) -> str:
    """The verdict on each file, with its evidence."""
    return "\n".join(f"{cell(one['path'])}: {one['verdict']['line']}" for one in files)


def _asked(asked: dict[str, list[Record]], title: str) -> str:
    """The kinds that ``--fail-on`` names, with the numbers that decide them and their thresholds, of each file or
    layer."""
    rows = [
        [
            name,
            kind["kind"],
            "yes" if kind["shown"] else "no",
            *(
                ", ".join(f"{key} {cell(value)}" for key, value in kind[what].items())
                for what in ("numbers", "thresholds")
            ),
        ]
        for name, kinds in asked.items()
        for kind in kinds
    ]
    return table(rows, [title, "kind", "shown", "numbers", "thresholds"])


def _subsamples(found: Record) -> str:
    names = [name for name in found["subsamples"][0] if name != "n"]
    return table([[one["n"], *(one[name] for name in names)] for one in found["subsamples"]], ["rows", *names])


def _groups(groups: list[Record], names: list[str]) -> str:
    key = next(iter(groups[0]))
    rows = [[g[key], g["files"], *(f"{cell(g['mean'][n])} +- {cell(g['std'][n])}" for n in names)] for g in groups]
    return table(rows, [key, "files", *names])


def _layers(result: Record) -> str:
    """A table of the layers of each network."""
    return "\n\n".join(map(_network, result["networks"]))


def _network(network: Record) -> str:
    """The layers of one network, from shallow to deep."""
    compared = list(network["layers"][0]["cka"])
    names = [name for name in network["layers"][0]["metrics"] if name not in UNSHOWN]
    rows = [
        [
            layer["layer"],
            layer["d"],
            layer["verdict"]["state"],
            layer["metrics"]["effective_rank"],
            *([layer["untrained"]["effective_rank"]] if layer["untrained"] else []),
            *(layer["metrics"].get(name) for name in names),
            *(layer["cka"][name] for name in compared),
        ]
        for layer in network["layers"]
    ]
    untrained = ["of untrained"] if network["layers"][0]["untrained"] else []
    head = ["layer", "width", "verdict", "effective_rank", *untrained]
    head += [*names, *(f"cka {name.replace('_', ' ')}" for name in compared)]
    what = f"{cell(network['path'])}: {cell(network['arch'])}, {counted(network['n'], 'image')}, {network['pooled']}"
    parts = [f"{what}\n{cell(network['line'])}", table(rows, head)]
    if "asked" in network["layers"][0]:
        parts.append(_asked({layer["layer"]: layer["asked"] for layer in network["layers"]}, "layer"))
    return "\n\n".join(parts)
