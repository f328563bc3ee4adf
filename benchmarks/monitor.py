"""The share of the training time that the monitor takes.

    python benchmarks/monitor.py [--every 500] [--device cuda]

Trains SimSiam in plain PyTorch, with a look of ``ssltool.Monitor`` at its backbone and projector after every few steps,
in one process, and prints the share of the looks in the time of the training if there is one in ``--every`` steps: the
median and the range over the rounds, of wall time and of processor time. Processor time is what counts if other
programs run. The first round does not count. --spectrum also times the measurement of outputs of several sizes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import Monitor
from ssltool.diagnosis.layer_metrics import measured_layer
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


def seconds(run: Callable[[], object], device: str) -> tuple[float, float]:
    """Wall time and processor time of one call."""
    start, worked = time.perf_counter(), time.process_time()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - worked


def spread(values: Sequence[float], form: str) -> str:
    """The median and the range of some values."""
    low, middle, high = (format(of(values), form) for of in (min, statistics.median, max))
    return f"{middle} ({low} .. {high})"


@click.command(help=__doc__)
@click.option("--arch", default="resnet18")
@click.option("--image-size", default=32)
@click.option("--batch-size", default=256)
@click.option("--width", default=512, help="width of the projection")
@click.option("--every", default=500)
@click.option("--size", default=1024, help="images of the monitor")
@click.option("--steps", default=2, help="steps of a round, before its look")
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
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
    rounds: int,
    threads: int,
    device: str,
    spectrum: bool,
) -> None:
    """Prints the times and the share."""
    torch.set_num_threads(threads)
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

    taken = []
    for _ in range(rounds + 1):
        trained = [seconds(step, device) for _ in range(steps)]
        looked = seconds(lambda: monitor.look(1), device)
        taken.append(([statistics.mean(of) for of in zip(*trained, strict=True)], looked))
    print(f"{arch}, {image_size} px, batch {batch_size}, {threads} threads, {rounds} rounds: {steps} steps, a look")
    for kind, name in enumerate(("wall", "processor")):
        of_step, of_look = ([of[kind] for of in column] for column in zip(*taken[1:], strict=True))
        share = [look / (every * step) for step, look in zip(of_step, of_look, strict=True)]
        print(
            f"{name} time: step {spread(of_step, '.2f')} s, look {spread(of_look, '.2f')} s; "
            f"one in {every} steps: {spread(share, '.2%')}"
        )
    for n, d in SHAPES if spectrum else ():
        x = torch.randn(n, d, device=device)
        times = [seconds(lambda x=x: measured_layer(x), device)[1] for _ in range(rounds + 1)]
        print(f"{n} x {d}: processor time {spread(times[1:], '.3f')} s")


if __name__ == "__main__":
    main()
