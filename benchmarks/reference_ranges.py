"""What the monitor records for healthy runs of each method, width and number of images; ``ssltool diagnose`` cites it.

    python benchmarks/reference_ranges.py [--minutes 15] [--method NAME ...] [--width 8 ...] [--images 2000 ...] ...

Trains each method with the settings of ``benchmarks/method_settings.py`` for the same number of steps on the first
images of the bundled train split, and adds the last epoch's metrics of each layer to the data file of the package. Runs
that the file has are not repeated, so that several calls can complete it. Seeds are the outermost loop: if the time is
up, each setting has about as many runs. Methods that need a ViT train the small one of the settings; ``--width`` does
not apply to them.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from method_settings import METHOD_OF, NAMES, SHARED

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "ssltool" / "stages" / "diagnose" / "reference_ranges.json"
METRICS = ("auc", "effective_rank", "dead_directions", "feature_std", "rankme", "mean_norm", "coding_rate")
"""Those of them that the monitor records."""

METHODS = tuple(
    name for name in NAMES if name not in METHOD_OF and name not in ("paws", "distill", "teacher", "supervised")
)
"""The methods without labels and without a trained teacher."""

STEPS_PER_EPOCH = 125


def key(run: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("method", "arch", "images", "epochs", "seed"))


def train(folder: Path, method: str, arch: str, images: int, epochs: int, seed: int) -> dict[str, Any]:
    """One run, and what its monitor recorded last."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    given = NAMES[method]
    numbers = folder / "images.npy"
    np.save(numbers, np.arange(images))
    settings = SHARED | {name: value for name, value in given.items() if name != "set"}
    settings |= {"arch": arch, "epochs": epochs, "steps_per_epoch": STEPS_PER_EPOCH, "seed": seed, "device": "cpu"}
    options = tuple(f"{name}={value}" for name, value in given.get("set", {}).items())
    out = folder / "run"
    pretrain(
        PretrainConfig(
            method=method,
            options=options,
            idx_path=str(numbers),
            monitor_every=epochs,
            out=str(out),
            overwrite=True,
            **settings,
        )
    )
    record = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    config = json.loads((out / "config.json").read_text())
    names = [f"{layer}_{metric}" for layer in ("backbone", "projector") for metric in METRICS]
    values = {name: float(f"{record[name]:.4g}") for name in [*names, "backbone_knn"] if record.get(name) is not None}
    facts = {"method": method, "arch": arch, "images": images, "epochs": epochs, "seed": seed}
    facts |= {"steps": epochs * STEPS_PER_EPOCH, "batch_size": settings["batch_size"], "stem": config["stem"]}
    facts |= {"image_size": config["image_size"], "dim": config["method_options"].get("dim")}
    return facts | {"dataset": config["dataset"], "rows": config["monitor_size"], "verdict": record["verdict"]} | values


@click.command()
@click.option("--method", "methods", multiple=True, default=METHODS, show_default=True)
@click.option("--width", "widths", multiple=True, default=(8,), show_default=True)
@click.option("--images", "counts", multiple=True, default=(8000,), show_default=True)
@click.option("--seed", "seeds", multiple=True, default=(1, 2), show_default=True)
@click.option("--epochs", default=2, show_default=True)
@click.option("--minutes", default=15.0, show_default=True, help="start no run after this time")
def main(methods, widths, counts, seeds, epochs, minutes) -> None:
    import torch

    from ssltool.training.progress import quiet

    torch.set_num_threads(1)
    start = time.monotonic()
    runs = json.loads(TARGET.read_text())["runs"] if TARGET.exists() else []
    known = {key(run) for run in runs}
    with tempfile.TemporaryDirectory() as folder, quiet():
        for seed, width, images, method in itertools.product(seeds, widths, counts, methods):
            arch = NAMES[method].get("arch", f"resnet18_w{width}")
            facts = {"method": method, "arch": arch, "images": images, "epochs": epochs, "seed": seed}
            if key(facts) in known:
                continue
            if time.monotonic() - start > 60 * minutes:
                print("the time is up; call again for the rest")
                return
            runs.append(train(Path(folder), **facts))
            print(json.dumps(runs[-1]), flush=True)
            runs.sort(key=key)
            lines = ",\n".join(json.dumps(run) for run in runs)
            head = {
                "format": "ssltool/reference-ranges/1",
                "made_by": "benchmarks/reference_ranges.py",
                "torch": version("torch"),
            }
            TARGET.write_text(json.dumps(head)[:-1] + f', "runs": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
