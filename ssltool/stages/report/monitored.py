"""What a report shows of the folder of a monitor: its looks, and the layers at the last look with a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

import ssltool
from ssltool.diagnosis.alarms import judge_look
from ssltool.diagnosis.metrics import METRICS
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError, counted
from ssltool.files.reading import require
from ssltool.runs.history import FinishedRun
from ssltool.runs.monitor_folder import spectrum_file
from ssltool.settings import Record
from ssltool.stages.report.contents import Layer, ReportedRun


def read_monitored(run: FinishedRun) -> ReportedRun:
    """The contents of the report for the folder of a monitor, which has no checkpoint and no images.

    Raises:
        SSLToolError: if it has no look, or the spectrum of a layer is missing or of another look.
    """
    c = run.settings
    files = {name: spectrum_file(run.path, name) for name in c["layers"]}
    spectra = {name: _spectrum(file) for name, file in files.items()}
    step = max(spectrum.meta["step"] for spectrum in spectra.values())
    for name, spectrum in spectra.items():
        if spectrum.meta["step"] != step:
            raise SSLToolError(
                f"{files[name]} is of step {spectrum.meta['step']}, not {step}: the output of the {name} is not finite "
                "since then"
            )
    at = next((record for record in run.records if record["step"] == step), {})
    untrained = next((record for record in run.records if record["step"] == 0 and step > 0), {})
    looks = counted(len(run.records), "look")
    return ReportedRun(
        name=run.name,
        title=f"monitor · {looks}, the last with a verdict at step {step:,} · {c['n_images']:,} images",
        settings=c,
        records=run.records,
        origin={
            "checkpoint": None,
            "epoch": None,
            "step": step,
            "measured with": f"ssltool {c.get('ssltool', '')}, at step {step:,}",
            "plotted with": f"ssltool {ssltool.__version__}, matplotlib {matplotlib.__version__}",
        },
        measured_on=f"Measured by a monitor on {c['n_images']:,} images at step {step:,}",
        found=None,
        sampled=c["n_images"],
        layers=[_layer(name, spectrum, c, untrained) for name, spectrum in spectra.items()],
        loss=at.get("loss"),
        accuracy=at.get(f"{c['layers'][0]}_knn"),
        untrained_accuracy=untrained.get(f"{c['layers'][0]}_knn"),
    )


def _spectrum(file: Path) -> Spectrum:
    require(file, "spectrum of the monitor")
    spectrum = Spectrum.load(file)
    if not isinstance(spectrum.meta.get("step"), int):
        raise SSLToolError(f"{file} is no spectrum of a monitor; restore the file")
    return spectrum


def _layer(name: str, spectrum: Spectrum, settings: Mapping[str, Any], untrained: Record) -> Layer:
    """The results of a layer; ``untrained`` is the look at step 0, empty if there is none."""
    n, d = spectrum.meta["n"], spectrum.meta["d"]
    values = {key: float("nan") if value is None else value for key, value in spectrum.metrics.items()}
    verdict = judge_look(name, values, n=n, d=d, bound=settings["bounds"].get(name))
    values = {key: value for key, value in values.items() if key in METRICS}
    start = {key: untrained.get(f"{name}_{key}") for key in values}
    known = {key: float("nan") if value is None else value for key, value in start.items()} if untrained else None
    return Layer(name, values, spectrum.possible(), d, [], verdict, known)
