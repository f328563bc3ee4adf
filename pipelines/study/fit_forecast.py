"""Fits the forecast that ``ssltool rank --predict study`` applies, as docs/study-plan.md describes:

    python pipelines/study/fit_forecast.py study.csv [FORECAST.json [FEATURES]]

It is of the accuracy of the linear probe after the last epoch, from what the monitor of ``pretrain`` records then: by
default ``auc,loss`` of the backbone. The rows are the runs of SimSiam on Fashion-MNIST that start from the beginning;
the file has their names, not paths. Without FORECAST.json the file of the package is replaced.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from forecasts import fashion
from results import read

from ssltool.errors import SSLToolError
from ssltool.stages.rank import forecast
from ssltool.stages.rank.forecast import Forecast, feature_keys, fit, record_key

SHIPPED = Path(forecast.__file__).with_name(forecast.BUILT_IN["study"])


def fitted(rows: pd.DataFrame, features: str = "auc,loss") -> Forecast:
    """The forecast from ``features``, names as of ``rank --features``."""
    keys = feature_keys(features, "backbone")
    columns = [f"m_{record_key(*key).removeprefix('backbone_')}" for key in keys]
    if missing := [name for name in columns if name not in rows]:
        raise SSLToolError(f"the table has no {', '.join(missing)}; use features that the monitor recorded")
    runs = fashion(rows).dropna(subset=["probe", *columns])
    return fit(
        keys,
        runs[columns].to_numpy(dtype=float),
        runs["probe"].to_numpy(dtype=float),
        accuracy="linear",
        runs=list(runs["run"]),
        origins=[{"method": "simsiam", "arch": arch, "dataset": "fashion-mnist"} for arch in runs["arch"]],
    )


def main() -> None:
    """Writes the file, and prints what it is worth."""
    if not 2 <= len(sys.argv) <= 4:
        sys.exit("error: name the table of results, as in fit_forecast.py study.csv")
    file = sys.argv[2] if len(sys.argv) > 2 else SHIPPED
    try:
        found = fitted(read(Path(sys.argv[1])), *sys.argv[3:])
        found.save(file)
    except SSLToolError as error:
        sys.exit(f"error: {error}")
    print(f"{found.rows} runs: R^2 {found.r2:.3f}, leave-one-out error {100 * found.loo_error:.2f} points")
    print(f"error for another architecture: {100 * found.group_errors['arch']:.2f} points")


if __name__ == "__main__":
    main()
