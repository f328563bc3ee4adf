"""The report stage: run folders in, one page out that opens anywhere and loads nothing from a network."""

from __future__ import annotations

import importlib
import platform
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

import ssltool
from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.config import NetworkSettings, ReportConfig, SaveReprsConfig
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import MAIN
from ssltool.diagnosis.monitor import KNN_NEIGHBOURS, knn_accuracy
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.verdict import NEEDED, judge_measured
from ssltool.errors import SSLToolError
from ssltool.files import load_dict, write_atomically
from ssltool.reprs.extract import extract_all
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representations import Representations
from ssltool.runs.data_preview import pixels, schedule_of, views_of
from ssltool.runs.history import FinishedRun, read_runs, restore_setup
from ssltool.stages.report.contents import Layer, Neighbours, ReportedRun, Shown
from ssltool.stages.report.html import element, escape, page
from ssltool.stages.report.sections import SECTIONS
from ssltool.training.device import pick_device
from ssltool.training.setup import TrainingSetup
from ssltool.viz.pictures import EmbeddingMap

MAP_POINTS = 1000
"""Points of a map at most; more would hide one another and make the page large."""


def run(config: ReportConfig) -> dict[str, Any]:
    """The stage: measures each run's checkpoint on some of its own training images, and writes the page.

    Returns:
        {"report", "bytes", "runs": [{"run", "name", "checkpoint", "epoch", "images", "verdict", "layers": {layer:
        {"verdict", "line", "why", "notes", "metrics"}}, "knn", "k"}, ...]}.

    Raises:
        SSLToolError: for a folder that holds no run, images that have moved, weights that do not fit, a map that needs
            a missing package, or a page that cannot be written.
    """
    config.check()
    if config.map == "tsne":
        _tsne()
    device = pick_device(config)
    runs = read_runs(config.runs)
    own = all(one.saved.settings["data"] is None for one in runs)  # then --data is refused, else it is for the others
    data = [config.data if own or one.saved.settings["data"] is not None else None for one in runs]
    reported = [measure_run(one, config, device, folder) for one, folder in zip(runs, data, strict=True)]
    text = make_page(reported, config.title).encode("utf-8", errors="replace")
    write_atomically(config.out, lambda stream: stream.write(text))
    return {
        "report": config.out,
        "bytes": len(text),
        "runs": [_summary(run, one) for run, one in zip(runs, reported, strict=True)],
    }


def measure_run(run: FinishedRun, config: ReportConfig, device: torch.device, data: str | None = None) -> ReportedRun:
    """Everything that the report shows of one run. ``data`` is the folder of its images, if they have moved.

    Raises:
        SSLToolError: as ``run``.
    """
    file = run.path / config.checkpoint
    setup = restore_setup(run, data)
    network = load_pretrained(NetworkSettings(pretrained=str(file)), device)
    rows = np.sort(np.random.RandomState(config.seed).permutation(len(setup.images))[: config.size])
    images = setup.images.select(rows)
    found = {name: _represent(network, images, name, config, device) for name in _watched(network, device)}
    backbone = found["backbone"]
    return ReportedRun(
        name=run.name,
        config=run.saved.settings,
        records=run.records,
        origin=_origin(network, config, file, device),
        images=setup.images.describe(),
        sampled=len(images),
        layers=[_layer(reprs, run) for reprs in found.values()],
        neighbours=_neighbours(backbone, setup, rows, config),
        map=_map(backbone, config),
        views=views_of(setup, network.method, config.rows, workers=config.workers),
        schedule=schedule_of(setup, network.method, run.records),
    )


def _represent(
    network: Pretrained, images: Any, layer: str, config: ReportConfig, device: torch.device
) -> Representations:
    settings = SaveReprsConfig(layer=layer, workers=config.workers)
    return extract_all(network, images, settings, device)


def _watched(network: Pretrained, device: torch.device) -> list[str]:
    """The layers that are monitored for collapse, of those that this method has."""
    watched = network.method.monitored_layers
    two = torch.zeros(2, 3, network.image_size, network.image_size, device=device)
    with torch.inference_mode():
        there = network.method.outputs(two, watched[-1])
    return [name for name in watched if name in there]


def _layer(reprs: Representations, run: FinishedRun) -> Layer:
    x, name = reprs.representations, reprs.meta["layer"]
    broken = int((~torch.isfinite(x).all(dim=1)).sum())
    if broken:
        raise SSLToolError(
            f"{run.path}: the {name} makes NaN or infinite values of {broken} of {len(x)} images, so the run diverged; "
            "report an earlier --checkpoint"
        )
    measured = measure(Rows([x]), tuple(dict.fromkeys((*MAIN, *NEEDED))))
    return Layer(name, measured, judge_measured(measured, reprs.meta))


def _origin(network: Pretrained, config: ReportConfig, file: Path, device: torch.device) -> dict[str, Any]:
    stored = load_dict(file, mmap=True)
    return {
        "checkpoint": config.checkpoint,
        "sha256": network.origin["checkpoint_hash"],
        "epoch": network.origin["epoch"],
        "trained with": f"ssltool {stored['ssltool']}, torch {stored['torch']}",
        "measured with": f"ssltool {ssltool.__version__}, torch {torch.__version__}, {device.type}",
        "drawn with": f"matplotlib {matplotlib.__version__}, Python {platform.python_version()}",
    }


