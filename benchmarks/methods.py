"""Every method, and the papers' ablations, with the same budget on the same images.

    python benchmarks/methods.py [--ablations | --search | --speed] [--only NAME ...] [--epochs 8] [--seeds 1] ...

Trains each, by default a narrow ResNet-18 without zero-initialised residual branches, saves its representations, and
prints one Markdown row: architecture, learning rate, the last epoch's loss, 20-NN and linear accuracy on the val
images, AUC, effective rank, RankMe and the share of dead directions of the train representations, the effective rank of
the projections, ``feature_std`` of the projection in the last epoch, the verdicts on representations and projections,
images/s during training, and the process's peak memory (for a GPU, the device's). With ``--seeds N`` the values are
means over N runs, and the smallest and largest accuracy stand behind theirs. Each run is a separate process. ``--json
FILE`` saves the numbers of all runs. Compare speeds only between rows with the same ``--jobs``.

``--search`` trains each with a third, once and three times its learning rate, without a warm-up and with one of an
epoch, and seed 20, which the tables do not use. The linear accuracy on the val images chooses.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

HEADS = {"dim": 256, "hidden": 512}
CROPS = {"local_crops": 4}
NAMES: dict[str, dict[str, Any]] = {
    "untrained": {},
    "simsiam": {"set": {"dim": 512, "pred_dim": 128, "fix_pred_lr": True}},
    "byol": {"set": HEADS | {"momentum": 0.98, "fix_pred_lr": True}},
    "simclr": {"set": {"dim": 128, "hidden": 512}},
    "moco": {
        "set": {"dim": 128, "hidden": 512, "queue": 2048, "momentum": 0.98, "symmetric": True, "queued": "second"}
    },
    "mocov3": {"set": HEADS | {"momentum": 0.98, "temperature": 0.2}},
    "barlow": {"lr": 0.02, "set": {"dim": 512, "hidden": 512, "scale": 0.1}},
    "vicreg": {"lr": 0.05, "set": {"dim": 512, "hidden": 512}},
    "wmse": {"optimizer": "adam", "lr": 4e-3, "set": {"dim": 16, "hidden": 512, "w_size": 64}},
    "swav": {
        "set": {"dim": 128, "hidden": 512, "prototypes": 128, "queue": 1024, "queue_start": 2, "freeze": 125, **CROPS}
    },
    "deepcluster": {"set": {"dim": 128, "hidden": 512, "prototypes": 128, "heads": 2, **CROPS}},
    "dino": {
        "optimizer": "adamw",
        "lr": 4e-3,
        "set": HEADS | {"prototypes": 1024, "momentum": 0.98, "head_bn": True, **CROPS},
    },
    "nnclr": {"set": HEADS | {"pred_hidden": 512, "queue": 2048}},
    "directclr": {},
    "directpred": {"set": {"dim": 128, "hidden": 512, "momentum": 0.98}},
    "nnsiam": {"set": {"dim": 512, "pred_dim": 128, "fix_pred_lr": True, "queue": 2048}},
    "ressl": {"set": HEADS | {"queue": 2048, "momentum": 0.98}},
    "lejepa": {"optimizer": "adamw", "lr": 4e-3, "set": {"dim": 64, "hidden": 512, **CROPS}},
    "visreg": {
        "optimizer": "adamw",
        "lr": 4e-3,
        "set": {"dim": 64, "hidden": 512, "slices": 1024, "global_views": 2, **CROPS},
    },
    "paws": {"set": {"dim": 256, **CROPS}},
    "distill": {"teacher": "supervised"},
    "teacher": {"optimizer": "adamw", "lr": 2e-3, "set": {"dim": 128, "hidden": 512}},
    "supervised": {},
}
"""The settings of each method in addition to the shared ones: heads for a small network, and the learning rate."""

SIMSIAM, BYOL, VICREG, DINO, TEACHER = (NAMES[name] for name in ("simsiam", "byol", "vicreg", "dino", "teacher"))
SWAV = {"set": {k: v for k, v in NAMES["swav"]["set"].items() if not k.startswith("queue")}}
MOCO = {"set": {k: v for k, v in NAMES["moco"]["set"].items() if k != "queue"}}
NO_PREDICTOR = {"predictor": "none", "pred_dim": 512, "fix_pred_lr": False}
LEJEPA, VISREG = NAMES["lejepa"], NAMES["visreg"]
ABLATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "simsiam": ("simsiam", SIMSIAM, {}),
    "simsiam stop_grad=false": ("simsiam", SIMSIAM, {"stop_grad": False}),
    "simsiam stop_grad=false lr=0.8": ("simsiam", SIMSIAM | {"lr": 0.8}, {"stop_grad": False}),
    "simsiam predictor=none": ("simsiam", SIMSIAM, NO_PREDICTOR),
    "simsiam predictor=none lr=0.8": ("simsiam", SIMSIAM | {"lr": 0.8}, NO_PREDICTOR),
    "simsiam predictor=none symmetric=false": ("simsiam", SIMSIAM, NO_PREDICTOR | {"symmetric": False}),
    "simsiam predictor=none symmetric=false lr=0.8": (
        "simsiam",
        SIMSIAM | {"lr": 0.8},
        NO_PREDICTOR | {"symmetric": False},
    ),
    "simsiam lr=0.8": ("simsiam", SIMSIAM | {"lr": 0.8}, {}),
    "simsiam predictor=fixed": ("simsiam", SIMSIAM, {"predictor": "fixed", "fix_pred_lr": False}),
    "simsiam symmetric=false": ("simsiam", SIMSIAM, {"symmetric": False}),
    "simsiam bn=none": ("simsiam", SIMSIAM, {"bn": "none"}),
    "simsiam bn=hidden": ("simsiam", SIMSIAM, {"bn": "hidden"}),
    "simsiam bn=all": ("simsiam", SIMSIAM, {"bn": "all"}),
    "simsiam similarity=cross_entropy": ("simsiam", SIMSIAM, {"similarity": "cross_entropy"}),
    "simclr negatives=false": ("simclr", NAMES["simclr"], {"negatives": False}),
    "moco negatives=false": ("moco", MOCO, {"negatives": False}),
    "mocov3 negatives=false": ("mocov3", NAMES["mocov3"], {"negatives": False}),
    "nnclr negatives=false": ("nnclr", NAMES["nnclr"], {"negatives": False}),
    "directclr dim=128": ("directclr", NAMES["directclr"], {"dim": 128}),
    "directclr negatives=false": ("directclr", NAMES["directclr"], {"negatives": False}),
    "directpred predictor=none": ("directpred", NAMES["directpred"], {"predictor": "none"}),
    "directpred predictor=directcopy": ("directpred", NAMES["directpred"], {"predictor": "directcopy"}),
    "directpred eps=0": ("directpred", NAMES["directpred"], {"eps": 0.0}),
    "nnsiam stop_grad=false": ("nnsiam", NAMES["nnsiam"], {"stop_grad": False}),
    "ressl teacher_temp=0.1": ("ressl", NAMES["ressl"], {"teacher_temp": 0.1}),
    "byol": ("byol", BYOL, {}),
    "byol predictor=none": ("byol", BYOL, {"predictor": "none", "fix_pred_lr": False}),
    "byol momentum=0": ("byol", BYOL, {"momentum": 0.0, "momentum_final": 0.0}),
    "byol momentum=1": ("byol", BYOL, {"momentum": 1.0, "momentum_final": 1.0}),
    "barlow lambd=0": ("barlow", NAMES["barlow"], {"lambd": 0.0}),
    "wmse eps=1": ("wmse", NAMES["wmse"], {"eps": 1.0}),
    "swav iterations=0": ("swav", SWAV, {"iterations": 0}),
    "swav epsilon=1": ("swav", NAMES["swav"], {"epsilon": 1.0}),
    "paws me_max=false": ("paws", NAMES["paws"], {"me_max": False}),
    "paws sharpening=1": ("paws", NAMES["paws"], {"sharpening": 1.0}),
    "vicreg": ("vicreg", VICREG, {}),
    "vicreg std=0": ("vicreg", VICREG, {"std": 0.0}),
    "vicreg cov=0": ("vicreg", VICREG, {"cov": 0.0}),
    "dino": ("dino", DINO, {}),
    "dino centering=false": ("dino", DINO, {"centering": False}),
    "dino teacher_temp=1": ("dino", DINO, {"teacher_temp": 1.0}),
    "lejepa": ("lejepa", LEJEPA, {}),
    "lejepa lambd=0": ("lejepa", LEJEPA, {"lambd": 0.0}),
    "visreg": ("visreg", VISREG, {}),
    "visreg lambd=0": ("visreg", VISREG, {"lambd": 0.0}),
    "visreg scale=0": ("visreg", VISREG, {"scale": 0.0}),
    "visreg shape=0": ("visreg", VISREG, {"shape": 0.0, "slices": 4096}),
    "visreg center=0": ("visreg", VISREG, {"center": 0.0}),
    "teacher update=ema": ("teacher", TEACHER, {}),
    "teacher update=sgd": ("teacher", TEACHER, {"update": "sgd"}),
    "teacher update=frozen": ("teacher", TEACHER, {"update": "frozen"}),
    "teacher update=copy": ("teacher", TEACHER, {"update": "copy"}),
}
"""For each row the method, its settings, and the options of the ablation."""

LR = 0.2
"""The learning rate per 256 images of the rows that have none of their own."""

METHOD_OF = {"untrained": "simsiam"}
"""The method of a row that is not named after it."""

SHARED = {
    "arch": "resnet18_w16",
    "stem": "imagenet",
    "zero_init_residual": False,
    "batch_size": 64,
    "crop_min": 0.5,
    "precision": "fp32",
}
COLUMNS = (
    "arch",
    "lr",
    "loss",
    "20-NN",
    "linear",
    "AUC",
    "eff. rank",
    "RankMe",
    "dead",
    "proj. rank",
    "feature_std",
    "backbone",
    "projection",
    "images/s",
    "memory GB",
)
SPEED = ("arch", "images/s", "memory GB")
OF_SEARCH = ("loss", "20-NN", "linear", "eff. rank", "proj. rank", "backbone", "projection")
FORMATS = {"20-NN": ".1%", "linear": ".1%", "dead": ".0%", "loss": ".3f", "AUC": ".3f", "feature_std": ".3f"} | {
    "eff. rank": ".1f",
    "RankMe": ".1f",
    "proj. rank": ".1f",
    "images/s": ".0f",
    "memory GB": ".2f",
}
RANGED = ("20-NN", "linear")
"""Columns whose smallest and largest values are shown beside the mean."""

Row = tuple[str, dict[str, Any], dict[str, Any]]
Found = dict[str, str | float]


def searched(rows: dict[str, Row]) -> dict[str, Row]:
    """The rows of the search for the learning rate and the warm-up of each of ``rows``."""
    found = {}
    for name, (method, given, options) in rows.items():
        for factor in (1 / 3, 1, 3):
            for warmup in (0, 1):
                lr = float(f"{factor * given.get('lr', LR):.2g}")
                found[f"{name} lr={lr} warmup={warmup}"] = (
                    method,
                    given | {"lr": lr, "warmup_epochs": warmup},
                    options,
                )
    return found


def train(name: str, method: str, given: dict[str, Any], options: dict[str, Any], folder: str, **run: Any) -> Path:
    """One pretraining run; returns its folder."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    settings = SHARED | {"lr": LR} | {k: v for k, v in given.items() if k not in ("set", "teacher")}
    chosen = given.get("set", {}) | options
    if "teacher" in given:
        chosen |= {"teacher": f"{folder}/{given['teacher']}-{run['seed']}/checkpoint.pt"}
    texts = tuple(f"{option}={value}" for option, value in chosen.items())
    out = f"{folder}/{name.replace(' ', '_')}"
    return pretrain(PretrainConfig(method=method, options=texts, out=out, overwrite=True, **settings, **run))


