"""The output files of the paper's ``compute_nn.py``."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ssltool.config import KnnConfig
from ssltool.files.writing import write_atomically, write_json
from ssltool.settings import Record

MAX_K = 255
"""The largest k in the paper's script."""


def distances(similarity: Tensor, metric: str) -> Tensor:
    """1 - cosine, or the Euclidean distance; inf where there is no neighbour."""
    return similarity.neg() if metric == "cos" else (-2 * similarity).sqrt().float()


def write(config: KnnConfig, similarity: Tensor, rows: Tensor, accuracies: list[float], fixed: int) -> None:
    """Writes ``knn_stats_*.pt``, ``knn_accs_*.pt`` and ``knn_summary_*.json`` into ``--folder``.

    ``accuracies`` are those of k = 1, 2, ...; ``fixed`` is the index of the chosen one. ``best_k`` in the summary is
    chosen on the evaluation labels.
    """
    folder = Path(str(config.folder))
    names = "_".join([config.metric, str(config.source).split("_")[0], str(config.target).split("_")[0]])
    stats = {"distances": distances(similarity, config.metric), "indices": rows}
    of_k = torch.tensor(accuracies, dtype=torch.float64)
    best = int(of_k.argmax())
    summary: Record = {
        "acc": accuracies[best],
        "best_k": best + 1,
        "best_k_chosen_on": "the evaluation labels",
        "fixed_k": fixed + 1,
        "fixed_k_acc": accuracies[fixed],
    }
    write_atomically(folder / f"knn_stats_{names}.pt", lambda stream: torch.save(stats, stream))
    write_atomically(folder / f"knn_accs_{names}.pt", lambda stream: torch.save(of_k, stream))
    write_json(folder / f"knn_summary_{names}.json", summary)
