"""The streaming spectrum compared with decompositions of the whole matrix: time, peak memory and error.

    python benchmarks/collapse.py [--sizes 50000x512,50000x2048,2000000x512] [--threads 1]

The data are random rows with a mean and singular values that span six decades, saved as float32 in a file of
representations. Each implementation reads the file in its own process. ``error`` is the largest relative error of a
singular value above 1e-5 of the first, compared with a float64 decomposition of the whole matrix. ``memory`` is the
peak without the imported torch and the pages of the mapped file. If the whole matrix in float64 is larger than
``--most-memory``, there is no reference: only the streaming spectrum and the Gram matrix are run, and compared with
each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.spectrum import row_blocks, singular_values
from ssltool.reprs.representations import Representations

WHOLE = 1e-5
"""Smaller values, relative to the largest, are rounding noise of a float32 file."""


def streaming(x: Tensor) -> Tensor:
    """``ssltool``'s streaming QR."""
    return singular_values(x)


def paper(x: Tensor) -> Tensor:
    """As in the collapse paper's test_collapse.py: float32, including the singular vectors."""
    return torch.svd(x - x.mean(dim=0)).S


def numpy_svd(x: Tensor) -> Tensor:
    """NumPy's SVD of the whole matrix in float64."""
    wide = x.double().numpy()
    return torch.from_numpy(np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False))


def whole(x: Tensor) -> Tensor:
    """The reference: torch's singular values of the whole matrix in float64."""
    wide = x.double()
    return torch.linalg.svdvals(wide - wide.mean(dim=0))


def gram(x: Tensor) -> Tensor:
    """Square roots of the eigenvalues of the d x d Gram matrix, in float64, accumulated over blocks of rows."""
    total, mean = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64), x.mean(dim=0, dtype=torch.float64)
    for block in row_blocks(x):
        centred = block.double() - mean
        total += centred.T @ centred
    return torch.linalg.eigvalsh(total).clamp(min=0).sqrt().flip(0)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": whole,
    "streaming": streaming,
    "paper": paper,
    "numpy": numpy_svd,
    "gram": gram,
}


class Watch(threading.Thread):
    """Records the peak anonymous memory of this process, in bytes, while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_at = self.most = anonymous()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.005):
            self.most = max(self.most, anonymous())


def anonymous() -> int:
    """Anonymous memory of this process (not backed by a file), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark needs /proc/self/status, which exists on Linux only")


def work(way: str, file: str) -> None:
    """Runs one implementation in this process; prints seconds and bytes, and saves the values beside the file."""
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    values = WAYS[way](Representations.stored(file).representations)
    seconds = time.perf_counter() - start
    watch.stopped.set()
    torch.save(values, f"{file}.{way}")
    print(json.dumps({"seconds": seconds, "memory": watch.most - watch.start_at}))


def make(n: int, d: int, path: Path) -> None:
    """Writes the data in blocks of rows."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    scales, mean = torch.logspace(0, -6, d, dtype=torch.float64), torch.randn(d, generator=generator)
    rows = torch.empty(n, d)
    for block in row_blocks(rows):
        block.copy_((torch.randn(block.shape, generator=generator).double() * scales) @ mix + mean)
    Representations(rows, torch.full((n,), -1), torch.arange(n)).save(path)


def error(values: Tensor, reference: Tensor) -> float:
    """The largest relative error among the values above ``WHOLE``."""
    seen = reference > WHOLE * reference[0]
    return float(((values[: len(reference)].double() - reference).abs() / reference)[seen].max())


@click.command(help=__doc__)
@click.option("--sizes", default="50000x512,50000x2048,2000000x512")
@click.option("--threads", default=1)
@click.option("--most-memory", default=4.0, help="largest size of the whole matrix in float64, in GB")
@click.option("--worker", nargs=2, hidden=True)
def main(sizes: str, threads: int, most_memory: float, worker: tuple[str, str] | None) -> None:
    """Runs all implementations on all sizes."""
    torch.set_num_threads(threads)
    if worker:
        work(*worker)
        return
    print("| rows x width | implementation | seconds | ratio | memory, GB | error |\n|---|---|---|---|---|---|")
    for size in sizes.split(","):
        n, d = map(int, size.split("x"))
        small = n * d * 8 / 1e9 <= most_memory
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "reprs.pt"
            make(n, d, file)
            base = None
            for way in WAYS if small else ("streaming", "gram"):
                line = [sys.executable, __file__, "--threads", str(threads), "--worker", way, str(file)]
                done = subprocess.run(
                    line, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)}
                )
                if done.returncode:
                    print(f"| {n:,} x {d} | {way} | failed | | | {done.stderr.strip().splitlines()[-1]} |", flush=True)
                    continue
                found = json.loads(done.stdout)
                base = base or (found["seconds"], torch.load(f"{file}.{way}", weights_only=True).double())
                values = torch.load(f"{file}.{way}", weights_only=True)
                off = "reference" if values.equal(base[1]) else f"{error(values, base[1]):.1e}"
                print(
                    f"| {n:,} x {d} | {way} | {found['seconds']:.1f} | {found['seconds'] / base[0]:.2f} | "
                    f"{found['memory'] / 1e9:.2f} | {off} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
