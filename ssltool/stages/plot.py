"""The plot stage: spectra, runs or a run's settings in, one picture out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ssltool.checkpoints.build import build_method
from ssltool.config import PlotConfig
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.files import load_dict
from ssltool.reprs.representations import Representations
from ssltool.runs.data_preview import schedule_of, views_of
from ssltool.runs.display_names import labels
from ssltool.runs.history import FinishedRun, read_runs, restore_setup


def run(config: PlotConfig) -> dict[str, Any]:
    """The stage: draws ``config.kind`` of ``config.inputs`` into ``config.out``.

    Returns:
        {"path", "kind", "inputs"}.

    Raises:
        SSLToolError: for inputs of another kind than the plot's, a flag that does nothing with it, or a picture that
            cannot be written.
    """
    config.check()
    out = str(config.out)
    DRAW[config.kind](config, out)
    return {"path": out, "kind": config.kind, "inputs": list(config.inputs)}


def _spectrum(config: PlotConfig, out: str) -> None:
    from ssltool.viz.spectra import plot_spectra

    values = [read_spectrum(path, config.type) for path in config.inputs]
    plot_spectra(dict(zip(labels(config.inputs), values, strict=True)), out, kind=config.type)


def read_spectrum(path: str, kind: str) -> Tensor:
    """The spectrum of one ``--type`` from a file that holds it, or singular values, or representations.

    Raises:
        SSLToolError: if the file has another spectrum, or does not say what is needed to convert it.
    """
    if "representations" in load_dict(path, mmap=True):
        rows = Rows([Representations.stored(path).representations], name=path)
        return measure(rows, ("auc",)).spectrum(kind)
    spectrum = Spectrum.load(path)
    has = spectrum.meta.get("type", "svd")
    if has == kind:
        return spectrum.stds
    if (has, kind) != ("svd", "cov"):
        raise SSLToolError(f"{path} holds a spectrum of type {has}, not {kind}; give its representations instead")
    if "n" not in spectrum.meta:
        raise SSLToolError(f"{path} does not say of how many rows it is, which cov needs; give its representations")
    return spectrum.stds.double().square() / max(1, spectrum.meta["n"] - 1)


def _curves(config: PlotConfig, out: str) -> None:
    from ssltool.viz.curves import curves_of, plot_curves

    runs = {run.name: run.records for run in read_runs(config.inputs)}
    if not curves_of(list(runs.values())):
        raise SSLToolError(f"no epoch is recorded in {', '.join(config.inputs)}; let the run finish one first")
    plot_curves(runs, out)


LABELS = {"images": "training images", "epoch": "epochs trained", "accuracy": "kNN accuracy of the backbone (%)"}
WIDE = 8.0
"""Numbers of images that are further apart than this factor are drawn on a logarithmic axis."""


def _auc(config: PlotConfig, out: str) -> None:
    from ssltool.viz.curves import Point, plot_auc

    points = []
    for run in read_runs(config.inputs):
        x, area = last_area(run, config.x, config.layer)
        points.append(Point(x, area, str(run.config[config.group_by]), run.name))
    places = [point.x for point in points]
    wide = config.x == "images" and max(places) > WIDE * min(places)
    plot_auc(points, out, xlabel=LABELS[config.x], layer=config.layer, wide=wide)


def last_area(run: FinishedRun, against: str, layer: str) -> tuple[float, float]:
    """Where the run stands along ``against`` (images, epoch or accuracy), and the AUC of its last monitored epoch.

    Raises:
        SSLToolError: if no epoch has what is needed.
    """
    key = f"{layer}_auc"
    records = [record for record in run.records if _finite(record.get(key))]
    if not records:
        raise SSLToolError(f"{run.path} has no {key} in its metrics.jsonl; pretrain writes it with --monitor-every")
    last = records[-1]
    if against == "images":
        return float(run.config["n_images"]), last[key]
    if against == "epoch":
        return last["epoch"] + 1.0, last[key]
    if not _finite(last.get("backbone_knn")):
        raise SSLToolError(
            f"{run.path} has no backbone_knn in its metrics.jsonl, which needs labels; choose another --x"
        )
    return 100.0 * last["backbone_knn"], last[key]


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _views(config: PlotConfig, out: str) -> None:
    from ssltool.viz.pictures import plot_views

    (run,) = read_runs(config.inputs)
    setup = restore_setup(run, config.data)
    method = build_method(run.config)
    plot_views(views_of(setup, method, config.rows, epoch=config.epoch), out)


def _schedule(config: PlotConfig, out: str) -> None:
    from ssltool.viz.schedule import plot_schedule

    (run,) = read_runs(config.inputs)
    plot_schedule(schedule_of(restore_setup(run, config.data), build_method(run.config), run.records), out)


DRAW: dict[str, Callable[[PlotConfig, str], None]] = {
    "spectrum": _spectrum,
    "curves": _curves,
    "auc": _auc,
    "views": _views,
    "schedule": _schedule,
}
