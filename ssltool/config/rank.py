"""The settings of ``ssltool rank``."""

from __future__ import annotations

from dataclasses import dataclass

from ssltool.config.common import LAYERS
from ssltool.settings import Checked, setting


@dataclass(frozen=True)
class RankConfig(Checked):
    """Settings of ``ssltool rank``."""

    items: tuple[str, ...] = setting((), "run folders of pretrain, or files of representations")
    by: str = setting(
        "auc",
        "metric to order by: of a run folder one that the monitor records, of a file of representations any",
        metavar="METRIC",
    )
    layer: str = setting("backbone", "whose output the metric looks at", choices=LAYERS)
    checkpoints: bool = setting(
        False, "a row for each kept checkpoint of a run, instead of one for its last monitored epoch"
    )
    accuracy: str | None = setting(
        None,
        "accuracy to compare with: the monitor's (knn), that of lincls runs (linear), or a .csv file with the columns "
        "run and accuracy [default: knn where it is recorded]",
        metavar="knn|linear|FILE",
    )
    probes: tuple[str, ...] = setting(
        (),
        "run folder of lincls, for --accuracy linear; repeatable, and such folders may stand among the ITEMs",
        metavar="DIR",
    )
    fit: str | None = setting(
        None, "learn a forecast of the accuracy from metrics, and write it to this .json file", metavar="FORECAST"
    )
    features: str | None = setting(
        None,
        "metrics that --fit learns from, separated by commas; projector_auc names another layer's "
        "[default: auc,feature_std]",
        metavar="A,B",
    )
    predict: str | None = setting(None, "forecast accuracies by a file that --fit wrote", metavar="FORECAST")
    out: str | None = setting(
        None, "write the table to this .csv or .json file", "-o", section="Output", metavar="FILE"
    )
