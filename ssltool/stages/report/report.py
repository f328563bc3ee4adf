"""The report stage: an HTML page about one or several runs, in one file without external resources."""

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
from ssltool.data.found import record_of
from ssltool.data.image_files import pixels
from ssltool.data.images import ImageSet
from ssltool.data.workers import killed_workers
from ssltool.diagnosis.kinds import ratios
from ssltool.diagnosis.layer_metrics import KNN_NEIGHBOURS, MEASURED, knn_accuracy
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.verdict import compare, judge_measured
from ssltool.errors import SSLToolError, counted
from ssltool.files.text import escape_xml
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import write_atomically
from ssltool.models.backbones import token_layout
from ssltool.reprs.extract import extract_all
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.representations import Representations
from ssltool.runs.data_preview import image_name, schedule_of, views_of
from ssltool.runs.history import FinishedRun, read_runs, restore_setup
from ssltool.runs.patch_grids import grids_of_network
from ssltool.runs.untrained import untrained_network
from ssltool.settings import Record
from ssltool.stages.report.conclusion import plain_sentence
from ssltool.stages.report.contents import LabelledImage, Layer, Neighbours, ReportedRun
from ssltool.stages.report.html import page
from ssltool.stages.report.monitored import read_monitored
from ssltool.stages.report.sections import SECTIONS, Section
from ssltool.training.device import pick_device
from ssltool.training.progress import info
from ssltool.training.setup import TrainingSetup
from ssltool.viz.page import element, sizes
from ssltool.viz.patch_pictures import PatchPicture, patch_pictures
from ssltool.viz.pictures import EmbeddingMap

UNKNOWN = "of an unknown version"

MAP_POINTS = 1000
"""Maximum number of points of a map; more would overlap and increase the size of the page."""


@killed_workers()
def run(config: ReportConfig) -> Record:
    """The stage: measures the checkpoint of each run on a sample of its training images, and writes the page.

    Returns:
        {"report", "bytes", "runs": [{"run", "name", "checkpoint", "epoch", "images", "verdict", "layers": {layer:
        {"verdict", "line", "why", "kinds", "alone", "notes", "metrics", "untrained"}}, "knn", "untrained_knn", "k"},
        ...]}. "untrained" are the metrics of the untrained network, "alone" is the verdict without comparing with it.
        For the folder of a monitor, "checkpoint" and "epoch" are None.

    Raises:
        SSLToolError: for a folder without a run, missing images, weights that do not match the network, a map that
            requires a package that is not installed, or a page that cannot be written.
    """
    config.check()
    if config.map == "tsne":
        _tsne()
    device = pick_device(config)
    runs = read_runs(config.runs)
    if config.data is not None and all(run.run is None for run in runs):
        raise SSLToolError("--data does nothing for the folders of monitors, which have no images; leave it out")
    # --data applies to runs with image folders; if there are none, restore_setup refuses it.
    no_folders = all(run.settings.get("data") is None for run in runs)
    data = [config.data if no_folders or run.settings.get("data") is not None else None for run in runs]
    reported = [
        read_monitored(run) if run.run is None else measure_run(run, config, device, folder)
        for run, folder in zip(runs, data, strict=True)
    ]
    for one in reported:
        if missing := left_out(one):
            info(f"note: {one.name}: {missing}")
    text = make_page(reported, config.title).encode("utf-8", errors="replace")
    write_atomically(config.out, lambda stream: stream.write(text))
    return {
        "report": config.out,
        "bytes": len(text),
        "runs": [_summary(*pair) for pair in zip(runs, reported, strict=True)],
    }


def measure_run(run: FinishedRun, config: ReportConfig, device: torch.device, data: str | None = None) -> ReportedRun:
    """Computes the contents of the report for one run. ``data`` is the folder of its images, if it was moved.

    Raises:
        SSLToolError: as ``run``.
    """
    file = run.path / config.checkpoint
    setup = restore_setup(run, data)
    network = load_pretrained(NetworkSettings(pretrained=str(file)), device)
    if network.run.method is None:
        raise SSLToolError(f"{file} is a checkpoint of {network.run.program}, not of pretrain; copy it again")
    rows = sampled_rows(setup, config)
    images = setup.images.select(rows)
    layers = network.method.measured_layers
    reprs = {name: represent(network, images, name, config, device) for name in layers}
    start = untrained_network(file, device)
    before = {name: represent(start, images, name, config, device) for name in layers}
    backbone, origin = reprs["backbone"], _origin(network, config, file, device)
    return ReportedRun(
        name=run.name,
        title=_title(run, origin["epoch"]),
        settings=run.settings,
        records=run.records,
        origin=origin,
        measured_on=f"Trained on {setup.images.describe()}",
        found=record_of(setup.images),
        sampled=len(images),
        layers=[_layer(of_layer, before[name], run) for name, of_layer in reprs.items()],
        loss=next((record.get("loss") for record in run.records if record["epoch"] == origin["epoch"] - 1), None),
        accuracy=knn_accuracy(backbone.representations, backbone.targets).get("knn"),
        untrained_accuracy=knn_accuracy(before["backbone"].representations, backbone.targets).get("knn"),
        neighbours=_neighbours(backbone, setup, rows, config),
        map=_map(backbone, config),
        patches=_patches(network, images, config, device),
        views=views_of(setup, network.method, config.rows, workers=config.workers),
        schedule=schedule_of(setup, network.method, run.records),
    )


