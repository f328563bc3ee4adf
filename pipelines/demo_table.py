"""Prints the table at the end of ``demo.sh`` from the JSON files in the folder argument."""

from __future__ import annotations

import json
import sys
from pathlib import Path

RUNS = ("untrained", "simsiam", "no-stop-gradient")


def main(out: Path) -> None:
    layers = {layer: json.loads((out / f"collapse-{layer}.json").read_text()) for layer in ("backbone", "projector")}
    rows = [
        ("", "20-NN", "linear", "backbone AUC", "eff. rank", "projection AUC", "eff. rank", "feature_std", "last loss")
    ]
    for i, run in enumerate(RUNS):
        knn = json.loads((out / run / "knn.json").read_text())["accuracy"]
        linear = json.loads((out / run / "lincls.json").read_text())["acc1"]
        backbone, projection = (layers[layer]["files"][i]["metrics"] for layer in ("backbone", "projector"))
        metrics = out / run / "metrics.jsonl"
        loss = f"{json.loads(metrics.read_text().splitlines()[-1])['loss']:.3f}" if metrics.exists() else "-"
        rows.append(
            (
                run,
                f"{knn:.1%}",
                f"{linear:.1%}",
                f"{backbone['auc']:.3f}",
                f"{backbone['effective_rank']:.1f}",
                f"{projection['auc']:.3f}",
                f"{projection['effective_rank']:.1f}",
                f"{projection['feature_std']:.3f}",
                loss,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print()
    for row in rows:
        print(
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )
    print(
        "\nAccuracies are those of the backbone. Effective rank: the effective number of dimensions.\n"
        "AUC: 0.5 flat, 1 collapsed. feature_std of the projection: 1 healthy, 0 collapsed.\n"
        "The loss does not show the collapse. "
        f"Plots: {out}/spectra-backbone.png, {out}/spectra-projector.png"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
