"""Is a high or a low intrinsic dimension the better one? Rank correlations with kNN accuracy, at one width.

    python benchmarks/dimension_direction.py [--folder DIR] [--epochs 4] [--seeds 2] [--jobs 2] [--only NAME ...]

IdEst (arXiv:2606.03338) finds that models with lower dimensions are better, over models of many widths; ``twonn`` and
accuracy rise together in docs/study.md, where the width varies, too. Here all networks are ResNet-18s of base width 16,
trained on the bundled images by several methods and seeds, healthy and collapsed on purpose, and measured after every
epoch and untrained. The dimensions are those of ``--rows`` of the val images, for which the 20-NN accuracy is known.

Prints a row for each checkpoint, and Spearman's correlation of each dimension with the accuracy, with its 95 %
interval: over all checkpoints, over those of the healthy methods, and over the last epoch of each run, whose rows are
independent. A positive correlation means that higher is better. Runs and measurements in ``--folder`` are kept and not
repeated. About 20 minutes on 2 cores.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from method_settings import rows_of_ablations, rows_of_methods
from methods import train

DIMENSIONS = ("twonn", "mst_dimension", "local_dimension", "effective_rank")
"""The last, a linear dimension, is for comparison."""

HEALTHY = ("simsiam", "byol", "simclr", "barlow", "vicreg", "nnclr")
COLLAPSED = ("simsiam stop_grad=false", "byol predictor=none", "vicreg std=0", "vicreg cov=0")


def measure(name: str, seed: int, folder: str, epochs: int, steps: int | None, rows: int) -> list[dict[str, Any]]:
    """Trains a run unless ``folder`` has it, and measures the untrained network and the checkpoint of each epoch."""
    import torch

    from ssltool.config import KnnConfig, SaveReprsConfig
    from ssltool.diagnosis.measure import measure as measured
    from ssltool.reprs.representations import Representations
    from ssltool.stages import knn, save_reprs

    torch.set_num_threads(1)
    method, given, options = (rows_of_methods() | rows_of_ablations())[name]
    run = Path(folder) / f"{name.replace(' ', '_')}-{seed}"
    if not (run / f"checkpoint_{epochs - 1:04d}.pt").exists():
        settings = {"epochs": epochs, "seed": seed, "save_every": 1, "monitor_every": 0, "steps_per_epoch": steps}
        train(run.name, method, given, options, folder, **settings)
    found = []
    for epoch in range(epochs + 1):
        result = run / f"measured_{epoch}_{rows}.json"
        if not result.exists():
            network = {"pretrained": str(run / f"checkpoint_{max(epoch - 1, 0):04d}.pt"), "random": epoch == 0}
            saved = save_reprs.run(SaveReprsConfig(split="both", out=str(run / "reprs"), **network))
            bank, queries = (one["path"] for one in saved)
            accuracy = knn.run(KnnConfig(bank=bank, queries=queries, k=20))["accuracy"]
            x = Representations.load(queries).representations
            values = measured(x, DIMENSIONS, pair_rows=rows).metrics
            row = {"run": name, "seed": seed, "epoch": epoch, "width": x.shape[1], "accuracy": accuracy, **values}
            result.write_text(json.dumps(row))
        found.append(json.loads(result.read_text()))
    return found


def correlations(rows: list[dict[str, Any]], epochs: int) -> list[str]:
    """Lines of a Markdown table: Spearman's correlation of each dimension with the accuracy, in several selections."""
    from ssltool.stages.rank.forecast import spearman

    trained = [row for row in rows if row["epoch"]]
    untrained = {row["seed"]: row for row in rows if not row["epoch"]}  # the same network for all methods
    chosen = {
        "all, with the untrained": [*untrained.values(), *trained],
        "all trained": trained,
        "healthy methods": [row for row in trained if row["run"] in HEALTHY],
        "collapsed on purpose": [row for row in trained if row["run"] in COLLAPSED],
        "last epoch of each run": [row for row in trained if row["epoch"] == epochs],
        "last epoch, healthy": [row for row in trained if row["epoch"] == epochs and row["run"] in HEALTHY],
    }
    lines = ["| checkpoints | number | " + " | ".join(DIMENSIONS) + " |", "|---" * (2 + len(DIMENSIONS)) + "|"]
    for title, some in chosen.items():
        accuracy = np.array([row["accuracy"] for row in some])
        cells = []
        for name in DIMENSIONS:
            values = np.array([row[name] for row in some], dtype=float)
            known = np.isfinite(values)
            if known.sum() < 4 or np.ptp(values[known]) == 0 or np.ptp(accuracy[known]) == 0:
                cells.append("-")
                continue
            one = spearman(values[known], accuracy[known])
            cells.append(f"{one.value:+.2f} ({one.low:+.2f} .. {one.high:+.2f})")
        lines.append(f"| {title} | {len(some)} | " + " | ".join(cells) + " |")
    return lines


@click.command(help=__doc__)
@click.option("--folder", help="where runs are kept, and read if they exist [default: a temporary folder]")
@click.option("--epochs", default=4, show_default=True)
@click.option("--steps", type=int, help="steps per epoch [default: all images]")
@click.option("--seeds", default=2, show_default=True, help="runs of each method")
@click.option("--jobs", default=2, show_default=True, help="runs in parallel")
@click.option("--rows", default=2000, show_default=True, help="images of which the dimensions are measured")
@click.option("--only", multiple=True, help="this method only; repeatable")
def main(
    folder: str | None, epochs: int, steps: int | None, seeds: int, jobs: int, rows: int, only: tuple[str, ...]
) -> None:
    """Trains and measures all runs, and prints both tables."""
    names = [name for name in (*HEALTHY, *COLLAPSED) if not only or name in only]
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or temporary
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
            tasks = [
                pool.submit(measure, name, seed, place, epochs, steps, rows) for seed in range(seeds) for name in names
            ]
            found = [row for task in tasks for row in task.result()]
    columns = ("run", "seed", "epoch", "width", "accuracy", *DIMENSIONS)
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in found:
        cells = [f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in columns]
        print("| " + " | ".join(cells) + " |")
    print("\n" + "\n".join(correlations(found, epochs)))


if __name__ == "__main__":
    main()
