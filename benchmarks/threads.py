"""What a second thread gives to a small network, by operation, and what two processes with one thread each give.

    python benchmarks/threads.py [--arch resnet18_w8] [--size 28] [--batch 256]

Steps of the network alone, two views, in float32: with one thread, with two, and by two processes side by side with one
thread each. The table has the time of each operation in a step with one thread and with two.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from ssltool.models.backbones import build_backbone
from ssltool.training.allocator import reuse_freed_memory

STEPS = 20


def steps_of(arch: str, size: int, batch: int) -> Callable[[], None]:
    """A training step of the network."""
    torch.manual_seed(0)
    network = build_backbone(arch, stem="small-stride2", image_size=size)[0].to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

    def step() -> None:
        for _ in range(2):
            network(images).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rate(step: Callable[[], None], batch: int) -> float:
    """Images per second."""
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return STEPS * batch / (time.perf_counter() - start)


def by_operation(step: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of a step in each operation."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(5):
            step()
    return {event.key: event.self_cpu_time_total / 5000 for event in found.key_averages()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="resnet18_w8")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    reuse_freed_memory()
    torch.set_num_threads(1)
    step = steps_of(args.arch, args.size, args.batch)
    if args.alone:
        print(rate(step, args.batch))
        return
    times = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        print(f"{threads} threads: {rate(step, args.batch):,.0f} images/s")
        times[threads] = by_operation(step)
    command = [sys.executable, __file__, "--alone", "--arch", args.arch]
    command += ["--size", str(args.size), "--batch", str(args.batch)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    print(f"two processes: {sum(float(process.communicate()[0]) for process in both):,.0f} images/s together")
    for name in sorted(times[1], key=lambda name: -times[1][name])[:8]:
        one, two = times[1][name], times[2].get(name, 0.0)
        print(f"{name:40} {one:7.2f} ms {two:7.2f} ms  {one / max(two, 1e-9):.2f}")


if __name__ == "__main__":
    main()
