"""The runs of ``kinds.py``: networks of known kind, most of them trained with a part of the method left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from method_settings import NAMES, rows_of_ablations

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


NEWER = {
    "directpred predictor=none": "complete",
    "simdino gamma=0": "complete",
    "tico rho=0": "complete",
    "mmcr norm=frobenius": "complete",
    "frossl frobenius=0": "complete",
    "empssl tcr=0": "complete",
    "lejepa lambd=0": "complete",
    "visreg lambd=0": "complete",
    "directclr negatives=false": "complete",
    "ijepa stop_grad=false": "complete",
    "vicregl cov=0": "dimensional",
    "visreg shape=0": "dimensional",
    "ibot centering=none": "cluster",
    "dinov2 centering=none": "cluster",
    "directpred momentum=0": "identical-teacher",
    "simdino momentum=0": "identical-teacher",
    "tico momentum=0": "identical-teacher",
    "ibot momentum=0": "identical-teacher",
    "dinov2 momentum=0": "identical-teacher",
    "ijepa momentum=0": "identical-teacher",
}
SOFT = {"teacher_temp": 1, "warmup_teacher_temp_epochs": 0}


def _newer(seed: int) -> list[Run]:
    """Runs of the methods that no threshold was chosen on, with the settings of ``method_settings.py``. What each loss
    asks for without the part gives the kind: equal outputs (*complete*, or *scale* if the loss does not normalise
    them), few directions (*dimensional*), one prototype (*cluster*), or the same distribution for all images."""
    healthy = ("directpred", "simdino", "tico", "mmcr", "frossl", "empssl", "vicregl", "lejepa", "visreg", "directclr")
    rows = rows_of_ablations()
    found = {f"healthy {name}": (HEALTHY, rows[name]) for name in (*healthy, "mae", "ijepa")}
    found |= {name: (kind, rows[name]) for name, kind in NEWER.items()}
    found["ibot teacher_temp=1"] = ("uniform-output", ("ibot", NAMES["ibot"], SOFT))
    for name in ("directpred", "simdino", "tico", "ibot", "dinov2", "ijepa"):
        found[f"{name} momentum=1"] = ("stale-teacher", (name, NAMES[name], {"momentum": 1, "momentum_final": 1}))
    runs = []
    for name, (kind, (method, given, changed)) in found.items():
        epochs = 4 if method in ("ibot", "dinov2") else 8  # these take four times as long
        settings = {"arch": "resnet18_w8", "seed": seed, "epochs": epochs} | given
        options = settings.pop("set", {}) | changed
        runs.append(Run(name, kind, method, options, settings))
    return runs


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
    "newer": lambda: _interleaved(_newer(1212)),
}
"""The sets of runs. Thresholds are set on ``calibration`` only."""
