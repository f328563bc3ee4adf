"""Whether the verdict names the kind of collapse: runs of known kind against the kinds that it names.

    python benchmarks/kinds.py train calibration FOLDER [--only NAME ...]
    python benchmarks/kinds.py train table FOLDER
    python benchmarks/kinds.py train newer FOLDER
    python benchmarks/kinds.py score FOLDER [--json FILE]

``train`` trains each run on the bundled images for a short time, most of them with a part of the method left out so
that they collapse on purpose. It keeps in FOLDER the outputs of the trained and of the untrained network for up to
500 training images, the losses, the prototypes, and how far teacher and student moved. The runs of ``calibration``
have other seeds and architectures than those of ``table``, and partly other methods and settings; thresholds are set on
them only. ``newer`` are runs of other methods. ``kinds_runs.py`` has all runs. ``score`` gives all this to the verdict,
as the monitor does, and prints the kinds that it names and the confusion matrix.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from kinds_runs import HEALTHY, SETS, SHARED, UNTRAINED, Run
from torch import Tensor, nn

IMAGES = 500
"""Number of training images whose outputs are measured."""

SAME = 0.9
"""Mean cosine of the projections of different images, from which on they are nearly the same."""

SHRUNK = 0.1
"""Ratio of their variance to the untrained network's, up to which the projections lie nearly in one point."""


def register() -> None:
    """Registers the methods of these runs that are in no paper."""
    from ssltool.methods import METHODS, Entry
    from ssltool.methods.base import Output
    from ssltool.methods.swav import SwAV, swav_loss
    from ssltool.methods.vicreg import VICReg, VICRegOptions
    from ssltool.models.heads import mlp
    from ssltool.settings import setting

    class Unbalanced(SwAV):
        """SwAV whose assignments are not balanced: each view predicts the nearest prototype of the other."""

        def forward(self, batch: Any) -> Output:
            z = [F.normalize(self.projector(self.backbone(view)).float(), dim=1) for view in batch.views]
            scores = [self.prototypes(row) for row in z]
            codes = [F.one_hot(row.argmax(dim=1), row.shape[1]).float() for row in scores]
            return Output(swav_loss(scores, codes, self.options.temperature), z[0].detach())

    @dataclass(frozen=True)
    class BottleneckOptions(VICRegOptions):
        inner: int = setting(2, "width of the bottleneck", minimum=1)

    class Bottleneck(VICReg):
        """VICReg whose projector has a bottleneck: its terms spread a surface of ``inner`` dimensions over all."""

        Options = BottleneckOptions

        def __init__(self, backbone: nn.Module, dim: int, options: BottleneckOptions, run: Any) -> None:
            super().__init__(backbone, dim, options, run)
            o = options
            self.projector = nn.Sequential(
                nn.Linear(dim, o.inner),
                nn.BatchNorm1d(o.inner),
                mlp([o.inner, o.hidden, o.hidden, o.dim], last_bias=False),
            )

    for name, cls in (("unbalanced", Unbalanced), ("bottleneck", Bottleneck)):
        if name not in METHODS:
            METHODS.add(name, Entry(cls, 2026, "", "nothing", "nothing"))