def _title(run: FinishedRun, epochs: int) -> str:
    c = run.settings
    done = counted(epochs, "epoch") if epochs == c["epochs"] else f"{epochs} of {counted(c['epochs'], 'epoch')}"
    return f"{c['method']} · {c['arch']} · {c['strategy']} · {c['n_images']:,} images · {done}"


def left_out(one: ReportedRun) -> str:
    """What a report cannot show of a run, empty if it shows all."""
    if one.found is not None:  # a run of pretrain; one without a ViT has no patches
        return ""
    titles = [section.title.lower() for section in SECTIONS.values() if not has(one, section)]
    return f"a monitor keeps no checkpoint and no images; left out: {', '.join(titles)}" if titles else ""


def has(one: ReportedRun, section: Section) -> bool:
    """Whether a run has what a section shows."""
    return not section.needs or getattr(one, section.needs) is not None


def sampled_rows(setup: TrainingSetup, config: ReportConfig) -> np.ndarray:
    """The rows of the training images that are measured, in increasing order."""
    return np.sort(np.random.RandomState(config.seed % 2**32).permutation(len(setup.images))[: config.size])


def represent(
    network: Pretrained, images: ImageSet, layer: str, config: ReportConfig, device: torch.device
) -> Representations:
    """The outputs of a ``layer`` for the ``images``."""
    settings = SaveReprsConfig(layer=layer, workers=config.workers)
    return extract_all(network, images, settings, device)


def _layer(reprs: Representations, before: Representations, run: FinishedRun) -> Layer:
    """The results of a layer; ``before`` are its outputs for the same images in the untrained network. The verdict is
    that of ``collapse --reference``."""
    x, name = reprs.representations, reprs.meta["layer"]
    nonfinite = int((~torch.isfinite(x).all(dim=1)).sum())
    if nonfinite:
        raise SSLToolError(
            f"{run.path}: the outputs of the {name} have NaN or infinite values for {nonfinite} of {len(x)} images, "
            "because the run diverged; choose an earlier --checkpoint"
        )
    measured = measure(Rows([x]), MEASURED, bound=reprs.meta.get("directions"))
    start = measure(Rows([before.representations]), MEASURED, bound=before.meta.get("directions"))
    alone = judge_measured(measured, reprs.meta)
    verdict = judge_measured(measured, reprs.meta, numbers=ratios(measured.metrics, start.metrics))
    compared = compare(verdict, measured.metrics, start.metrics, "untrained")
    return Layer(
        name,
        measured.metrics,
        measured.possible(),
        measured.d,
        measured.notes,
        verdict if compared.state == verdict.state else compared,
        start.metrics,
        start.possible(),
        alone,
    )


def _origin(network: Pretrained, config: ReportConfig, file: Path, device: torch.device) -> Record:
    stored = load_dict(file, mmap=True)
    return {
        "checkpoint": config.checkpoint,
        "sha256": network.origin["checkpoint_hash"],
        "epoch": network.origin["epoch"],
        "trained with": f"ssltool {stored.get('ssltool', UNKNOWN)}, torch {stored.get('torch', UNKNOWN)}",
        "measured with": f"ssltool {ssltool.__version__}, torch {torch.__version__}, {device.type}",
        "plotted with": f"matplotlib {matplotlib.__version__}, Python {platform.python_version()}",
    }


def _neighbours(reprs: Representations, setup: TrainingSetup, rows: np.ndarray, config: ReportConfig) -> Neighbours:
    """The nearest neighbours of some images, one of each class if there are classes."""
    x, targets = reprs.representations, reprs.targets
    ids = torch.arange(len(x))
    queries = _queries(targets, config.queries)
    similarity, near = neighbours(x, x[queries], k=min(config.neighbours, len(x) - 1), skip=(ids, ids[queries]))

    def image(row: int, cosine: float = 1.0) -> LabelledImage:
        label = int(targets[row])
        names = setup.images.classes
        name = None if label < 0 else names[label] if label < len(names) else str(label)
        place = int(rows[row])
        return LabelledImage(pixels(setup.images, place), image_name(setup.images, place), name, cosine)

    nearest = [
        [image(row, 1.0 + s) for row, s in zip(*lists, strict=True)]
        for lists in zip(near.tolist(), similarity.tolist(), strict=True)
    ]
    return Neighbours([image(row) for row in queries.tolist()], nearest)


