"""Measures the checkpoints of a run for the live page, as ``report`` does: spectra, nearest neighbours and views.

``python -m ssltool.stages.watch.measuring RUN [EPOCH...]`` prints one JSON document and writes nothing. The checkpoints
after the EPOCHs (from 1) are known already and are left out.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.checkpoints.load import load_pretrained
from ssltool.config import NetworkSettings, ReportConfig
from ssltool.diagnosis.layer_metrics import measured_layer
from ssltool.diagnosis.metrics import MAIN
from ssltool.errors import SSLToolError
from ssltool.files.writing import to_json
from ssltool.runs.data_preview import views_of
from ssltool.runs.folder import RunFolder
from ssltool.runs.history import FinishedRun, read_runs, restore_setup
from ssltool.settings import Record
from ssltool.stages.report.contents import ReportedRun
from ssltool.stages.report.monitored import read_monitored
from ssltool.stages.report.report import measure_run, represent, sampled_rows
from ssltool.stages.report.sections import SECTIONS
from ssltool.training.progress import quiet
from ssltool.viz.spectra import NOISE

MOST_CHECKPOINTS = 24
"""Of more checkpoints, evenly spaced ones are measured; the last is always one."""

MOST_VALUES = 96
"""Singular values of a spectrum that are sent; of more, those of logarithmically spaced indices."""

SETTINGS = ReportConfig(size=512, neighbours=6, queries=6, rows=4, workers=0, device="cpu")
"""How much is measured: enough to see, and little beside the training."""

PICTURES = ("neighbours", "views")
"""The sections of a report that are shown."""


def measure(path: str, known: Collection[int] = ()) -> Record:
    """The measurements of the run folder, or of the folder of a monitor, ``path``; ``known`` are epochs from 1.

    Returns:
        {"images", "checkpoints": [{"epoch" or "step", "layers": {name: {"index", "s", "cumulative", metrics...}}},
        ...], "untrained": layers or None, "pictures": {section: HTML}}.

    Raises:
        SSLToolError: if there is no checkpoint, the images cannot be opened, or a checkpoint cannot be read.
    """
    (run,) = read_runs([path])
    if run.run is None:
        monitored = read_monitored(run)
        one = {"step": monitored.origin["step"], "layers": _reported(monitored)}
        return {"images": monitored.sampled, "checkpoints": [one], "untrained": None, "pictures": {}}
    files = _checkpoints(run)
    *earlier, last = files
    config = dataclasses.replace(SETTINGS, runs=(path,), checkpoint=files[last].name)
    device = torch.device("cpu")
    measured = measure_run(run, config, device)
    setup, done = restore_setup(run), measured.origin["epoch"]
    method = load_pretrained(NetworkSettings(pretrained=str(files[last])), device).method
    views = views_of(setup, method, config.rows, epoch=min(done, setup.epochs - 1), workers=0)
    measured = dataclasses.replace(measured, views=views)
    images = setup.images.select(sampled_rows(setup, config))
    checkpoints = [{"epoch": done, "layers": _reported(measured)}]
    for epoch in _spaced([epoch for epoch in earlier if epoch + 1 not in known]):
        network = load_pretrained(NetworkSettings(pretrained=str(files[epoch])), device)
        layers = {}
        for name in network.method.measured_layers:
            saved = represent(network, images, name, config, device)
            values, s = measured_layer(saved.representations, saved.meta.get("directions"), MAIN)
            if s is not None:
                layers[name] = _layer(s[: saved.meta.get("directions")], values)
        checkpoints.insert(-1, {"epoch": epoch + 1, "layers": layers})
    before = {
        layer.name: _layer(layer.untrained_s, layer.untrained or {})
        for layer in measured.layers
        if layer.untrained_s is not None
    }
    pictures = {name: SECTIONS.load(name)([measured]) for name in PICTURES}
    return {"images": measured.sampled, "checkpoints": checkpoints, "untrained": before, "pictures": pictures}


def _checkpoints(run: FinishedRun) -> dict[int, Path]:
    """The checkpoint files by their epoch from 0."""
    folder = RunFolder(run.path)
    files = folder.kept()
    if run.records and run.records[-1]["epoch"] not in files and folder.newest.exists():
        files[run.records[-1]["epoch"]] = folder.newest
    if not files:
        raise SSLToolError(f"{run.path} has no checkpoint yet")
    return files


def _spaced(epochs: list[int]) -> list[int]:
    places = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_CHECKPOINTS - 1)).round().astype(int))
    return [epochs[place] for place in places]


def _reported(one: ReportedRun) -> Record:
    return {layer.name: _layer(layer.s, layer.metrics) for layer in one.layers}


def _layer(s: Tensor, metrics: Record) -> dict[str, Any]:
    """A spectrum at some of its indices (from 1), with the share of the sum up to each, and metrics."""
    values = np.sort(s.double().numpy())[::-1]
    index = np.unique(np.geomspace(1, len(values), min(len(values), MOST_VALUES)).round().astype(int))
    total = values.sum()
    cumulative = np.cumsum(values) / total if total > 0 else np.ones_like(values)
    shown = [s if s > NOISE * values[0] else None for s in _rounded(values[index - 1])]
    found = {"index": index.tolist(), "s": shown, "cumulative": _rounded(cumulative[index - 1])}
    return found | {name: metrics[name] for name in MAIN if name in metrics}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def main() -> None:
    """Prints the document of the run that the command line names; an error is one line and exit code 1."""
    torch.set_num_threads(1)
    path, *known = sys.argv[1:]
    try:
        with quiet():
            document = measure(path, {int(epoch) for epoch in known})
    except SSLToolError as error:
        sys.exit(f"error: {error}")
    print(to_json(document))


if __name__ == "__main__":
    main()
