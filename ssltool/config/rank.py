"""The settings of ``ssltool rank``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssltool.config.fields import LAYERS, METRICS, SETS_OF_METRICS, output, pool_rows, wrong_suffix
from ssltool.settings import Checked, Rule, setting


@dataclass(frozen=True)
class RankConfig(Checked):
    """Settings of ``ssltool rank``."""

    items: tuple[str, ...] = setting((), "run folders of pretrain or of a monitor, or files of representations")
    by: str = setting(
        "auc",
        "metric to sort by: for a run folder, one that the monitor records; for a file of representations, any",
        metavar="METRIC",
        names=METRICS,
    )
    layer: str = setting(
        "backbone", f"layer whose output is measured: {', '.join(LAYERS)}, or one that a monitor names", metavar="LAYER"
    )
    pool: str | None = pool_rows()
    checkpoints: bool = setting(
        False, "one row for each kept checkpoint of a run, instead of one for its last monitored epoch"
    )
    accuracy: str | None = setting(
        None,
        "accuracy to compare with: the monitor's (knn), that of lincls runs (linear), or a .csv file with the columns "
        "run and accuracy [default: knn if recorded]",
        metavar="knn|linear|FILE",
    )
    probes: tuple[str, ...] = setting(
        (),
        "run folder of lincls for --accuracy linear; repeatable. Such folders may also be among the ITEMs",
        metavar="DIR",
    )
    fit: str | None = setting(
        None,
        "fit a linear forecast of the accuracy to metrics and write it to this .json file",
        metavar="FORECAST",
        writes=True,
    )
    features: str | None = setting(
        None,
        "comma-separated metrics for --fit; projector_auc is the auc of the projector, loss the training loss "
        "[default: auc,feature_std]",
        metavar="A,B",
        names=METRICS,
    )
    predict: str | None = setting(
        None,
        "forecast accuracies with a file that --fit wrote, or with the one of the documentation's study: study",
        metavar="FORECAST",
    )
    out: str | None = output("write the table to this .csv or .json file")

    def conflicts(self) -> list[Rule]:
        return [
            *super().conflicts(),
            (("features",), self.fit is None, "without --fit"),
            (("probes",), self.accuracy != "linear", "without --accuracy linear"),
        ]

    def mistakes(self) -> Iterator[str]:
        if len(self.by.split(",")) != 1 or self.by in SETS_OF_METRICS:
            yield f"--by {self.by}: name one metric"
        if self.fit is not None and self.predict is not None:
            yield "--fit learns a forecast and --predict applies one; use one of them"
        if self.accuracy not in (None, "knn", "linear") and Path(str(self.accuracy)).suffix != ".csv":
            yield f"--accuracy is '{self.accuracy}'; it must be knn, linear, or a .csv file"
        yield from wrong_suffix("fit", self.fit, ".json")
        yield from wrong_suffix("out", self.out, ".csv", ".json")
