"""Time and value of metrics of representations beside those of other libraries.

    pip install reptrix stable-pretraining scikit-dimension monai ripser gudhi scikit-learn
    python benchmarks/metrics_peers.py [--only twonn] [--rounds 5]

Both compute from the same float32 rows, in one process and with one thread, in turns. ``ratio`` is the peer's processor
time divided by ours in the same round: the median and the range. A library that is not installed is left out and named.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported

import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import click
import numpy as np
import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_classes import Classes, class_cosine, class_rank
from ssltool.diagnosis.metrics.of_neighbours import hubness, local_dimension
from ssltool.diagnosis.metrics.of_rows import twonn
from ssltool.diagnosis.metrics.of_spectrum import alpha, effective_rank, entropy_rank, rankme
from ssltool.diagnosis.metrics.of_trees import edge_lengths, mst_dimension
from ssltool.diagnosis.metrics.of_two_files import linear_cka
from ssltool.diagnosis.metrics.of_views import lidar
from ssltool.diagnosis.spectrum import singular_values

Value = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    """A metric of ours and a peer's: both values are computed from the same rows; ``differs`` is why they differ."""

    metric: str
    package: str
    rows: str
    ours: Value
    peer: Callable[[], Value]
    differs: str


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def decaying(n: int, d: int) -> Tensor:
    """Rows whose variances fall as 1 / j, as those of many networks do, around a mean."""
    return gaussian(n, d) * torch.arange(1, d + 1) ** -0.5 + 0.1


TALL, WIDE = decaying(10_000, 512), decaying(1024, 2048)
CLOUD, LABELS = decaying(3000, 128), torch.arange(3000) % 10
OTHER = CLOUD @ gaussian(128, 128, seed=1) + gaussian(3000, 128, seed=2)
VIEWS = 2 * gaussian(1000, 1, 256) + gaussian(1000, 10, 256, seed=1)


def callback(module: str, name: str, x: Tensor, **settings: int) -> Value:
    """A callback of stable-pretraining, whose queue holds ``x``."""
    import importlib

    made = getattr(importlib.import_module(f"stable_pretraining.callbacks.{module}"), name)
    made = made("metric", "x", len(x), x.shape[1], verbose=False, **settings)
    made._target_queue, logged = SimpleNamespace(data=x), {}
    trainer, log = SimpleNamespace(global_rank=0), lambda key, value, **_: logged.update({key: value})

    def run() -> float:
        made.on_validation_batch_end(trainer, SimpleNamespace(log=log), {}, {}, 0)
        return float(logged["metric"])

    return run


def reptrix(name: str, *args: object) -> Value:
    import reptrix.alpha
    import reptrix.lidar
    import reptrix.rankme

    function = getattr(getattr(reptrix, name), f"get_{name}")
    return lambda: float(np.ravel(np.asarray(function(*args), dtype=object))[0])


def monai(indicator: str, x: Tensor, labels: Tensor | None = None, target: Tensor | None = None) -> Value:
    from monai.metrics import EmbeddingCollapseMetric

    metric = EmbeddingCollapseMetric(reduction="none", include_indicators=[indicator])

    def run() -> float:
        found = metric(x, labels, target)
        return statistics.mean(float(value) for value in found.values() if value is not None)

    return run


def skdim(name: str, x: Tensor, n_neighbors: int | None = None, **settings: object) -> Value:
    import skdim.id

    rows = x.numpy()
    neighbours = {} if n_neighbors is None else {"n_neighbors": n_neighbors}
    return lambda: float(np.mean(getattr(skdim.id, name)(**settings).fit(rows, **neighbours).dimension_))


def ripser(x: Tensor) -> Value:
    from ripser import ripser as persistence

    def run() -> float:
        deaths = persistence(x.numpy(), maxdim=0)["dgms"][0][:, 1]
        return float(deaths[np.isfinite(deaths)].sum())

    return run


def gudhi(x: Tensor) -> Value:
    from gudhi import RipsComplex

    def run() -> float:
        tree = RipsComplex(points=x.numpy()).create_simplex_tree(max_dimension=1)
        tree.compute_persistence()
        deaths = tree.persistence_intervals_in_dimension(0)[:, 1]
        return float(deaths[np.isfinite(deaths)].sum())

    return run


def sklearn_hubness(x: Tensor, k: int = 10) -> Value:
    from scipy.stats import skew
    from sklearn.neighbors import NearestNeighbors

    def run() -> float:
        found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x.numpy()).kneighbors(return_distance=False)
        return float(skew(np.bincount(found.ravel(), minlength=len(x))))

    return run


def monai_rank(rank: float, n: int, d: int) -> float:
    """A rank as the score of MONAI."""
    return 1 - rank / min(n - 1, d)


