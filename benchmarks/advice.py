"""Does the advice of ``ssltool diagnose`` work? Trains with a fault, then as advised, with the same seed.

    python benchmarks/advice.py [--only NAME ...] [--arch resnet18_w8] [--epochs 2] [--seed 1] [--json FILE]

Each row is a pair of short trainings on the bundled images: ``resnet18_w8``, 125 steps per epoch, batches of 64, with
the settings of ``benchmarks/method_settings.py`` apart from the fault. Both are diagnosed by their run folders and
their last checkpoints. The advice works if the diagnosis of the first finds the fault and that of the second does not;
the 20-NN accuracies of the backbones, as the monitor recorded them, show whether the network is better for it. Prints a
Markdown table with the 20-NN accuracy of the untrained network in the last line.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from method_settings import NAMES, SHARED

HEADS: dict[str, dict[str, Any]] = {name: given.get("set", {}) for name, given in NAMES.items()}

CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "simsiam stop_grad=false": ("collapse", "simsiam", {"stop_grad": False}, {}),
    "simsiam predictor=none": (
        "collapse",
        "simsiam",
        {"predictor": "none", "pred_dim": 512, "fix_pred_lr": False},
        {},
    ),
    "simsiam predictor=fixed": ("collapse", "simsiam", {"predictor": "fixed", "fix_pred_lr": False}, {}),
    "byol predictor=none": ("collapse", "byol", {"predictor": "none", "fix_pred_lr": False}, {}),
    "dino centering=false": ("collapse", "dino", {"centering": False}, {}),
    "dino teacher_temp=1": ("uniform-output", "dino", {"teacher_temp": 1.0}, {}),
    "vicreg std=0": ("collapse", "vicreg", {"std": 0.0}, {}),
    "vicreg cov=0": ("collapse", "vicreg", {"cov": 0.0}, {}),
    "directclr negatives=false": ("collapse", "directclr", {"negatives": False}, {}),
    "directpred predictor=none": ("collapse", "directpred", {"predictor": "none"}, {}),
    "simdino gamma=0": ("collapse", "simdino", {"gamma": 0.0}, {}),
    "tico rho=0": ("collapse", "tico", {"rho": 0.0}, {}),
    "mmcr norm=frobenius": ("collapse", "mmcr", {"norm": "frobenius"}, {}),
    "frossl frobenius=0": ("collapse", "frossl", {"frobenius": 0.0}, {}),
    "empssl tcr=0": ("collapse", "empssl", {"tcr": 0.0}, {}),
    "lejepa lambd=0": ("collapse", "lejepa", {"lambd": 0.0}, {}),
    "byol momentum=0": ("identical-teacher", "byol", {"momentum": 0.0, "momentum_final": 0.0}, {"momentum": 0.98}),
    "byol momentum=1": ("stale-teacher", "byol", {"momentum": 1.0, "momentum_final": 1.0}, {"momentum": 0.98}),
    "simsiam lr=5": ("collapse", "simsiam", {"lr": 5.0}, {"lr": 0.2}),
    "byol lr=5": ("collapse", "byol", {"lr": 5.0}, {"lr": 0.2}),
    "simclr lr=20": ("uniform-output", "simclr", {"lr": 20.0}, {"lr": 0.2}),
}
"""For each row the fault to be found, the method, the faulty settings, and the advised ones; both replace those of
``benchmarks/method_settings.py``."""

OF_RUN = ("lr",)
"""Settings of the run; all others are options of the method."""


def train(folder: Path, method: str, changes: dict[str, Any], arch: str, epochs: int, seed: int) -> Path:
    """One training; returns its run folder."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    given = {name: value for name, value in NAMES[method].items() if name != "set"}
    settings = SHARED | {"steps_per_epoch": 125, "monitor_size": 512, "arch": arch} | given
    settings |= {name: value for name, value in changes.items() if name in OF_RUN}
    options = HEADS[method] | {name: value for name, value in changes.items() if name not in OF_RUN}
    texts = tuple(f"{name}={value}" for name, value in options.items())
    return pretrain(
        PretrainConfig(
            method=method,
            options=texts,
            epochs=epochs,
            seed=seed,
            device="cpu",
            save_every=1,
            out=str(folder),
            overwrite=True,
            **settings,
        )
    )


def diagnosed(run: Path) -> dict[str, Any]:
    """The state and the kinds of findings of a run folder and of its checkpoints, and the last kNN accuracy."""
    from ssltool.config import DiagnoseConfig
    from ssltool.stages.diagnose import run as diagnose

    kept = sorted(map(str, run.glob("checkpoint_0*.pt")))
    of_run = diagnose(DiagnoseConfig(items=(str(run),)))
    of_files = diagnose(DiagnoseConfig(items=tuple(kept), sample=256, device="cpu", workers=0))
    reports = [*of_run["reports"], *of_files["reports"]]
    kinds = [finding["kind"] for report in reports for finding in report["findings"] if finding["state"] != "healthy"]
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    untrained = of_files["reports"][0]["checkpoints"][0]["knn"]
    found = {"state": of_run["worst"], "kinds": sorted(set(kinds)), "knn": last.get("backbone_knn")}
    return found | {"loss": last["loss"], "untrained": untrained}


def has(fault: str, found: dict[str, Any]) -> bool:
    """Whether the ``fault`` was found; "collapse" is any verdict that is not healthy."""
    if fault == "collapse":
        return any(kind.endswith("-collapse") or kind == "constant-output" for kind in found["kinds"])
    return fault in found["kinds"]


@click.command()
@click.option("--only", multiple=True, help="this row only; repeatable")
@click.option("--arch", default="resnet18_w8", show_default=True)
@click.option("--epochs", default=2, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--json", "json_file", help="also save all results in this file")
def main(only, arch, epochs, seed, json_file) -> None:
    import torch

    from ssltool.training.progress import quiet

    torch.set_num_threads(1)
    start, rows, done = time.monotonic(), {}, {}
    print("| fault | found | 20-NN | as advised | found | 20-NN | the advice works |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as root, quiet():

        def trained(method: str, changes: dict[str, Any]) -> dict[str, Any]:
            key = json.dumps([method, changes])
            if key not in done:
                done[key] = diagnosed(train(Path(root) / "run", method, changes, arch, epochs, seed))
            return done[key]

        for name, (fault, method, wrong, right) in CASES.items():
            if only and name not in only:
                continue
            before, after = trained(method, wrong), trained(method, right)
            works = has(fault, before) and not has(fault, after)
            rows[name] = {"fault": fault, "before": before, "after": after, "works": works}
            advised = ", ".join(f"{key}={value}" for key, value in right.items()) or "as published"
            cells = [name, _cell(before), advised, _cell(after), "yes" if works else "no"]
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{time.monotonic() - start:.0f} s")
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=1))


def _cell(found: dict[str, Any]) -> str:
    knn = "-" if found["knn"] is None else f"{found['knn']:.1%}"
    return f"{', '.join(found['kinds']) or found['state']} | {knn}"


if __name__ == "__main__":
    main()
