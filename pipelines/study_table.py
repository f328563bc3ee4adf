"""Prints the tables of docs/study.md from the JSON files of collapse_study.sh in the folder argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

ENDS = {
    "auc": 1.0,
    "effective_rank": 1.0,
    "rankme": 1.0,
    "participation_ratio": 1.0,
    "stable_rank": 1.0,
    "dead_directions": 1.0,
    "feature_std": 0.0,
    "mean_cosine": 1.0,
    "self_cluster": 1.0,
    "uniformity": 0.0,
    "twonn": 0.0,
    "lidar": 1.0,
}
"""The value of each metric at complete collapse."""

OTHERS = ("alpha", "alignment")
SEEN = 0.25
"""A metric detects a collapse if it covers at least this share of the distance from healthy to collapsed."""

PAIRS = {
    "no-stop-gradient": "w16-100",
    "teacher-sgd": "teacher-untrained",
    "teacher-frozen": "teacher-untrained",
    "teacher-copy": "teacher-untrained",
    "teacher-ema": "teacher-untrained",
}
"""Known collapses and their reference runs; the teacher study has no healthy regime."""

GRID = [f"w{width}-{share}" for width in (16, 32, 64) for share in (5, 25, 100)]
PASSES = ["w16-single-pass", "w32-single-pass"]


def main(out: Path) -> None:
    """Prints the tables."""
    layers: dict[str, dict[str, dict[str, Any]]] = {"backbone": {}, "projector": {}}
    for layer, file in (("backbone", "train_reprs_e0"), ("projector", "projector")):
        for found in json.loads((out / f"{file}.json").read_text())["files"]:
            values = {"verdict": found["verdict"]["state"], **found["metrics"]}
            layers[layer][run_of(found["path"], out)] = values
    for found in json.loads((out / "views.json").read_text())["files"]:
        layers["backbone"][run_of(found["path"], out)] |= found["metrics"]
    runs = list(layers["backbone"])
    accuracy = {run: json.loads((out / run / "knn.json").read_text())["accuracy"] for run in runs}
    loss = {run: last_loss(out / run) for run in runs}
    for layer, found in layers.items():
        print(f"\n{layer}\n")
        names = [name for name in (*ENDS, *OTHERS) if name in found[runs[0]]]
        rows = [
            [run, loss[run], f"{accuracy[run]:.1%}", found[run]["verdict"], *(number(found[run][n]) for n in names)]
            for run in runs
        ]
        markdown(["run", "loss", "20-NN", "verdict", *names], rows)
    print("\ndetects (+) or misses (-) a collapse\n")
    rows = []
    for layer, found in layers.items():
        names = [name for name in ENDS if name in found[runs[0]]]
        for run, healthy in PAIRS.items():
            marks = {name: mark(found[run][name], found[healthy][name], ENDS[name]) for name in names}
            rows.append([f"{run}, {layer}", *(marks.get(name, "") for name in ENDS)])
    markdown(["collapse", *ENDS], rows)
    print("\nSpearman correlation of each metric's order with 20-NN accuracy, backbone\n")
    rows = []
    for title, chosen in (("capacity and data", GRID), ("all SimSiam", [*GRID, *PASSES, "no-stop-gradient"])):
        row = [f"{title} ({len(chosen)} runs)"]
        for name, end in ENDS.items():
            values = [layers["backbone"][run][name] for run in chosen]
            sign = -1.0 if end > values[0] else 1.0
            known = len(set(values)) > 1
            rho = sign * spearmanr(values, [accuracy[run] for run in chosen]).statistic if known else 0.0
            row.append(f"{rho:+.2f}" if known else "-")
        rows.append(row)
    markdown(["runs", *ENDS], rows)


def run_of(path: str, out: Path) -> str:
    """The run that a file of representations belongs to."""
    return Path(path).relative_to(out).parts[0]


def last_loss(run: Path) -> str:
    """The loss of a run's last epoch; empty for an untrained network."""
    log = run / "metrics.jsonl"
    return f"{json.loads(log.read_text().splitlines()[-1])['loss']:.3f}" if log.exists() else ""


def mark(value: float | None, healthy: float | None, end: float) -> str:
    """``+`` if ``value`` is far enough from the healthy value towards ``end``, else ``-``."""
    if value is None or healthy is None:
        return ""
    return "+" if (value - healthy) / (end - healthy) >= SEEN else "-"


def number(value: float | None) -> str:
    """Three significant digits, or a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def markdown(header: list[str], rows: list[list[str]]) -> None:
    """Prints a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
