"""The share of the training time that the monitor takes.

    python benchmarks/monitor.py [--every 500] [--device cuda]

Times a step of SimSiam in plain PyTorch and a look of ``ssltool.Monitor`` at its backbone and projector, and prints the
median of both and the share of the looks in the time of the training at the default settings of the monitor. --spectrum
also times the measurement of outputs of several sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import Monitor
from ssltool.diagnosis.monitor import measured_layer
from ssltool.models.backbones import build_backbone
from ssltool.models.heads import mlp

SHAPES = ((256, 64), (1024, 128), (1024, 512), (1024, 2048), (2048, 2048))


class SimSiam(nn.Module):
    def __init__(self, arch: str, size: int, width: int) -> None:
        super().__init__()
        self.backbone, dim = build_backbone(arch, image_size=size)
        self.projector = mlp([dim, width, width, width])
        self.predictor = mlp([width, width // 4, width])

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        z1, z2 = (self.projector(self.backbone(x)) for x in (x1, x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return -(F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean()) / 2


def median_time(run: Callable[[], object], times: int, device: str) -> float:
    """The median seconds of ``times`` calls after one that does not count."""
    found = []
    for _ in range(times + 1):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


@click.command(help=__doc__)
@click.option("--arch", default="resnet18")
@click.option("--image-size", default=32)
@click.option("--batch-size", default=256)
@click.option("--width", default=512, help="width of the projection")
@click.option("--every", default=500)
@click.option("--size", default=1024, help="images of the monitor")
@click.option("--steps", default=5)
@click.option("--looks", default=5)
@click.option("--device", default="cpu")
@click.option("--spectrum", is_flag=True)
def main(
    arch: str,
    image_size: int,
    batch_size: int,
    width: int,
    every: int,
    size: int,
    steps: int,
    looks: int,
    device: str,
    spectrum: bool,
) -> None:
    """Prints the times and the share."""
    torch.manual_seed(0)
    net = SimSiam(arch, image_size, width).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    views = [torch.randn(batch_size, 3, image_size, image_size, device=device) for _ in range(2)]
    layers = {"backbone": net.backbone, "projector": net.projector}
    monitor = Monitor(torch.randn(size, 3, image_size, image_size), layers, every=every)

    def step() -> None:
        optimizer.zero_grad()
        net(*views).backward()
        optimizer.step()

    trained = median_time(step, steps, device)
    looked = median_time(lambda: monitor.look(1), looks, device)
    share = looked / (every * trained)
    print(f"{arch}, {image_size} px, batch {batch_size}: step {trained:.3f} s, look {looked:.3f} s", end="; ")
    print(f"every {every} steps: {share:.2%} of the time of the training")
    for n, d in SHAPES if spectrum else ():
        x = torch.randn(n, d, device=device)
        print(f"{n} x {d}: {median_time(lambda x=x: measured_layer(x), looks, device):.3f} s")


if __name__ == "__main__":
    main()
