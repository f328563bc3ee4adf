"""kNN from files compared with faiss-cpu, scikit-learn and the collapse paper's script: time, peak memory, accuracy.

    python benchmarks/knn.py [--size 60000x512] [--queries 10000] [--threads 2] [--repeat 3]
    python benchmarks/knn.py --large                     # 1,200,000 x 512, 50,000 queries, ssltool only

The data are two files of representations with 100 classes. Each implementation reads and classifies them in its own
process. ``ratio`` is its time divided by that of ssltool with the same metric in the same round, the median over the
rounds. ``memory`` is the peak without the imported library and the pages of mapped files.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from collapse import Watch
from torch import Tensor

from ssltool.config import KnnConfig
from ssltool.reprs.representations import Representations
from ssltool.stages import knn

CLASSES = 100
K = 20
PAPER_KEPT, PAPER_KS = 128, 255


def ssltool(folder: Path, **settings: object) -> float:
    """``ssltool knn``."""
    config = KnnConfig(bank=str(folder / "bank.pt"), queries=str(folder / "queries.pt"), device="cpu", **settings)  # type: ignore[arg-type]
    return float(knn.run(config)["accuracies"][0]["accuracy"])


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and labels of the bank, then of the queries."""
    files = [Representations.load(folder / f"{name}.pt") for name in ("bank", "queries")]
    return tuple(x.numpy() for file in files for x in (file.representations, file.targets))  # type: ignore[return-value]


def faiss_flat(folder: Path, unit: bool, k: int = K) -> float:
    """faiss's exact index: inner products of L2-normalised rows, or Euclidean distances."""
    import faiss

    bank, labels, queries, truth = read(folder)
    if unit:
        bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    index = (faiss.IndexFlatIP if unit else faiss.IndexFlatL2)(bank.shape[1])
    index.add(bank)
    near = labels[index.search(queries, k)[1]]
    voted = np.stack([np.bincount(row, minlength=CLASSES) for row in near]).argmax(axis=1)
    return float((voted == truth).mean())


def sklearn(folder: Path, metric: str) -> float:
    """scikit-learn's classifier, brute force."""
    from sklearn.neighbors import KNeighborsClassifier

    bank, labels, queries, truth = read(folder)
    peer = KNeighborsClassifier(K, algorithm="brute", metric=metric).fit(bank, labels)
    return float((peer.predict(queries) == truth).mean())


def paper(folder: Path) -> float:
    """As in the paper's compute_nn.py with the cosine: the bank is normalised for every 256 queries, 128 neighbours are
    kept, and the mode is computed anew for each k up to 255."""
    bank, labels, queries, truth = (torch.from_numpy(x) for x in read(folder))
    kept = []
    for some in queries.split(256):
        a, b = (x / (1e-8 + torch.linalg.norm(x, dim=1, keepdim=True)) for x in (some, bank))
        kept.append((1 - torch.einsum("ik,jk->ij", a, b)).topk(PAPER_KEPT, largest=False).indices)
    indices = torch.cat(kept)
    right = [_share_of_mode(labels[indices[:, :k]], truth) for k in range(1, PAPER_KS + 1)]
    return right[K - 1]


def _share_of_mode(near: Tensor, truth: Tensor) -> float:
    return float((near.mode(dim=1).values == truth).double().mean())


WAYS: dict[str, Callable[[Path], float]] = {
    "ssltool cos": functools.partial(ssltool, metric="cos"),
    "faiss IndexFlatIP": functools.partial(faiss_flat, unit=True),
    "scikit-learn cosine": functools.partial(sklearn, metric="cosine"),
    "the paper's script": paper,
    "ssltool cos, every k to 200": functools.partial(ssltool, metric="cos", k_max=200),
    "faiss IndexFlatIP, k 200": functools.partial(faiss_flat, unit=True, k=200),
    "ssltool cos, bf16": functools.partial(ssltool, metric="cos", precision="bf16"),
    "ssltool l2": functools.partial(ssltool, metric="l2"),
    "faiss IndexFlatL2": functools.partial(faiss_flat, unit=False),
    "scikit-learn euclidean": functools.partial(sklearn, metric="euclidean"),
}
BASE = {name: "ssltool l2" if "l2" in name or "L2" in name or "euclid" in name else "ssltool cos" for name in WAYS}


def work(way: str, folder: str) -> None:
    """Runs one implementation in this process; prints seconds, bytes and the accuracy."""
    if "faiss" in way:
        import faiss  # noqa: F401
    if "scikit" in way:
        import sklearn.neighbors  # noqa: F401
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    accuracy = WAYS[way](Path(folder))
    seconds = time.perf_counter() - start
    watch.stopped.set()
    print(json.dumps({"seconds": seconds, "memory": watch.most - watch.start_at, "accuracy": accuracy}))


def make(folder: Path, bank: int, queries: int, width: int) -> None:
    """Writes both files: a mean for each class plus noise, so that the classes overlap."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(CLASSES, width, generator=generator)
    for name, count in (("bank", bank), ("queries", queries)):
        labels = torch.randint(CLASSES, (count,), generator=generator)
        rows = torch.empty(count, width)
        for block, mine in zip(rows.split(65536), labels.split(65536), strict=True):
            torch.randn(block.shape, generator=generator, out=block)
            block.mul_(5.0).add_(means[mine])
        Representations(rows, labels, torch.arange(count)).save(folder / f"{name}.pt")


def measure(way: str, folder: Path, threads: int) -> dict[str, float]:
    """Runs one implementation in a separate process."""
    line = [sys.executable, __file__, "--threads", str(threads), "--worker", way, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{way} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@click.command(help=__doc__)
@click.option("--size", default="60000x512")
@click.option("--queries", default=10_000)
@click.option("--threads", default=2)
@click.option("--repeat", default=3)
@click.option("--only", help="only implementations whose names start with this, and those they are compared with")
@click.option("--large", is_flag=True)
@click.option("--worker", nargs=2, hidden=True)
def main(
    size: str, queries: int, threads: int, repeat: int, only: str | None, large: bool, worker: tuple[str, str] | None
) -> None:
    """Runs all implementations in turn, ``repeat`` times."""
    torch.set_num_threads(threads)
    if worker:
        work(*worker)
        return
    rows, width = map(int, ("1200000x512" if large else size).split("x"))
    queries, repeat = (50_000, 1) if large else (queries, repeat)
    ways = [
        way
        for way in WAYS
        if only is None or way.startswith(only) or way in {BASE[w] for w in WAYS if w.startswith(only)}
    ]
    ways = ["ssltool cos"] if large else ways
    with tempfile.TemporaryDirectory() as name:
        make(Path(name), rows, queries, width)
        rounds = [{way: measure(way, Path(name), threads) for way in ways} for _ in range(repeat)]
    print(f"{rows:,} x {width} against {queries:,}, {threads} threads, {repeat} rounds\n")
    print("| implementation | seconds | ratio | memory, GB | accuracy, k = 20 |\n|---|---|---|---|---|")
    for way in ways:
        found = [one[way] for one in rounds]
        ratio = statistics.median(one[way]["seconds"] / one[BASE[way]]["seconds"] for one in rounds)
        seconds = statistics.median(one["seconds"] for one in found)
        memory = max(one["memory"] for one in found) / 1e9
        accuracy = "" if "200" in way and "ssltool" in way else f"{found[0]['accuracy']:.4f}"
        print(f"| {way} | {seconds:.1f} | {ratio:.2f} | {memory:.2f} | {accuracy} |", flush=True)


if __name__ == "__main__":
    main()
