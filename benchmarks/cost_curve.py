"""Images per second of pretraining against the image size, the number of workers and the batch size.

    python benchmarks/cost_curve.py [--arch resnet18_w16] [--rounds 3]

Trains SimSiam on JPEG files of 500 x 375 pixels (crops of the photographs that scikit-learn has), or on the same images
in memory, with the default precision. Each point is a process of its own; the table has the median of the rounds, and
beside it the share of the time that the steps wait for data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from file_views import write_photographs
from peers import CORES, FILES, WARM_UP, memory_file

SECONDS = 6.0

SIZES = [{"size": size, "batch": 64} for size in (32, 64, 96, 128, 160, 224)]
WORKERS = [{"size": 96, "batch": 64, "workers": count} for count in (0, 1, 2, 4)]
BATCHES = [{"size": 32, "batch": batch, "memory": True} for batch in (32, 64, 128, 256, 512)]
CURVES = {"image size, JPEG": SIZES, "workers, JPEG": WORKERS, "batch, from memory": BATCHES}


def measure(point: dict[str, Any], arch: str, files: Path) -> dict[str, float]:
    """Images per second over ``SECONDS``, and the share of the waiting for data."""
    from ssltool.config import PretrainConfig
    from ssltool.data.shard import Shard
    from ssltool.stages.pretrain.pretrain import Pretraining
    from ssltool.training.allocator import reuse_freed_memory

    torch.set_num_threads(CORES)
    reuse_freed_memory()
    config = PretrainConfig(
        data=str(memory_file(files, point["size"]) if point.get("memory") else files),
        arch=arch,
        image_size=point["size"],
        batch_size=point["batch"],
        workers=point.get("workers"),
        epochs=1000,
        out=str(files.parent / "run"),
        overwrite=True,
        device="cpu",
    )
    training = Pretraining(config, torch.device("cpu"), Shard())
    training.state.model.train()
    start, waiting, count = 0.0, 0.0, -WARM_UP
    for epoch in range(1000):
        batches = training._loaded(epoch, 0)
        while True:
            if count == 0:
                start, waiting = time.perf_counter(), 0.0
            asked = time.perf_counter()
            batch = next(batches, None)
            waiting += time.perf_counter() - asked
            if batch is None:
                break
            training.state.record_step(*training.step(batch))
            count += 1
            spent = time.perf_counter() - start
            if count > 0 and spent > SECONDS:
                return {"images_per_second": count * point["batch"] / spent, "wait": waiting / spent}
    raise RuntimeError("no step was measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18_w16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(json.loads(args.point[0]), args.arch, Path(args.point[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "photographs")
        (files / "all").mkdir(parents=True)
        write_photographs(files / "all", FILES)
        for name, points in CURVES.items():
            found: list[list[dict[str, float]]] = [[] for _ in points]
            for _ in range(args.rounds):
                for rates, point in zip(found, points, strict=True):
                    command = [sys.executable, __file__, "--arch", args.arch, "--point", json.dumps(point), str(files)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    rates.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}: {args.arch}")
            for rates, point in zip(found, points, strict=True):
                rate, wait = (statistics.median(r[key] for r in rates) for key in ("images_per_second", "wait"))
                print(f"  {json.dumps(point):48} {rate:8.1f} images/s  {wait:6.1%} data wait", flush=True)


if __name__ == "__main__":
    main()
