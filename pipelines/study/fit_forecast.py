"""Fits the forecast of docs/study-plan.md and writes it as ``ssltool rank --fit`` does:

    python pipelines/study/fit_forecast.py study.csv FORECAST.json [FEATURES]

It is of the accuracy of the linear probe after the last epoch, from what the monitor of ``pretrain`` records then: by
default ``auc,loss`` of the backbone. The rows are the runs of SimSiam on Fashion-MNIST that start from the beginning;
the file has their names, not paths. Printed is the error for the runs of a network that is left out, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from estimates import forecast
from results import last, read

from ssltool.errors import SSLToolError
from ssltool.stages.rank.forecast import Forecast, feature_keys, fit, record_key


def fitted(rows: pd.DataFrame, features: str) -> Forecast:
    """The forecast from ``features``, names as of ``rank --features``."""
    keys = feature_keys(features, "backbone")
    columns = columns_of(keys)
    if missing := [name for name in columns if name not in rows]:
        raise SSLToolError(f"the table has no {', '.join(missing)}; use features that the monitor recorded")
    runs = fashion(rows).dropna(subset=["probe", *columns])
    domain = {"method": ["simsiam"], "arch": sorted(runs["arch"].unique()), "dataset": ["fashion-mnist"]}
    return fit(
        keys,
        runs[columns].to_numpy(dtype=float),
        runs["probe"].to_numpy(dtype=float),
        accuracy="linear",
        runs=list(runs["run"]),
        domain=domain,
    )


def fashion(rows: pd.DataFrame) -> pd.DataFrame:
    """The last rows of the runs of the forecast. The accuracy on emoji is another one, the mean of the classes."""
    runs = last(rows)
    return runs[(runs["method"] == "simsiam") & (runs["data"] == "fashion") & runs["parent"].isna()]


def columns_of(keys: list[tuple[str, str]]) -> list[str]:
    """The columns of the table with what the monitor recorded of these features."""
    return [f"m_{record_key(*key).removeprefix('backbone_')}" for key in keys]


def main() -> None:
    """Writes the file, and prints what it is worth."""
    if len(sys.argv) not in (3, 4):
        sys.exit("error: name the table of results and the file, as in fit_forecast.py study.csv forecast.json")
    rows = read(Path(sys.argv[1]))
    try:
        found = fitted(rows, sys.argv[3] if len(sys.argv) == 4 else "auc,loss")
        found.save(sys.argv[2])
    except SSLToolError as error:
        sys.exit(f"error: {error}")
    columns = columns_of([(feature.layer, feature.metric) for feature in found.features])
    of_others = forecast(fashion(rows), columns, "probe", "arch").error
    print(f"{found.rows} runs: R^2 {found.r2:.3f}, leave-one-out error {100 * found.loo_error:.2f} points")
    print(f"error for a network that is left out: {100 * of_others:.2f} points")


if __name__ == "__main__":
    main()
