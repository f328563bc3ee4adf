"""The scripts of the study as modules. They import each other by name, as they do when they are run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

STUDY = Path(__file__).parents[1] / "pipelines" / "study"
STUDY_TABLE = Path(__file__).parents[1] / "docs" / "_static" / "study.csv"

sys.path.insert(0, str(STUDY))
capacity, design, early, estimates, figures, fit_forecast, forecasts, gather, prepare, report, results, run = map(
    importlib.import_module,
    (
        "capacity",
        "design",
        "early",
        "estimates",
        "figures",
        "fit_forecast",
        "forecasts",
        "gather",
        "prepare",
        "report",
        "results",
        "run",
    ),
)
sys.path.remove(str(STUDY))
