"""Every method, and the papers' ablations, with the same budget on the same images.

    python benchmarks/methods.py [--ablations | --speed] [--only NAME ...] [--epochs 8] [--jobs 1] [--data DIR] ...

Trains each on the same architecture (a narrow ResNet-18 without zero-initialised residual branches), saves its
representations, and prints one Markdown row: the last epoch's loss, 20-NN and linear accuracy on the val images, AUC,
effective rank, RankMe and the share of dead directions of the train representations, ``feature_std`` of the projection
in the last epoch, the verdicts on representations and projections, images/s during training, and the process's peak
memory (for a GPU, the device's). Each run is a separate process. ``--json FILE`` saves all numbers. Compare speeds only
between rows with the same ``--jobs``.
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
MASKED = {"optimizer": "adamw", "arch": "vit_w64_depth2", "stem": "auto"}
"""For methods that mask patches, which need a ViT."""

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
    "simdino": {
        "optimizer": "adamw",
        "lr": 4e-3,
        "set": HEADS | {"momentum": 0.98, "head_bn": True, **CROPS},
    },
    "ibot": MASKED | {"lr": 4e-3, "set": HEADS | {"prototypes": 1024, "momentum": 0.98, **CROPS}},
    "dinov2": MASKED | {"lr": 4e-3, "set": HEADS | {"prototypes": 1024, "momentum": 0.98, **CROPS}},
    "nnclr": {"set": HEADS | {"pred_hidden": 512, "queue": 2048}},
    "nnsiam": {"set": {"dim": 512, "pred_dim": 128, "fix_pred_lr": True, "queue": 2048}},
    "ressl": {"set": HEADS | {"queue": 2048, "momentum": 0.98}},
    "paws": {"set": {"dim": 256, **CROPS}},
    "distill": {"teacher": "supervised"},
    "teacher": {"optimizer": "adamw", "lr": 2e-3, "set": {"dim": 128, "hidden": 512}},
    "supervised": {},
}
"""The settings of each method in addition to the shared ones: heads for a small network, and the learning rate."""

SIMSIAM, BYOL, VICREG, DINO, SIMDINO, TEACHER = (
    NAMES[name] for name in ("simsiam", "byol", "vicreg", "dino", "simdino", "teacher")
)
ABLATIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "simsiam": ("simsiam", SIMSIAM, {}),
    "simsiam stop_grad=false": ("simsiam", SIMSIAM, {"stop_grad": False}),
    "simsiam predictor=none": ("simsiam", SIMSIAM, {"predictor": "none", "pred_dim": 512, "fix_pred_lr": False}),
    "simsiam predictor=fixed": ("simsiam", SIMSIAM, {"predictor": "fixed", "fix_pred_lr": False}),
    "simsiam symmetric=false": ("simsiam", SIMSIAM, {"symmetric": False}),
    "simsiam bn=none": ("simsiam", SIMSIAM, {"bn": "none"}),
    "simsiam bn=hidden": ("simsiam", SIMSIAM, {"bn": "hidden"}),
    "simsiam bn=all": ("simsiam", SIMSIAM, {"bn": "all"}),
    "simsiam similarity=cross_entropy": ("simsiam", SIMSIAM, {"similarity": "cross_entropy"}),
    "byol": ("byol", BYOL, {}),
    "byol predictor=none": ("byol", BYOL, {"predictor": "none", "fix_pred_lr": False}),
    "byol momentum=0": ("byol", BYOL, {"momentum": 0.0, "momentum_final": 0.0}),
    "vicreg": ("vicreg", VICREG, {}),
    "vicreg std=0": ("vicreg", VICREG, {"std": 0.0}),
    "vicreg cov=0": ("vicreg", VICREG, {"cov": 0.0}),
    "dino": ("dino", DINO, {}),
    "dino centering=false": ("dino", DINO, {"centering": False}),
    "dino teacher_temp=1": ("dino", DINO, {"teacher_temp": 1.0}),
    "simdino": ("simdino", SIMDINO, {}),
    "simdino gamma=0": ("simdino", SIMDINO, {"gamma": 0.0}),
    "teacher update=ema": ("teacher", TEACHER, {}),
    "teacher update=sgd": ("teacher", TEACHER, {"update": "sgd"}),
    "teacher update=frozen": ("teacher", TEACHER, {"update": "frozen"}),
    "teacher update=copy": ("teacher", TEACHER, {"update": "copy"}),
}
"""For each row the method, its settings, and the options of the ablation."""

SHARED = {
    "arch": "resnet18_w16",
    "stem": "imagenet",
    "zero_init_residual": False,
    "batch_size": 64,
    "crop_min": 0.5,
    "precision": "fp32",
}
COLUMNS = [
    "loss",
    "20-NN",
    "linear",
    "AUC",
    "eff. rank",
    "RankMe",
    "dead",
    "feature_std",
    "backbone",
    "projection",
    "images/s",
    "memory GB",
]


def train(name: str, method: str, given: dict[str, Any], options: dict[str, Any], folder: str, **run: Any) -> Path:
    """One pretraining run; returns its folder."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    settings = SHARED | {"lr": 0.2} | {k: v for k, v in given.items() if k not in ("set", "teacher")}
    chosen = given.get("set", {}) | options
    if "teacher" in given:
        chosen |= {"teacher": f"{folder}/{given['teacher']}/checkpoint.pt"}
    texts = tuple(f"{option}={value}" for option, value in chosen.items())
    out = f"{folder}/{name.replace(' ', '_')}"
    return pretrain(PretrainConfig(method=method, options=texts, out=out, overwrite=True, **settings, **run))