def train(run: Run, folder: Path) -> None:
    """Trains ``run`` and saves what the verdict needs."""
    from ssltool.config import PretrainConfig
    from ssltool.runs.folder import RunFolder
    from ssltool.stages.pretrain.epoch_monitor import RunImages
    from ssltool.stages.pretrain.pretrain import Pretraining
    from ssltool.training import distributed

    start = time.process_time()
    texts = tuple(f"{name}={value}" for name, value in run.options.items())
    out = folder / "runs" / run.name.replace(" ", "_")
    settings = SHARED | run.settings
    if "images" in settings:  # few enough to be learned by heart
        chosen = np.random.RandomState(settings["seed"]).permutation(8000)[: settings.pop("images")]
        np.save(run.file(folder).with_suffix(".npy"), np.sort(chosen))
        settings["idx_path"] = str(run.file(folder).with_suffix(".npy"))
    if run.kind == UNTRAINED:
        settings |= {"epochs": 1, "steps_per_epoch": 1}
    config = PretrainConfig(method=run.method, options=texts, out=str(out), overwrite=True, device="cpu", **settings)
    device, path = torch.device("cpu"), RunFolder(out)
    with distributed.process_group(device, "auto") as shard, path.locked():
        training = Pretraining(config, device, shard, path)
        training.train()
    setup, method = training.setup, training.state.method
    untrained = setup.build_method()
    probe_setup = dataclasses.replace(
        setup, config=dataclasses.replace(setup.config, monitor_size=min(IMAGES, len(setup.images)))
    )
    probe = RunImages(probe_setup, device, shard)
    before = outputs(untrained, probe)
    after = outputs(method if run.kind != UNTRAINED else untrained, probe)
    found = {
        "run": dataclasses.asdict(run) | {"kind": true_kind(run, before, after)},
        "labels": probe.labels,
        "before": before,
        "after": after,
        "bounds": {name: method.max_rank(name) for name in method.measured_layers},
        "moves": {} if run.kind == UNTRAINED else moves(method, untrained),
        "prototypes": method.prototype_vectors(),
        "losses": [record["loss"] for record in training.state.history],
        "constants": list(method.constant_output_losses),
        "seconds": time.process_time() - start,
    }
    torch.save(found, run.file(folder))


def true_kind(run: Run, before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """What the run ended as: a loss that constant outputs minimise is also minimal if the outputs lie in one direction,
    on both sides of the origin, which is a dimensional collapse. So a run is a complete collapse if the outputs of two
    images have a cosine of at least ``SAME`` on average. Otherwise it is one of the scale if their variance is at most
    ``SHRUNK`` of the untrained network's."""
    if run.kind != "complete":
        return run.kind
    last = [*after][-1]
    unit = F.normalize(after[last].double(), dim=1)
    n = len(unit)
    cosine = float((unit.sum(dim=0).square().sum() - n) / (n * (n - 1)))
    if cosine >= SAME:
        return "complete"
    shrunk = after[last].double().var(dim=0).sum() <= SHRUNK * before[last].double().var(dim=0).sum()
    return "scale" if shrunk else "dimensional"


@torch.no_grad()
def outputs(method: Any, probe: Any) -> dict[str, Tensor]:
    """The outputs of each layer for all images."""
    method.eval()
    parts: dict[str, list[Tensor]] = {}
    for batch in probe.batches(None):
        for name, rows in method.outputs(batch, method.measured_layers[-1]).items():
            parts.setdefault(name, []).append(rows.float().flatten(1))
    return {
        name: torch.cat(rows)[: len(probe.labels)] for name, rows in parts.items() if name in method.measured_layers
    }


def moves(method: Any, untrained: Any) -> dict[str, float]:
    """How far teacher and student moved, and how far apart they are, relative to the norm of the weights."""
    if not hasattr(method, "TEACHER_MODULES") or not hasattr(method, "teacher"):
        return {}

    def weights(of: Any, names: Any) -> Tensor:
        return torch.cat([p.detach().flatten().double() for name in names for p in of[name].parameters()])

    names = method.TEACHER_MODULES
    student, teacher = weights(vars(method)["_modules"], names), weights(method.teacher, names)
    first, first_teacher = weights(vars(untrained)["_modules"], names), weights(untrained.teacher, names)
    return {
        "teacher_distance": float((teacher - student).norm() / student.norm()),
        "teacher_move": float((teacher - first_teacher).norm() / first_teacher.norm()),
        "student_move": float((student - first).norm() / first.norm()),
    }


@click.group(help=__doc__)
def main() -> None:
    """The commands."""


@main.command("train")
@click.argument("runs", type=click.Choice(tuple(SETS)))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="runs whose name contains this")
@click.option("--part", default="0/1", help="the runs i, i + n, i + 2 n, ... of the set, as i/n")
def train_command(runs: str, folder: Path, only: tuple[str, ...], part: str) -> None:
    """Train the runs of a set that FOLDER lacks, and keep there what the verdict needs."""
    register()
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    first, step = map(int, part.split("/"))
    for run in SETS[runs]()[first::step]:
        if (not only or any(text in run.name for text in only)) and not run.file(folder).exists():
            train(run, folder)
            print(run.name, flush=True)


