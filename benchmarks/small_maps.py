"""The time of convolutions of small maps, by oneDNN and as matrix products, forward and backward.

    python benchmarks/small_maps.py [--threads 2] [--rounds 5] [--batches 64 256] [--forward] [--without-amx]

The shapes are those of ResNets for images of 28 to 224 pixels. Each line has the milliseconds of ``F.conv2d``, and how
many times as fast are the product of windows, the product of maps (of at most 4 x 4 pixels), and what
``SmallMapConv2d`` chooses; in float32 and in bfloat16. The ways alternate; the median of the rounds. ``--forward``
leaves out the backward pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.models import small_map_conv
from ssltool.models.small_map_conv import MapProduct, WindowProduct, faster_product, taps_of

Shape = tuple[int, int, int, int, int]
"""Channels in and out, side of the map, kernel and stride."""


def shapes(widths: tuple[int, ...], sides: tuple[int, ...]) -> Iterator[Shape]:
    """The convolutions of stages with these widths and maps: within, at their beginning, and 1x1."""
    for width in widths:
        for side in sides:
            yield width, width, side, 3, 1
            yield width // 2, width, 2 * side, 3, 2
            yield width // 2, width, 2 * side, 1, 2
            yield 4 * width, width, side, 1, 1


def seconds(run: Callable[[Tensor, Tensor], Tensor], images: Tensor, weight: Tensor, forward: bool) -> float:
    """The time of a forward and a backward pass, or of a ``forward`` pass alone."""
    begin = time.perf_counter()
    with torch.set_grad_enabled(not forward):
        made = run(images, weight)
    if not forward:
        torch.autograd.grad(made, (images, weight), torch.ones_like(made))
    return time.perf_counter() - begin


def measured(batch: int, shape: Shape, dtype: torch.dtype, rounds: int, forward: bool) -> str:
    """The cells of a shape."""
    given, made, side, kernel, stride = shape
    taps = taps_of(side, kernel, stride, kernel // 2)
    form = {"dtype": dtype, "memory_format": torch.channels_last}
    images = torch.randn(batch, given, side, side).to(**form).requires_grad_()
    weight = torch.randn(made, given, kernel, kernel).to(**form).requires_grad_()
    used = taps.used

    def convolution(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w[:, :, used, used], None, taps.stride, taps.padding)

    ways = {"conv": convolution, "windows": lambda x, w: WindowProduct.apply(x, w[:, :, used, used], taps, taps)}
    if side <= 4 and kernel > 1:
        ways["maps"] = lambda x, w: MapProduct.apply(x, w[:, :, used, used], taps, taps)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            found[name].append(seconds(run, images, weight, forward))
    times = {name: statistics.median(values[1:]) for name, values in found.items()}
    chosen = {None: "conv", WindowProduct: "windows", MapProduct: "maps"}
    name = chosen[faster_product(weight[:, :, used, used].shape, dtype, taps, taps)]
    fast = [f"{times['conv'] / times[way]:5.2f}" if way in times else "     " for way in ("windows", "maps")]
    return f"{1000 * times['conv']:8.2f} {' '.join(fast)} {name:7} {times['conv'] / times[name]:5.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--sides", type=int, nargs="+", default=[1, 2, 3, 4, 5, 7])
    parser.add_argument("--forward", action="store_true")
    parser.add_argument("--without-amx", action="store_true", help="as on a processor without AMX")
    args = parser.parse_args()
    if args.without_amx:
        os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"  # which oneDNN reads when it is first used
        small_map_conv.cpu_flags = lambda: {"avx512_bf16"}
    torch.set_num_threads(args.threads)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    head = "conv, ms  windows maps  chosen"
    print(f"{'batch':>5} {'in':>5} {'out':>5} {'map':>4} {'kernel':>6} {'stride':>6} | {head:36} | {head}")
    for batch in args.batches:
        for shape in shapes(tuple(args.widths), tuple(args.sides)):
            cells = " | ".join(measured(batch, shape, dtype, args.rounds, args.forward) for dtype in kinds.values())
            given, made, side, kernel, stride = shape
            print(f"{batch:5} {given:5} {made:5} {side:4} {kernel:6} {stride:6} | {cells}", flush=True)


if __name__ == "__main__":
    main()