def measure(
    name: str,
    method: str,
    given: dict[str, Any],
    options: dict[str, Any],
    folder: str,
    threads: int,
    columns: list[str],
    **run: Any,
) -> dict[str, str]:
    """Trains, evaluates and measures one row."""
    import torch

    from ssltool.config import KnnConfig, LinclsConfig, SaveReprsConfig
    from ssltool.stages import knn, lincls, save_reprs

    torch.set_num_threads(threads)
    untrained = name == "untrained"
    if untrained:
        run = run | {"epochs": 1, "steps_per_epoch": 1}
    result = train(name, "simsiam" if untrained else method, given, options, folder, **run)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        used = torch.cuda.max_memory_allocated() / 2**30
    records = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    speed = f"{sum(r['images_per_second'] for r in records) / len(records):.0f}"
    row = {"memory GB": f"{used:.2f}"} | ({} if untrained else {"images/s": speed})
    if "20-NN" not in columns:
        return row
    network = {"pretrained": str(result / "checkpoint.pt"), "random": untrained}
    files = [w["path"] for w in save_reprs.run(SaveReprsConfig(split="both", out=f"{result}/reprs", **network))]
    near = knn.run(KnnConfig(bank=files[0], queries=files[1], k=20))
    probe = LinclsConfig(epochs=5, lr=1.0, lars=True, out=f"{result}-probe", overwrite=True, **network)
    projector = save_reprs.run(SaveReprsConfig(layer="projector", out=f"{result}/projector.pt", **network))
    found, verdict = judged(files[0])
    row |= {
        "20-NN": f"{near['accuracy']:.1%}",
        "AUC": f"{found['auc']:.3f}",
        "eff. rank": f"{found['effective_rank']:.1f}",
        "RankMe": f"{found['rankme']:.1f}",
        "dead": f"{found['dead_directions']:.0%}",
        "backbone": verdict,
        "projection": judged(projector[0]["path"])[1],
    }
    if "linear" in columns:
        row["linear"] = f"{lincls.run(probe)['acc1']:.1%}"
    if not untrained:
        row |= {
            "loss": f"{records[-1]['loss']:.3f}",
            "feature_std": f"{records[-1]['feature_std']:.3f}",
        }
    return row


def judged(path: str) -> tuple[dict[str, float], str]:
    """The metrics and the verdict of a file of representations, as in ``ssltool collapse``."""
    from ssltool.diagnosis.measure import measure
    from ssltool.diagnosis.verdict import judge_measured
    from ssltool.reprs.representations import Representations

    stored = Representations.stored(path)
    found = measure(stored.representations, bound=stored.meta.get("directions"))
    return found.metrics, judge_measured(found, stored.meta).state


@click.command()
@click.option("--ablations", is_flag=True, help="the ablations instead of the methods")
@click.option("--speed", is_flag=True, help="one epoch each; only images/s and memory")
@click.option("--only", multiple=True, help="this row only; repeatable")
@click.option("--epochs", default=8, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="rows that run in parallel")
@click.option("--threads", default=1, show_default=True, help="threads per row")
@click.option("--data", help="folder of images instead of the bundled ones")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "json_file", help="also save all numbers in this file")
def main(ablations, speed, only, epochs, jobs, threads, data, device, json_file) -> None:
    rows = ABLATIONS if ablations else {name: (name, given, {}) for name, given in NAMES.items()}
    needed = {rows[name][1].get("teacher") for name in only if name in rows}
    chosen = {name: row for name, row in rows.items() if not only or name in needed.union(only)}
    columns = COLUMNS[-2:] if speed else COLUMNS
    if ablations:
        columns = [column for column in COLUMNS[:-2] if column != "linear"]
    run = {"epochs": 1 if speed else epochs, "data": data, "device": device, "threads": threads, "columns": columns}
    found: dict[str, dict[str, str]] = {}
    print("| run | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|", flush=True)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        # A teacher must be trained before its student.
        waves = [[n for n in chosen if "teacher" not in chosen[n][1]], [n for n in chosen if "teacher" in chosen[n][1]]]
        for wave in waves:
            with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
                futures = {name: pool.submit(measure, name, *chosen[name], folder, **run) for name in wave}
                for name, future in futures.items():
                    found[name] = future.result()
                    cells = [found[name].get(column, "") for column in columns]
                    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if json_file:
        machine = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")}
        Path(json_file).write_text(json.dumps({"argv": sys.argv[1:], **machine, "rows": found}, indent=2))


if __name__ == "__main__":
    main()
