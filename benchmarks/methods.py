"""Every method, and the papers' ablations, with the same budget on the same images.

    python benchmarks/methods.py [--ablations | --search | --speed] [--only NAME ...] [--epochs 8] [--seeds 1] ...

Trains each, by default a narrow ResNet-18 without zero-initialised residual branches, saves its representations, and
prints one Markdown row: architecture, learning rate, the last epoch's loss, 20-NN and linear accuracy on the val
images (logistic regression on the standardised representations), AUC, effective rank, RankMe and the share of dead
directions of the train representations, the effective rank of the projections, ``feature_std`` of the projection in the
last epoch, the verdicts on representations and projections, images/s during training, and the process's peak memory
(for a GPU, the device's). With ``--seeds N`` the values are means over N runs, and the smallest and largest accuracy
stand behind theirs. Each row is a separate process. ``--json FILE`` saves the numbers of all runs after each row.
Compare speeds only between rows with the same ``--jobs``.

``--search`` trains each with a third, once and three times its learning rate, after a warm-up of an epoch, and then at
the best of these rates without a warm-up. The linear accuracy on the val images chooses. The seed is 20, which the
tables do not use. ``distill`` needs a trained teacher and is left out.
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
from method_settings import NO_PROJECTOR, SHARED, Row, rows_after_search, rows_of_ablations, rows_of_methods

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
OF_SEARCH = ("lr", "warm-up", "loss", "20-NN", "linear", "eff. rank", "proj. rank", "backbone", "projection")
FORMATS = {"20-NN": ".1%", "linear": ".1%", "dead": ".0%", "loss": ".3f", "AUC": ".3f", "feature_std": ".3f"} | {
    "eff. rank": ".1f",
    "RankMe": ".1f",
    "proj. rank": ".1f",
    "images/s": ".0f",
    "memory GB": ".2f",
}
RANGED = ("20-NN", "linear")
"""Columns whose smallest and largest values are shown beside the mean."""

Found = dict[str, str | float]


def train(name: str, method: str, given: dict[str, Any], options: dict[str, Any], folder: str, **run: Any) -> Path:
    """One pretraining run; returns its folder."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    settings = SHARED | {k: v for k, v in given.items() if k not in ("set", "teacher")}
    settings["warmup_epochs"] = min(settings["warmup_epochs"], run["epochs"] - 1)
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
        settings = SHARED | given
        found |= {"lr": f"{settings['lr']:g}", "warm-up": str(settings["warmup_epochs"]), "images/s": speed}
        found |= {"loss": last["loss"], "feature_std": last["feature_std"]}
    if "20-NN" not in columns:
        return found
    network = {"pretrained": str(result / "checkpoint.pt"), "random": untrained}
    files = [w["path"] for w in save_reprs.run(SaveReprsConfig(split="both", out=f"{result}/reprs", **network))]
    near = knn.run(KnnConfig(bank=files[0], queries=files[1], k=20))
    metrics, state = judged(files[0])
    found |= {
        "20-NN": near["accuracy"],
        "AUC": metrics["auc"],
        "eff. rank": metrics["effective_rank"],
        "RankMe": metrics["rankme"],
        "dead": metrics["dead_directions"],
        "backbone": state,
    }
    if method not in NO_PROJECTOR:
        projector = save_reprs.run(SaveReprsConfig(layer="projector", out=f"{result}/projector.pt", **network))
        of_projection, projected = judged(projector[0]["path"])
        found |= {"proj. rank": of_projection["effective_rank"], "projection": projected}
    if "linear" in columns:
        probe = LinclsConfig(reprs=(files[0], files[1]), solver="lbfgs", out=f"{result}-probe", overwrite=True)
        found["linear"] = lincls.run(probe)["acc1"]
    return found


def measure_seeds(name: str, row: Row, folder: str, seeds: list[int], **run: Any) -> list[Found]:
    """The measured runs of a row, one for each seed."""
    return [measure(name, row, folder, seed=seed, **run) for seed in seeds]


def measure_search(name: str, row: Row, folder: str, seeds: list[int], **run: Any) -> list[Found]:
    """Three learning rates after a warm-up, and the best of them without one."""
    method, given, options = row
    rate = (SHARED | given)["lr"]
    found = []
    for factor in (1 / 3, 1, 3):
        tried = given | {"lr": float(f"{factor * rate:.2g}"), "warmup_epochs": 1}
        found.append(measure(f"{name} lr={tried['lr']}", (method, tried, options), folder, seed=seeds[0], **run))
    best = max(found, key=lambda one: one["linear"])
    tried = given | {"lr": float(best["lr"]), "warmup_epochs": 0}
    return [*found, measure(f"{name} no warm-up", (method, tried, options), folder, seed=seeds[0], **run)]


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
@click.option("--search", is_flag=True, help="three learning rates of each method, and no warm-up")
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
    rows = rows_of_ablations() if ablations else rows_of_methods() if search else rows_after_search()
    needed = {rows[name][1].get("teacher") for name in only if name in rows}
    chosen: dict[str, Row] = {name: row for name, row in rows.items() if not only or name in needed.union(only)}
    if search:
        chosen = {n: row for n, row in chosen.items() if not n.startswith("untrained") and "teacher" not in row[1]}
    columns = SPEED if speed else OF_SEARCH if search else COLUMNS[:-2] if ablations else COLUMNS
    if ablations:
        columns = tuple(column for column in columns if column != "linear")
    run = {"epochs": 1 if speed else epochs, "data": data, "device": device, "threads": threads, "columns": columns}
    measured = measure_search if search else measure_seeds
    first = 20 if search else 10
    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "torch": version("torch")}
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
                    name: pool.submit(measured, name, chosen[name], folder, [*range(first, first + seeds)], **run)
                    for name in wave
                }
                for name, future in futures.items():
                    found[name] = future.result()
                    for runs in [[one] for one in found[name]] if search else [found[name]]:
                        cells = [cell(column, [one[column] for one in runs if column in one]) for column in columns]
                        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
                    if json_file:
                        document = {"argv": sys.argv[1:], **machine, "rows": found}
                        Path(json_file).write_text(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
