"""Images per second of pretraining on one GPU, and the share of the time that waits for data.

    python benchmarks/gpu.py [--seconds 8] [--json FILE]

Needs a CUDA device and ssltool alone; the images are noise, so nothing is downloaded. Each row is a process of its own
and trains for ``--seconds`` after a warm-up; all rows should take less than eight minutes at the default. The peer is
the loop that a user writes: torchvision's transforms v2 in the workers of a ``DataLoader``, the same networks, losses
and optimiser in plain torch, in float32 and with bfloat16 autocast. stable-pretraining publishes 871 images/s for two
views of ViT-S/16 at 224 px and batches of 256, with views on the GPU of an H200.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

WORKERS = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
WARM_UP = 8
CIFAR = {"arch": "resnet18", "image_size": 32, "batch_size": 512, "count": 20_000, "stem": "small"}
VIT = {"arch": "vit_small", "image_size": 224, "batch_size": 256, "count": 2_048}
RESNET = {"arch": "resnet50", "image_size": 224, "batch_size": 256, "count": 2_048}

ROWS: dict[str, dict[str, Any]] = {
    "32 px resnet18, ours": CIFAR,
    "32 px resnet18, ours, compiled": CIFAR | {"compile": True},
    "32 px resnet18, ours, CUDA graphs": CIFAR | {"compile": True, "cuda_graphs": True},
    "32 px resnet18, ours, fp32": CIFAR | {"precision": "fp32"},
    "32 px resnet18, plain loop, fp32": CIFAR | {"peer": "fp32"},
    "32 px resnet18, plain loop, bf16": CIFAR | {"peer": "bf16"},
    "224 px vit_small, ours": VIT,
    "224 px vit_small, ours, compiled": VIT | {"compile": True},
    "224 px vit_small, ours, CUDA graphs": VIT | {"compile": True, "cuda_graphs": True},
    "224 px vit_small, plain loop, bf16": VIT | {"peer": "bf16"},
    "224 px resnet50, ours": RESNET,
    "224 px resnet50, ours, compiled": RESNET | {"compile": True},
    "224 px resnet50, plain loop, bf16": RESNET | {"peer": "bf16"},
}


def pixels(size: int, count: int) -> Tensor:
    """Images of noise, an eighth larger than the views."""
    side = size if size <= 64 else size * 8 // 7
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TwoViews(Dataset[list[Tensor]]):
    """Two views of each image by torchvision's transforms."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.images = images
        blur = [v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5)] if size > 64 else []
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                *blur,
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> list[Tensor]:
        return [self.transform(self.images[number]), self.transform(self.images[number])]


def plain_loop(arch: str, image_size: int, batch_size: int, images: Tensor, peer: str, stem: str) -> Iterator[float]:
    """Trains SimSiam in plain torch; yields the seconds that each step waited for its batch."""
    from ssltool.models.backbones import build_backbone

    device = torch.device("cuda")
    backbone, width = build_backbone(arch, stem=stem, image_size=image_size)
    projector = nn.Sequential(
        *(nn.Linear(width, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU()),
        *(nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048), nn.ReLU()),
        *(nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048, affine=False)),
    )
    predictor = nn.Sequential(nn.Linear(2048, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 2048))
    model = nn.ModuleList([backbone, projector, predictor]).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(
        TwoViews(images, image_size), batch_size, True, num_workers=WORKERS, drop_last=True, pin_memory=True
    )
    cosine = nn.CosineSimilarity()
    with contextlib.ExitStack() as stack:
        if peer == "bf16":
            stack.enter_context(torch.autocast("cuda", torch.bfloat16))
        while True:
            batches, start = iter(loader), time.perf_counter()
            for x0, x1 in batches:
                waited = time.perf_counter() - start
                z = [projector(backbone(x.to(device, non_blocking=True))) for x in (x0, x1)]
                p = [predictor(each) for each in z]
                loss = -(cosine(p[0], z[1].detach()).mean() + cosine(p[1], z[0].detach()).mean()) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield waited
                start = time.perf_counter()


def ours(images: Tensor, folder: Path, **settings: Any) -> Iterator[float]:
    """Trains SimSiam with ssltool; yields the seconds that each step waited for its batch."""
    from ssltool.config import PretrainConfig
    from ssltool.data.prefetch import ahead
    from ssltool.data.shard import Shard
    from ssltool.stages.pretrain.pretrain import Pretraining

    data = folder / "train.npy"
    np.save(data, images.permute(0, 2, 3, 1).numpy())
    config = PretrainConfig(
        data=str(data), epochs=1000, device="cuda", out=str(folder / "run"), monitor_every=0, **settings
    )
    device = torch.device("cuda", 0)
    training = Pretraining(config, device, Shard())
    training.state.model.train()
    for epoch in range(1000):
        batches = ahead(training._loaded(epoch, 0), device)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            waited = time.perf_counter() - start
            training.state.record_step(*training.step(batch))
            yield waited


def measure(row: dict[str, Any], seconds: float) -> dict[str, float]:
    """Images per second, the share of the waiting for data on the host, and the peak memory in GB."""
    settings = {k: v for k, v in row.items() if k not in ("count", "peer")}
    images = pixels(row["image_size"], row["count"])
    with tempfile.TemporaryDirectory() as folder:
        steps = (
            plain_loop(images=images, peer=row["peer"], **{"stem": "auto"} | settings)
            if "peer" in row
            else ours(images, Path(folder), **settings)
        )
        for _ in range(WARM_UP):
            next(steps)
        torch.cuda.synchronize()
        start, count, waiting = time.perf_counter(), 0, 0.0
        while time.perf_counter() - start < seconds:
            waiting += next(steps)
            count += 1
            if count % 8 == 0:  # so that the host does not run ahead of the time
                torch.cuda.synchronize()
        torch.cuda.synchronize()
        spent = time.perf_counter() - start
    rate = count * row["batch_size"] / spent
    return {"images_per_second": rate, "wait": waiting / spent, "memory_gb": torch.cuda.max_memory_allocated() / 1e9}


def run_row(name: str, seconds: float, limit: float) -> dict[str, float] | str:
    """The figures of a row, measured by a process, or why there are none."""
    command = [sys.executable, __file__, "--row", name, "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"more than {limit:.0f} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--limit", type=float, default=75, help="seconds after which a row is stopped")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device is available; this benchmark needs one")
    if args.row:
        print(json.dumps(measure(ROWS[args.row], args.seconds)))
        return
    machine = {"gpu": torch.cuda.get_device_name(), "cores": os.cpu_count(), "torch": torch.__version__}
    print(json.dumps(machine))
    found: dict[str, Any] = {}
    begun = time.perf_counter()
    for name in args.rows:
        found[name] = run_row(name, args.seconds, args.limit)
        value = found[name]
        text = value if isinstance(value, str) else "  ".join(f"{k} {v:.3g}" for k, v in value.items())
        print(f"{time.perf_counter() - begun:5.0f} s  {name:36} {text}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(machine | {"rows": found}, indent=1))


if __name__ == "__main__":
    main()
