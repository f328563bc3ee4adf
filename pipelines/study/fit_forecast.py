"""Fits the forecast of docs/study-plan.md and writes it as ``ssltool rank --fit`` does:

    python pipelines/study/fit_forecast.py study.csv FORECAST.json [FEATURES]

It is of the accuracy of the linear probe after the last epoch, from what the monitor of ``pretrain`` records then: by
default ``auc,loss`` of the backbone. The rows are the runs of SimSiam that start from the beginning.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from results import last, read

from ssltool.stages.rank.forecast import LOSS, Forecast, feature_keys, fit


def fitted(rows: pd.DataFrame, features: str) -> Forecast:
    """The forecast from ``features``, names as of ``rank --features``."""
    keys = feature_keys(features, "backbone")
    columns = ["m_loss" if key == LOSS else f"m_{'' if key[0] == 'backbone' else key[0] + '_'}{key[1]}" for key in keys]
    runs = last(rows)
    runs = runs[(runs["method"] == "simsiam") & runs["parent"].isna()].dropna(subset=["probe", *columns])
    domain = {"method": ["simsiam"], "arch": sorted(runs["arch"].unique())}
    return fit(
        keys,
        runs[columns].to_numpy(dtype=float),
        runs["probe"].to_numpy(dtype=float),
        accuracy="linear",
        runs=list(runs["run"]),
        domain=domain,
    )


def main() -> None:
    """Writes the file, and prints what it is worth."""
    if len(sys.argv) not in (3, 4):
        sys.exit("error: name the table of results and the file, as in fit_forecast.py study.csv forecast.json")
    found = fitted(read(Path(sys.argv[1])), sys.argv[3] if len(sys.argv) == 4 else "auc,loss")
    found.save(sys.argv[2])
    print(f"{found.rows} runs: R^2 {found.r2:.3f}, leave-one-out error {100 * found.loo_error:.2f} points")


if __name__ == "__main__":
    main()
