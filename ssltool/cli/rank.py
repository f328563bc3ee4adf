"""``ssltool rank``."""

from __future__ import annotations

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, note, table
from ssltool.config import RankConfig
from ssltool.errors import counted
from ssltool.settings import Record

ACCURACY = {"knn": "kNN accuracy", "linear": "linear-probe accuracy", "file": "the accuracy in the table"}

IDENTITY, COMPARED = ("rank", "run", "epoch", "method", "arch", "strategy", "step"), ("loss", "knn")
RESULTS = ("verdict", "accuracy", "forecast", "error")
"""The columns that are printed, with the metric."""


@click.command("rank", cls=Command)
@click.argument("items", metavar="ITEM...", nargs=-1, required=True)
@settings(RankConfig, positional=("items",))
@json_option
def command(config: RankConfig, as_json: bool) -> None:
    """Rank runs or checkpoints by a metric that needs no labels, and measure its agreement with accuracy.

    ITEM is a run folder of pretrain, whose monitor recorded the metrics, or a file of representations, which is
    measured now. The best is first: the lowest auc, the highest effective_rank, the alpha nearest to 1. The line below
    the table names the order. --checkpoints also shows the loss, the kNN accuracy and, without a rank, the untrained
    network. --out has the columns of ssltool table too.

    Agreement is Spearman's and Kendall's rank correlation with 95 % intervals: +1 for the same order as the accuracies,
    0 for no relation, -1 for the reverse order. --fit fits a linear forecast of accuracy to runs with known accuracy,
    --predict applies it to others. Compare its error with that of always predicting the mean. --predict study applies
    the forecast of the documentation's study, which was fitted to small networks on Fashion-MNIST.

    \b
    ssltool rank logs/*/
    ssltool rank logs/simsiam-resnet18-iid_0000 --checkpoints --by effective_rank
    ssltool rank logs/*/ --accuracy linear --fit forecast.json --features auc,loss
    ssltool rank new/*/ --predict forecast.json --out table.csv
    """
    from ssltool.stages.rank.rank import run

    result = run(config)
    for text in result["notes"]:
        note(text)
    emit(result, _text(result, config), as_json)


def _text(result: Record, config: RankConfig) -> str:
    from ssltool.diagnosis.metrics import METRICS

    by, rows = result["by"], result["rows"]
    shown = [*IDENTITY, by, *(COMPARED if config.checkpoints else ()), *RESULTS]
    if config.checkpoints and result["accuracy"] == "knn":  # the same as knn
        shown.remove("accuracy")
    if all(row["epoch"] is not None for row in rows if not row.get("untrained")):
        shown.remove("step")
    columns = [key for key in shown if any(row.get(key) is not None for row in rows)]
    parts = [table([[row[key] for key in columns] for row in map(_shown, rows)], columns)]
    parts.append(f"ordered by {by} of the {result['layer']}, {result['order']} ({METRICS[by].interpretation})")
    if (found := result["agreement"]) is not None:
        lines = [[name, f"{found[name]['value']:+.3f}", _interval(found[name])] for name in ("spearman", "kendall")]
        title = (
            f"agreement with {ACCURACY[result['accuracy']]} over {counted(found['rows'], 'row')}, +1 is the same order"
        )
        parts.append(f"{title}\n" + table(lines, ["", "value", "95 % interval"]))
    if (forecast := result["forecast"]) is not None:
        parts.append(_forecast(forecast))
    if result["forecast_error"] is not None:
        parts.append(f"error of the forecast of these rows: {result['forecast_error']:.4g} (root mean square)")
    if config.fit is not None:
        parts.append(f"the forecast is in {cell(config.fit)}")
    return "\n\n".join(parts)


def _shown(row: Record) -> Record:
    """A row of the table, where epochs count from 1."""
    return row if row["epoch"] is None else row | {"epoch": row["epoch"] + 1}


def _interval(found: dict[str, float]) -> str:
    return f"{found['low']:+.2f} .. {found['high']:+.2f}"


def _forecast(forecast: Record) -> str:
    """The coefficients of a forecast, and whether it is better than the mean."""
    from ssltool.stages.rank.forecast import DOMAIN, record_key

    lines = [[record_key(f["layer"], f["metric"]), f["coefficient"], f["mean"]] for f in forecast["features"]]
    head = f"forecast of {ACCURACY[forecast['accuracy']]}, fitted to {counted(forecast['rows'], 'row')}"
    tail = (
        f"R^2 {forecast['r2']:.3f}; leave-one-out error {forecast['loo_error']:.4g}, "
        f"of forecasting the mean {forecast['loo_error_of_mean']:.4g}"
    )
    if forecast["loo_error"] >= forecast["loo_error_of_mean"]:
        tail += ": no better than the mean"
    for name, error in forecast["group_errors"].items():
        tail += f"\nerror for another {DOMAIN[name]}: {error:.4g}"
    return f"{head}\n{table([['intercept', forecast['intercept'], '-'], *lines], ['', 'weight', 'mean'])}\n{tail}"