def pairs() -> list[Pair]:
    classes = Classes.of(CLOUD, LABELS)
    return [
        Pair(
            *("rankme", "stable-pretraining", "10,000 x 512"),
            lambda: rankme(singular_values(TALL, center=False)),
            lambda: callback("rankme", "RankMe", TALL),
            "adds 1e-5, not the paper's 1e-7; float32",
        ),
        Pair(
            *("rankme", "stable-pretraining", "1,024 x 2,048"),
            lambda: rankme(singular_values(WIDE, center=False)),
            lambda: callback("rankme", "RankMe", WIDE),
            "as above",
        ),
        Pair(
            *("entropy_rank", "reptrix", "10,000 x 512"),
            lambda: entropy_rank(singular_values(TALL)),
            lambda: reptrix("rankme", TALL),
            "its RankMe is this rank, of centred rows and variances, plus 1e-7",
        ),
        Pair(
            *("alpha", "reptrix", "10,000 x 512"),
            lambda: alpha(singular_values(TALL)),
            lambda: reptrix("alpha", TALL),
            "none",
        ),
        Pair(
            *("effective_rank", "monai", "10,000 x 512"),
            lambda: monai_rank(effective_rank(singular_values(TALL)), *TALL.shape),
            lambda: monai("effective_rank", TALL),
            "none: 1 - rank / min(N - 1, d); float32",
        ),
        Pair(
            *("class_rank", "monai", "3,000 x 128, 10 classes"),
            lambda: monai_rank(class_rank(Classes.of(CLOUD, LABELS)), 300, 128),
            lambda: monai("per_class_rank", CLOUD, LABELS),
            "none: 1 - rank / min(n - 1, d), averaged; float32",
        ),
        Pair(
            *("class_cosine", "monai", "3,000 x 128, 10 classes"),
            lambda: (class_cosine(classes) + 1) / 2,
            lambda: monai("centroid_similarity", CLOUD, LABELS),
            "none: (cos + 1) / 2; float32",
        ),
        Pair(
            *("cka", "monai", "3,000 x 128 and 128"),
            lambda: linear_cka(CLOUD, OTHER),
            lambda: monai("domain_shift", CLOUD, target=OTHER),
            "none; float32, N x N kernels",
        ),
        Pair(
            *("lidar", "stable-pretraining", "1,000 x 10 x 256"),
            lambda: lidar(VIEWS),
            lambda: callback("lidar", "LiDAR", VIEWS.flatten(0, 1), n_classes=1000, samples_per_class=10),
            "none, if the queue holds the views of an image in a row; float32",
        ),
        Pair(
            *("lidar", "reptrix", "1,000 x 10 x 256"),
            lambda: lidar(VIEWS),
            lambda: reptrix("lidar", VIEWS, 1000, 10),
            "the spectrum of the rows of the LDA matrix, so of the squares of its eigenvalues",
        ),
        Pair(
            *("twonn", "scikit-dimension", "3,000 x 128"),
            lambda: twonn(CLOUD),
            lambda: skdim("TwoNN", CLOUD, method="mle", discard_fraction=0.0),
            "N - 1 for N; its default is another fit without the largest tenth",
        ),
        Pair(
            *("local_dimension", "scikit-dimension", "3,000 x 128"),
            lambda: local_dimension(CLOUD),
            lambda: skdim("MOM", CLOUD, n_neighbors=20),
            "its mean distance includes the 20th; arithmetic mean over rows",
        ),
        Pair(
            *("mst_dimension", "scikit-dimension", "1,000 x 128"),
            lambda: mst_dimension(CLOUD[:1000]),
            lambda: skdim("PH", CLOUD[:1000], random_state=0, nsteps=5, subsamples=2),
            "10 random subsets from N / 2 to N (1,000 by default); ours are disjoint parts down to 32 rows",
        ),
        Pair(
            *("persistence_total", "ripser", "3,000 x 128"),
            lambda: float(edge_lengths(CLOUD).sum()),
            lambda: ripser(CLOUD),
            "none; float32",
        ),
        Pair(
            *("persistence_total", "gudhi", "1,000 x 128"),
            lambda: float(edge_lengths(CLOUD[:1000]).sum()),
            lambda: gudhi(CLOUD[:1000]),
            "none",
        ),
        Pair(
            *("hubness", "scikit-learn", "3,000 x 128"),
            lambda: hubness(CLOUD),
            lambda: sklearn_hubness(CLOUD),
            "none: its neighbours and scipy's skewness",
        ),
    ]


def quiet(run: Value) -> float:
    """What ``run`` returns, without what it prints."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        return run()


def timed(run: Value) -> float:
    start = time.process_time()
    quiet(run)
    return time.process_time() - start


@click.command(help=__doc__)
@click.option("--only", default="", help="metrics whose name contains this")
@click.option("--rounds", default=5)
def main(only: str, rounds: int) -> None:
    """Prints a table."""
    torch.set_num_threads(1)
    logging.disable()
    print("| metric | peer | rows | ours, s | peer, s | ratio | our value | its value | difference in definition |")
    print("|---|---|---|---|---|---|---|---|---|")
    missing = {}
    for pair in pairs():
        if only not in pair.metric:
            continue
        try:
            named, peer = f"{pair.package} {version(pair.package)}", pair.peer()
        except (ImportError, PackageNotFoundError) as error:
            missing[pair.package] = str(error)
            continue
        values = quiet(pair.ours), quiet(peer)
        rounds_taken = []
        for number in range(rounds):
            both = [pair.ours, peer][:: 1 if number % 2 else -1]
            taken = [timed(run) for run in both]
            rounds_taken.append(taken[:: 1 if number % 2 else -1])
        ours, theirs = (statistics.median(column) for column in zip(*rounds_taken, strict=True))
        ratios = sorted(b / a for a, b in rounds_taken)
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} .. {ratios[-1]:.2f})"
        cells = [f"`{pair.metric}`", named, pair.rows, f"{ours:.3f}", f"{theirs:.3f}", ratio]
        cells += [*(f"{value:.5g}" for value in values), pair.differs]
        print(f"| {' | '.join(cells)} |", flush=True)
    for package, why in missing.items():
        print(f"\nleft out: {package} is not installed or cannot be imported ({why})")


if __name__ == "__main__":
    main()