def measure(name: str, row: Row, folder: str, threads: int, columns: tuple[str, ...], **run: Any) -> Found:
    """Trains, evaluates and measures one run of a row."""
    import torch

    from ssltool.config import KnnConfig, LinclsConfig, SaveReprsConfig
    from ssltool.stages import knn, lincls, save_reprs

    torch.set_num_threads(threads)
    method, given, options = row
    untrained = name.startswith("untrained")
    if untrained:
        run = run | {"epochs": 1, "steps_per_epoch": 1}
    result = train(f"{name}-{run['seed']}", method, given, options, folder, **run)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        used = torch.cuda.max_memory_allocated() / 2**30
    records = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    speed = sum(r["images_per_second"] for r in records) / len(records)
    found: Found = {"arch": given.get("arch", SHARED["arch"]), "memory GB": used}
    if not untrained:
        last = records[-1]
        found |= {"lr": f"{given.get('lr', LR):g}", "images/s": speed}
        found |= {"loss": last["loss"], "feature_std": last["feature_std"]}
    if "20-NN" not in columns:
        return found
    network = {"pretrained": str(result / "checkpoint.pt"), "random": untrained}
    files = [w["path"] for w in save_reprs.run(SaveReprsConfig(split="both", out=f"{result}/reprs", **network))]
    near = knn.run(KnnConfig(bank=files[0], queries=files[1], k=20))
    projector = save_reprs.run(SaveReprsConfig(layer="projector", out=f"{result}/projector.pt", **network))
    metrics, state = judged(files[0])
    of_projection, projected = judged(projector[0]["path"])
    found |= {
        "20-NN": near["accuracy"],
        "AUC": metrics["auc"],
        "eff. rank": metrics["effective_rank"],
        "RankMe": metrics["rankme"],
        "dead": metrics["dead_directions"],
        "proj. rank": of_projection["effective_rank"],
        "backbone": state,
        "projection": projected,
    }
    if "linear" in columns:
        probe = LinclsConfig(epochs=5, lr=1.0, lars=True, out=f"{result}-probe", overwrite=True, **network)
        found["linear"] = lincls.run(probe)["acc1"]
    return found


