"""Prints the table at the end of ``evaluate.sh``, in Markdown, from the JSON files in the folder argument.

python pipelines/evaluate_table.py FOLDER NAME...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SHARES = ("0.1", "1")
HEADER = [
    "network",
    "verdict",
    "20-NN",
    *(f"linear, {float(share):.0%} of labels" for share in SHARES),
    *(f"fine-tuned, {float(share):.0%}" for share in SHARES),
    "k-means",
    "SCAN",
    "after self-labelling",
]


def row(folder: Path) -> list[str]:
    """The row of one network."""

    def document(name: str) -> dict[str, Any]:
        return json.loads((folder / f"{name}.json").read_text())

    (collapse,) = document("collapse")["files"]
    steps = document("scan")["steps"]
    clusters = [steps[step]["accuracy"] for step in ("kmeans", "cluster", "selflabel")]
    return [
        folder.name,
        collapse["verdict"]["state"],
        percent(document("knn")["accuracy"]),
        *(percent(document(f"linear-{share}")["acc1"]) for share in SHARES),
        *(tuned(document(f"finetune-{share}")["arms"]) for share in SHARES),
        *map(percent, clusters),
    ]


def tuned(arms: dict[str, Any]) -> str:
    """The accuracy of the only arm, with its standard deviation over the seeds."""
    (arm,) = arms.values()
    found = arm["acc1"]
    return percent(found["mean"]) + (f" ± {100 * found['sd']:.1f}" if found["sd"] is not None else "")


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def main(out: Path, names: list[str]) -> None:
    table = [HEADER, ["---"] * len(HEADER), *(row(out / name) for name in names)]
    print("\n".join("| " + " | ".join(cells) + " |" for cells in table))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