def named(kept: dict[str, Any]) -> list[str]:
    """The kinds that the verdicts on the layers and on the whole network name, the main one first."""
    from ssltool.diagnosis.alarms import judge_look, uniform_numbers
    from ssltool.diagnosis.kinds import KINDS, metrics_of, ratios, shown
    from ssltool.diagnosis.layer_metrics import MEASURED, measured_layer, prototype_usage

    if kept["run"]["kind"] == UNTRAINED:
        return [kind for layer, x in kept["after"].items() for kind in _kinds_of_file(x, kept["bounds"][layer])]
    names = (*MEASURED, *metrics_of(("local", "intracluster")))
    found = []
    for layer, x in kept["after"].items():
        bound = kept["bounds"][layer]
        before, _ = measured_layer(kept["before"][layer], bound)
        values, _ = measured_layer(x, bound, names, kept["labels"])
        if kept["prototypes"] is not None and layer == "projector":
            values |= prototype_usage(x, kept["prototypes"])
        verdict = judge_look(layer, values | ratios(values, before), n=len(x), d=x.shape[1], bound=bound)
        found += verdict.kinds
    *earlier, last = kept["losses"]
    history = [{"loss": loss} for loss in earlier]
    found += shown(kept["moves"] | uniform_numbers(last, kept["constants"], history))
    return [name for name in KINDS if name in {kind.kind for kind in found}]


def _kinds_of_file(x: Tensor, bound: int) -> list[str]:
    """The kinds that ``ssltool collapse`` names for the file of an untrained network."""
    from ssltool.diagnosis.measure import measure
    from ssltool.diagnosis.verdict import judge_measured

    return [kind.kind for kind in judge_measured(measure(x, bound=bound), {"random": True}).kinds]


@main.command("score")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "json_file", help="also save all numbers in this file")
def score_command(folder: Path, json_file: str | None) -> None:
    """Name the kinds of the runs in FOLDER and print the confusion matrix."""
    torch.set_num_threads(1)
    rows = []
    print("| run | method | arch | kind | named | CPU s |\n|---|---|---|---|---|---|")
    for file in sorted(folder.glob("*.pt")):
        kept = torch.load(file)
        run, kinds = kept["run"], named(kept)
        rows.append({"run": run["name"], "kind": run["kind"], "named": kinds, "seconds": kept["seconds"]} | run)
        arch = run["settings"]["arch"]
        shown_as = ", ".join(kinds) or "none"
        cells = (run["name"], run["method"], arch, run["kind"], shown_as, f"{kept['seconds']:.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)
    print("\n" + confusion(rows))
    if json_file:
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")}
        Path(json_file).write_text(json.dumps({"argv": sys.argv[1:], **machine, "rows": rows}, indent=2))


def confusion(rows: list[dict[str, Any]]) -> str:
    """The numbers of runs of each kind by the first kind that is named, and how many are named right."""
    first = {id(row): row["named"][0] if row["named"] else "none" for row in rows}
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    columns = ["none", *(kind for kind in kinds if kind not in (HEALTHY, UNTRAINED))]
    columns += sorted({*first.values()} - {*columns})
    lines = ["| true kind | runs | right | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
    for kind in kinds:
        of_kind = [first[id(row)] for row in rows if row["kind"] == kind]
        right = of_kind.count("none" if kind in (HEALTHY, UNTRAINED) else kind)
        counts = [str(of_kind.count(column) or "") for column in columns]
        lines.append(f"| {kind} | {len(of_kind)} | {right} | {' | '.join(counts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