def _neighbours(reprs: Representations, setup: TrainingSetup, rows: np.ndarray, config: ReportConfig) -> Neighbours:
    """The neighbours of some images, one of each class where there are classes, and the vote of all."""
    x, targets = reprs.representations, reprs.targets
    ids = torch.arange(len(x))
    queries = _queries(targets, config.queries)
    similarity, near = neighbours(x, x[queries], k=min(config.neighbours, len(x) - 1), skip=(ids, ids[queries]))

    def shown(row: int, cosine: float = 1.0) -> Shown:
        label = int(targets[row])
        names = setup.images.classes
        name = None if label < 0 else names[label] if label < len(names) else str(label)
        return Shown(pixels(setup.images, int(rows[row])), name, cosine)

    found = [
        [shown(int(row), 1.0 + float(s)) for row, s in zip(rows_, cosines, strict=True)]
        for rows_, cosines in zip(near, similarity, strict=True)
    ]
    return Neighbours([shown(int(row)) for row in queries], found, KNN_NEIGHBOURS, knn_accuracy(x, targets).get("knn"))


def _queries(targets: Tensor, count: int) -> Tensor:
    """The first image of each class, of ``count`` classes evenly over all; without classes, images evenly over all."""
    classes = targets[targets >= 0].unique()
    if len(classes) < 2:
        return torch.linspace(0, len(targets) - 1, min(count, len(targets))).long()
    chosen = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).long()]
    return torch.stack([(targets == number).nonzero()[0, 0] for number in chosen])


def _map(reprs: Representations, config: ReportConfig) -> EmbeddingMap:
    x = reprs.representations.double()
    some = torch.linspace(0, len(x) - 1, min(MAP_POINTS, len(x))).long()
    labels, classes = reprs.targets[some].numpy(), tuple(reprs.meta["classes"])
    if config.map == "tsne":
        perplexity = min(30.0, (len(x) - 1) / 3)
        points = _tsne()(2, init="pca", perplexity=perplexity, random_state=config.seed).fit_transform(x.numpy())
        return EmbeddingMap(np.asarray(points)[some.numpy()], labels, classes, ("t-SNE 1", "t-SNE 2"))
    u, s, _ = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    axes = u[:, :2] * s[:2]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # of two mirror images always one
    shares = s.square() / s.square().sum().clamp(min=1e-300)
    titles = [f"principal component {i + 1} ({float(share):.0%} of the variance)" for i, share in enumerate(shares[:2])]
    if axes.shape[1] < 2:
        axes, titles = torch.nn.functional.pad(axes, (0, 1)), [*titles, ""]
    return EmbeddingMap(axes[some].numpy(), labels, classes, (titles[0], titles[1]))


def _tsne() -> Any:
    try:
        return importlib.import_module("sklearn.manifold").TSNE
    except ImportError as error:
        raise SSLToolError("--map tsne needs scikit-learn; pip install scikit-learn, or leave it at pca") from error


def make_page(reported: list[ReportedRun], title: str | None = None) -> str:
    """The page of these runs."""
    names = [one.name for one in reported]
    heading = title or (names[0] if len(names) == 1 else f"{len(names)} runs, side by side")
    header = element("h1", escape(heading)) + element("p", escape(_lead(reported)), class_="summary")
    parts = [(name, section.title, SECTIONS.load(name)(reported)) for name, section in SECTIONS.items()]
    sampled = [f"{count:,}" for count in sorted({one.sampled for one in reported})]
    footer = element(
        "p",
        f"Made by ssltool {ssltool.__version__} from the run folders alone: {' or '.join(sampled)} training images of "
        "each run, by the validation transform, the network in eval mode.",
    )
    return page(heading, header, parts, footer)


def _lead(reported: list[ReportedRun]) -> str:
    """What came out, in a sentence, and of which images."""
    healthy = [one.name for one in reported if one.worst.severity == 0]
    images = "; ".join(dict.fromkeys(one.images for one in reported))
    if len(reported) == 1:
        state = reported[0].worst.state
        return ("Healthy." if healthy else f"There is {state} collapse.") + f" Trained on {images}."
    ill = [f"{one.name}: {one.worst.state} collapse" for one in reported if one.worst.severity]
    said = [f"{len(healthy)} of {len(reported)} runs {'is' if len(healthy) == 1 else 'are'} healthy", "; ".join(ill)]
    return f"{'. '.join(filter(None, said))}. Trained on {images}."


def _summary(run: FinishedRun, one: ReportedRun) -> dict[str, Any]:
    layers = {
        layer.name: {
            "verdict": layer.verdict.state,
            "line": layer.verdict.line,
            "why": layer.verdict.why,
            "notes": layer.measured.notes,
            "metrics": layer.measured.metrics,
        }
        for layer in one.layers
    }
    return {
        "run": str(run.path),
        "name": run.name,
        "checkpoint": one.origin["checkpoint"],
        "epoch": one.origin["epoch"],
        "images": one.sampled,
        "verdict": one.worst.state,
        "layers": layers,
        "knn": one.neighbours.accuracy,
        "k": one.neighbours.k,
    }