def _patches(
    network: Pretrained, images: ImageSet, config: ReportConfig, device: torch.device
) -> list[PatchPicture] | None:
    """Pictures of the patches of some images, None if the network is no ViT."""
    if token_layout(network.method.backbone) is None:
        return None
    some = images.select(np.arange(min(config.rows, len(images))))
    found = grids_of_network(network, some, "backbone", device, config.workers)
    return patch_pictures(found.grids, found.images, found.names)


def _queries(targets: Tensor, count: int) -> Tensor:
    """The first image of each of ``count`` evenly spaced classes; without classes, ``count`` evenly spaced images."""
    classes = targets[targets >= 0].unique()
    if len(classes) < 2:
        return torch.linspace(0, len(targets) - 1, min(count, len(targets))).long()
    chosen = classes[torch.linspace(0, len(classes) - 1, min(count, len(classes))).long()]
    return torch.stack([(targets == number).nonzero()[0, 0] for number in chosen])


def _map(reprs: Representations, config: ReportConfig) -> EmbeddingMap:
    x = reprs.representations.double()
    sample = torch.linspace(0, len(x) - 1, min(MAP_POINTS, len(x))).long()
    labels, classes = reprs.targets[sample].numpy(), tuple(reprs.meta["classes"])
    if config.map == "tsne":
        perplexity = min(30.0, (len(x) - 1) / 3)
        points = _tsne()(2, init="pca", perplexity=perplexity, random_state=config.seed).fit_transform(x.numpy())
        return EmbeddingMap(np.asarray(points)[sample.numpy()], labels, classes, ("t-SNE 1", "t-SNE 2"))
    u, s, _ = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    axes = u[:, :2] * s[:2]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()  # makes the signs unique
    shares = s.square() / s.square().sum().clamp(min=1e-300)
    titles = [f"principal component {i + 1} ({float(share):.0%} of the variance)" for i, share in enumerate(shares[:2])]
    if axes.shape[1] < 2:
        axes, titles = torch.nn.functional.pad(axes, (0, 1)), [*titles, ""]
    return EmbeddingMap(axes[sample].numpy(), labels, classes, (titles[0], titles[1]))


def _tsne() -> Any:
    try:
        return importlib.import_module("sklearn.manifold").TSNE
    except ImportError as error:
        raise SSLToolError("--map tsne requires scikit-learn; pip install scikit-learn, or use --map pca") from error


def make_page(reported: list[ReportedRun], title: str | None = None) -> str:
    """The HTML page of the runs."""
    names = [one.name for one in reported]
    heading = title or (names[0] if len(names) == 1 else f"Comparison of {len(names)} runs")
    header = element("h1", escape_xml(heading)) + element("p", escape_xml(plain_sentence(reported)), class_="plain")
    header += element("p", escape_xml(_conclusion(reported)), class_="summary")
    parts = [
        (name, section.title, SECTIONS.load(name)(reported))
        for name, section in SECTIONS.items()
        if any(has(one, section) for one in reported)
    ]
    missing = [f" {one.name}: {lines}." for one in reported if (lines := left_out(one))]
    sampled = sizes(one.sampled for one in reported)
    text = (
        f"Created by ssltool {ssltool.__version__}. Measured on {sampled} images of each run, "
        f"with the validation transform and the network in eval mode.{''.join(missing)}"
    )
    footer = element("p", escape_xml(text))
    return page(heading, header, parts, footer)


def _conclusion(reported: list[ReportedRun]) -> str:
    """The verdicts and the images in one sentence each."""
    healthy = [one.name for one in reported if one.worst.severity == 0]
    images = "; ".join(dict.fromkeys(one.measured_on for one in reported)).replace("; Trained on ", "; ")
    if len(reported) == 1:
        verdict = "Healthy" if healthy else f"{reported[0].worst.state.capitalize()} collapse"
        return f"{verdict}. {images}."
    collapsed = [f"{one.name}: {one.worst.state} collapse" for one in reported if one.worst.severity]
    parts = [f"Healthy runs: {len(healthy)} of {len(reported)}", "; ".join(collapsed), images]
    return f"{'. '.join(filter(None, parts))}."


def _summary(run: FinishedRun, reported: ReportedRun) -> Record:
    layers = {
        layer.name: {
            "verdict": layer.verdict.state,
            "line": layer.verdict.line,
            "why": layer.verdict.why,
            "kinds": [kind.as_dict() for kind in layer.verdict.kinds],
            "alone": None if layer.alone is None else layer.alone.state,
            "notes": layer.notes,
            "metrics": layer.metrics,
            "untrained": layer.untrained,
        }
        for layer in reported.layers
    }
    return {
        "run": str(run.path),
        "name": run.name,
        "found": [] if reported.found is None else [reported.found],
        "checkpoint": reported.origin["checkpoint"],
        "epoch": reported.origin["epoch"],
        "images": reported.sampled,
        "verdict": reported.worst.state,
        "layers": layers,
        "knn": reported.accuracy,
        "untrained_knn": reported.untrained_accuracy,
        "k": KNN_NEIGHBOURS,
    }
