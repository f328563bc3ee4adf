"""Whether the verdict names the kind of collapse: runs of known kind against the kinds that it names.

    python benchmarks/kinds.py train calibration FOLDER [--only NAME ...]
    python benchmarks/kinds.py train table FOLDER
    python benchmarks/kinds.py score FOLDER [--json FILE]

``train`` trains each run on the bundled images for a short time, most of them with a part of the method left out so
that they collapse on purpose. It keeps in FOLDER the outputs of the trained and of the untrained network for up to
500 training images, the losses, the prototypes, and how far teacher and student moved. The runs of ``calibration``
have other seeds and architectures than those of ``table``, and partly other methods and settings; thresholds are set on
them only. ``score`` gives all this to the verdict, as the monitor does, and prints the kinds that it names and the
confusion matrix.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGES = 500
"""Number of training images whose outputs are measured."""

SAME = 0.9
"""Mean cosine of the projections of different images, from which on they are nearly the same."""

HEALTHY, UNTRAINED = "healthy", "untrained"

# What every run has in common, unless it says otherwise.
SHARED: dict[str, Any] = {
    "arch": "resnet18_w16",
    "stem": "imagenet",
    "zero_init_residual": False,
    "batch_size": 64,
    "crop_min": 0.5,
    "epochs": 4,
    "steps_per_epoch": 30,
    "lr": 0.2,
    "monitor_every": 0,
    "precision": "fp32",
}
PLAIN = {"crop_min": 1.0, "flip_p": 0.0, "jitter_p": 0.0, "gray_p": 0.0}
ADAMW = {"optimizer": "adamw", "lr": 4e-3}
BYOL = {"dim": 256, "hidden": 512, "momentum": 0.98, "fix_pred_lr": True}
SIMSIAM = {"dim": 512, "pred_dim": 128, "fix_pred_lr": True}
MOCO = {"dim": 128, "hidden": 512, "queue": 1024, "momentum": 0.98, "symmetric": True, "queued": "second"}
RESSL = {"dim": 256, "hidden": 512, "queue": 1024, "momentum": 0.98}
MOCOV3 = {"dim": 256, "hidden": 512, "momentum": 0.98, "temperature": 0.2}
VICREG = {"dim": 256, "hidden": 512}
BARLOW = {"dim": 256, "hidden": 512, "scale": 0.1}
SWAV = {"dim": 128, "hidden": 512, "prototypes": 128, "queue": 0, "freeze": 60, "local_crops": 0}
SURE = {"lr": 0.8, "epochs": 20}
CLUSTER = SWAV | {"prototypes": 16, "freeze": 1000}
DEEPCLUSTER = {"dim": 128, "hidden": 512, "prototypes": 128, "heads": 2, "local_crops": 0}
DINO = {"dim": 256, "hidden": 512, "prototypes": 1024, "momentum": 0.98, "head_bn": True, "local_crops": 0}


@dataclass(frozen=True)
class Run:
    """A run of known ``kind``: a method, its options, and settings that differ from ``SHARED``."""

    name: str
    kind: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def file(self, folder: Path) -> Path:
        """Where its outputs are kept."""
        return folder / f"{self.name.replace(' ', '_')}.pt"


def _runs(seed: int, arch: str, other: str) -> list[Run]:
    """Runs of all kinds on two architectures."""
    wide = {"arch": other}
    fast, looks = {"lr": 0.2, "epochs": 8}, {"epochs": 8}
    long = {"images": 256, "epochs": 30, "steps_per_epoch": None, "lr": 0.1, **PLAIN}
    found = [
        Run("simsiam", HEALTHY, "simsiam", SIMSIAM),
        Run("byol", HEALTHY, "byol", BYOL, wide),
        Run("simclr", HEALTHY, "simclr", {"dim": 128, "hidden": 512}),
        Run("moco", HEALTHY, "moco", MOCO),
        Run("barlow", HEALTHY, "barlow", BARLOW, {"lr": 0.02}),
        Run("vicreg", HEALTHY, "vicreg", VICREG, wide | {"lr": 0.05}),
        Run("swav", HEALTHY, "swav", SWAV),
        Run("complete simsiam", "complete", "simsiam", SIMSIAM | {"stop_grad": False}, SURE),
        Run("complete teacher", "complete", "teacher", {"dim": 128, "hidden": 512, "update": "sgd"}, ADAMW),
        Run("complete simsiam wide", "complete", "simsiam", SIMSIAM | {"stop_grad": False, "bn": "none"}, wide | SURE),
        Run("dimensional vicreg", "dimensional", "vicreg", VICREG | {"cov": 0.0}, {"lr": 0.05}),
        Run("dimensional barlow", "dimensional", "barlow", BARLOW | {"lambd": 0.0}, {"lr": 0.02}),
        Run("dimensional barlow weak", "dimensional", "barlow", BARLOW | {"lambd": 1e-6}, wide | {"lr": 0.02}),
        Run("dimensional vicreg weak", "dimensional", "vicreg", VICREG | {"cov": 1e-4}, wide | {"lr": 0.05}),
        Run("cluster 16", "cluster", "unbalanced", CLUSTER),
        Run("cluster 64", "cluster", "unbalanced", CLUSTER | {"prototypes": 64}),
        Run("cluster 128", "cluster", "unbalanced", CLUSTER | {"prototypes": 128}, wide),
        Run("cluster dino", "cluster", "dino", DINO | {"centering": False}, ADAMW),
        Run("cluster sharp", "cluster", "unbalanced", CLUSTER | {"prototypes": 32, "temperature": 0.05}),
        Run("intracluster", "intracluster", "supervised", {}, long),
        Run("intracluster wide", "intracluster", "supervised", {}, long | wide),
        Run("intracluster smooth", "intracluster", "supervised", {"label_smoothing": 0.1}, long),
        Run("intracluster decay", "intracluster", "supervised", {}, long | {"weight_decay": 1e-3}),
        Run("local 1", "local", "bottleneck", VICREG | {"inner": 1}, {"lr": 0.05}),
        Run("local 2", "local", "bottleneck", VICREG | {"inner": 2}, {"lr": 0.05}),
        Run("local 1 wide", "local", "bottleneck", VICREG | {"inner": 1}, wide | {"lr": 0.05}),
        Run("local 2 wide", "local", "bottleneck", VICREG | {"inner": 2}, wide | {"lr": 0.05}),
        Run("scale vicreg", "scale", "vicreg", VICREG | {"std": 0.0}, fast),
        Run("scale vicreg wide", "scale", "vicreg", VICREG | {"std": 0.0}, wide | fast),
        Run("scale vicreg narrow", "scale", "vicreg", VICREG | {"std": 0.0, "dim": 128}, fast),
        Run("scale vicreg weak", "scale", "vicreg", VICREG | {"std": 0.0, "sim": 10.0}, fast),
        Run("stale byol", "stale-teacher", "byol", BYOL | {"momentum": 1.0}),
        Run("stale moco", "stale-teacher", "moco", MOCO | {"momentum": 1.0}),
        Run("stale mocov3", "stale-teacher", "mocov3", MOCOV3 | {"momentum": 1.0, "momentum_final": 1.0}, wide),
        Run("stale dino", "stale-teacher", "dino", DINO | {"momentum": 1.0}, ADAMW),
        Run("identical byol", "identical-teacher", "byol", BYOL | {"momentum": 0.0, "momentum_final": 0.0}),
        Run("identical moco", "identical-teacher", "moco", MOCO | {"momentum": 0.0}),
        Run("identical mocov3", "identical-teacher", "mocov3", MOCOV3 | {"momentum": 0.0, "momentum_final": 0.0}, wide),
        Run("identical dino", "identical-teacher", "dino", DINO | {"momentum": 0.0, "momentum_final": 0.0}, ADAMW),
        Run("uniform dino", "uniform-output", "dino", DINO | {"teacher_temp": 1.0}, ADAMW | looks),
        Run(
            "uniform dino small",
            "uniform-output",
            "dino",
            DINO | {"teacher_temp": 1.0, "prototypes": 256},
            ADAMW | looks,
        ),
        Run("uniform swav", "uniform-output", "swav", SWAV | {"epsilon": 10.0, "freeze": 0}, wide | looks),
        Run("uniform swav soft", "uniform-output", "swav", SWAV | {"epsilon": 1.0, "freeze": 0}, looks),
    ]
    untrained = ["resnet18_w8", "resnet18_w16", "resnet18_w32", "resnet18", "resnet50_w16"]
    found += [Run(f"untrained {arch}", UNTRAINED, "simclr", {"dim": 128}, {"arch": arch}) for arch in untrained]
    base = {"seed": seed, "arch": arch}
    return [dataclasses.replace(run, settings=base | run.settings) for run in found]


def _table(seed: int, of_clusters: int) -> list[Run]:
    """Runs of all kinds on other architectures, with other seeds, and partly of other methods and settings.
    ``of_clusters`` is the seed of those on which the thresholds of clusters bear."""
    found = [run for run in _runs(seed, "resnet18_w8", "resnet18_w16") if run.name not in ("swav", "complete simsiam")]
    base = {"seed": seed, "arch": "resnet18_w8"}
    found += [
        Run("deepcluster", HEALTHY, "deepcluster", DEEPCLUSTER, base),
        Run("nnclr", HEALTHY, "nnclr", {"dim": 128, "hidden": 512, "pred_hidden": 256, "queue": 1024}, base),
        Run("complete simsiam narrow", "complete", "simsiam", SIMSIAM | {"dim": 128, "stop_grad": False}, base | SURE),
        Run("complete simsiam plain", "complete", "simsiam", SIMSIAM | {"stop_grad": False}, base | SURE),
        Run("stale ressl", "stale-teacher", "ressl", RESSL | {"momentum": 1.0}, base),
        Run("identical ressl", "identical-teacher", "ressl", RESSL | {"momentum": 0.0}, base),
    ]
    found = [
        _with_seed(run, of_clusters) if run.kind == "cluster" or run.name == "deepcluster" else run for run in found
    ]
    # More runs of what is hardest to tell, with another seed.
    hard = [run for run in found if run.kind == "complete" or run.name == "deepcluster"]
    more = [_with_seed(run, run.settings["seed"] + 1) for run in hard]
    return [*found, *(dataclasses.replace(run, name=f"{run.name} more") for run in more)]


def _with_seed(run: Run, seed: int) -> Run:
    return dataclasses.replace(run, settings=run.settings | {"seed": seed})


def _again(runs: list[Run]) -> list[Run]:
    """A second set of ``runs``, with names of their own; the untrained networks are measured once."""
    return [dataclasses.replace(run, name=f"{run.name} again") for run in runs if run.kind != UNTRAINED]


def _interleaved(runs: list[Run]) -> list[Run]:
    """A run of each kind, then a second of each, and so on, so that a part of them has all kinds."""
    places = [sum(other.kind == run.kind for other in runs[:i]) for i, run in enumerate(runs)]
    return [run for _, run in sorted(zip(places, runs, strict=True), key=lambda pair: pair[0])]


SETS = {
    "calibration": lambda: _runs(101, "resnet18_w8", "resnet18_w16"),
    "table": lambda: _interleaved([*_table(707, 909), *_again(_table(808, 1010))]),
}


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
    after = outputs(method if run.kind != UNTRAINED else untrained, probe)
    found = {
        "run": dataclasses.asdict(run) | {"kind": true_kind(run, after)},
        "labels": probe.labels,
        "before": outputs(untrained, probe),
        "after": after,
        "bounds": {name: method.max_rank(name) for name in method.measured_layers},
        "moves": {} if run.kind == UNTRAINED else moves(method, untrained),
        "prototypes": method.prototype_vectors(),
        "losses": [record["loss"] for record in training.state.history],
        "constants": list(method.constant_output_losses),
        "seconds": time.process_time() - start,
    }
    torch.save(found, run.file(folder))


def true_kind(run: Run, after: dict[str, Tensor]) -> str:
    """What the run ended as: a loss that constant outputs minimise is also minimal if the outputs lie in one direction,
    on both sides of the origin, which is a dimensional collapse. So a run is a complete collapse if the outputs of two
    images have a cosine of at least ``SAME`` on average."""
    if run.kind != "complete":
        return run.kind
    unit = F.normalize(after["projector"].double(), dim=1)
    n = len(unit)
    cosine = float((unit.sum(dim=0).square().sum() - n) / (n * (n - 1)))
    return "complete" if cosine >= SAME else "dimensional"


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