def judged(path: str) -> tuple[dict[str, float], str]:
    """The metrics of a file of representations, and the verdict as in ``ssltool collapse``: the kinds of collapse, or
    that it is healthy."""
    from ssltool.diagnosis.measure import measure
    from ssltool.diagnosis.verdict import judge_measured
    from ssltool.reprs.representations import Representations

    stored = Representations.stored(path)
    found = measure(stored.representations, bound=stored.meta.get("directions"))
    verdict = judge_measured(found, stored.meta)
    return found.metrics, " and ".join(kind.kind for kind in verdict.kinds) or verdict.state


def cell(column: str, values: list[str | float]) -> str:
    """What the table shows for the values of all seeds: the mean, or each text once."""
    if not values:
        return ""
    if column not in FORMATS:
        return ", ".join(sorted({str(value) for value in values}))
    numbers = [float(value) for value in values]
    form = FORMATS[column]
    text = f"{sum(numbers) / len(numbers):{form}}"
    return f"{text} ({min(numbers):{form}} to {max(numbers):{form}})" if column in RANGED and len(values) > 1 else text


@click.command()
@click.option("--ablations", is_flag=True, help="the ablations instead of the methods")
@click.option("--search", is_flag=True, help="three learning rates, and two warm-ups, of each method")
@click.option("--speed", is_flag=True, help="one epoch each; only images/s and memory")
@click.option("--only", multiple=True, help="this row only; repeatable")
@click.option("--epochs", default=8, show_default=True)
@click.option("--seeds", default=1, show_default=True, help="runs of each row")
@click.option("--jobs", default=1, show_default=True, help="runs in parallel")
@click.option("--threads", default=1, show_default=True, help="threads per run")
@click.option("--data", help="folder of images instead of the bundled ones")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "json_file", help="also save all numbers in this file")
def main(ablations, search, speed, only, epochs, seeds, jobs, threads, data, device, json_file) -> None:
    rows = ABLATIONS if ablations else {name: (METHOD_OF.get(name, name), given, {}) for name, given in NAMES.items()}
    needed = {rows[name][1].get("teacher") for name in only if name in rows}
    chosen: dict[str, Row] = {name: row for name, row in rows.items() if not only or name in needed.union(only)}
    if search:
        chosen = searched(chosen)
    columns = SPEED if speed else OF_SEARCH if search else COLUMNS[:-2] if ablations else COLUMNS
    if ablations:
        columns = tuple(column for column in columns if column != "linear")
    run = {"epochs": 1 if speed else epochs, "data": data, "device": device, "threads": threads, "columns": columns}
    first = 20 if search else 10
    found: dict[str, list[Found]] = {}
    print("| run | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|", flush=True)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        # A teacher must be trained before its student.
        waves = [[n for n in chosen if "teacher" not in chosen[n][1]], [n for n in chosen if "teacher" in chosen[n][1]]]
        for wave in waves:
            with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
                futures = {
                    name: [
                        pool.submit(measure, name, chosen[name], folder, seed=first + i, **run) for i in range(seeds)
                    ]
                    for name in wave
                }
                for name, runs in futures.items():
                    found[name] = [future.result() for future in runs]
                    cells = [cell(column, [one[column] for one in found[name] if column in one]) for column in columns]
                    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if json_file:
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")}
        Path(json_file).write_text(json.dumps({"argv": sys.argv[1:], **machine, "rows": found}, indent=2))


if __name__ == "__main__":
    main()
