"""Measures every block of networks in one pass over images: where in depth do they collapse?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.checkpoints.load_several import is_one_run, network_settings, order_of_epochs, sampled_images
from ssltool.checkpoints.setting_names import SSLTOOL
from ssltool.config import LAYERS, CollapseLayersConfig, NetworkSettings
from ssltool.config.fields import STATES
from ssltool.data.found import record_of
from ssltool.data.images import ImageSet
from ssltool.data.workers import killed_workers
from ssltool.diagnosis.depth_verdict import collapsed_stretch, judge_layer
from ssltool.diagnosis.layer_sums import LAYER_METRICS
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.patch_sums import PATCH_METRICS, RANKED
from ssltool.diagnosis.verdict import Thresholds
from ssltool.errors import SSLToolError, counted, first_names
from ssltool.files.writing import finite
from ssltool.methods.base import Method
from ssltool.methods.parts.momentum import teacher_network
from ssltool.models.blocks import MOST_BLOCKS
from ssltool.runs.display_names import display_names
from ssltool.runs.folder import NEWEST
from ssltool.runs.tables import write_table
from ssltool.settings import Record
from ssltool.stages.collapse.networks import Network, pass_images
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.ranks import Ranks

UNTRAINED, PREVIOUS, TEACHER = "untrained", "previous", "teacher_network"
COMPARISONS = (UNTRAINED, PREVIOUS, TEACHER)
"""What each layer of a checkpoint is compared with by CKA."""

POOLED = {
    "cls": "the class token of each block",
    "mean": "the mean over the patches of each block",
    None: "feature maps averaged over their positions",
}


@killed_workers()
def run(config: CollapseLayersConfig) -> Record:
    """The stage: measures each checkpoint beside an untrained network. Writes the table ``out`` and the figure
    ``plot``.

    Under torchrun each rank passes its part of the images, and rank 0 writes.

    Returns:
        {"networks": [{"path", "layers": [{"layer", "metrics", "cka", "verdict", ...}, ...], "begins", "line", ...},
        ...], "images", "worst", "failed", "plot"}; "worst" is the most severe state of a layer in which a collapse
        shows, "failed" whether ``fail_on`` is reached.

    Raises:
        SSLToolError: for a checkpoint or images that cannot be used, or outputs that are not finite. Nothing is
            written then.
    """
    config.check()
    thresholds = Thresholds.parse(config.threshold)
    limit = Limit.parse(config.fail_on, "--fail-on")
    limit.require({"rows", "reference"}, "--fail-on", quick=True)
    with distributed.measuring_ranks() as ranks:
        with ranks.same_errors():
            device = pick_device(config, local_rank=distributed.local_rank())
            loaded, images = _load(config, device, ranks)
            networks = _networks(loaded, config, images, device)
        passed = {id(one): one for network in networks for one in (network, *network.references.values())}
        pass_images(list(passed.values()), images, config.batch_size, device, config.workers, ranks)
        return ranks.from_main(lambda: _measured(config, passed.values(), networks, loaded, images, thresholds, limit))


def _measured(
    config: CollapseLayersConfig,
    passed: Iterable[Network],
    networks: Sequence[Network],
    loaded: Sequence[tuple[str, Pretrained]],
    images: ImageSet,
    thresholds: Thresholds,
    limit: Limit,
) -> Record:
    """Computes the metrics of the ``passed`` networks, writes the files and returns the document."""
    for network in passed:
        network.measure()
    results = [_result(network, one, thresholds, limit) for network, (_, one) in zip(networks, loaded, strict=True)]
    document: Record = finite(
        {
            "networks": results,
            "images": {"dataset": images.name, "split": images.split, "n": len(images), "found": record_of(images)},
            "plot": config.plot,
            "worst": max((result["state"] for result in results), key=STATES.index),
            "failed": any(limit.is_reached(result["state"], result["kinds"]) for result in results),
        }
    )
    if config.plot is not None:
        _plot(document, config.plot)
    if config.out is not None:
        write_table(config.out, document, table_rows(document))
    return document


def _checkpoint(path: str) -> str:
    """The newest checkpoint of a run folder; any other path unchanged."""
    newest = Path(path) / NEWEST
    return str(newest) if newest.is_file() else path


def _load(
    config: CollapseLayersConfig, device: torch.device, ranks: Ranks
) -> tuple[list[tuple[str, Pretrained]], ImageSet]:
    """The networks with their paths, those of one run in the order of their epochs, and the images that all of them are
    measured on: those of the first path."""
    paths = [_checkpoint(path) for path in config.files]
    settings = [network_settings(config, path, NetworkSettings) for path in paths]
    for one in settings:
        one.check()
    networks = []
    for one in settings:
        network = load_pretrained(one, device, ranks=True)
        networks.append(network.with_finite_weights(list(network.method.measured_layers)[-1]))
    images = sampled_images(settings[0], config, networks[0], ranks)
    if len(images) < 2:
        raise SSLToolError(f"{images.name} {images.split}: a spectrum requires at least 2 images; found {len(images)}")
    for network in networks:
        network.refuse_unused_flags(images.image_size, crops=False)
    order = list(range(len(networks)))
    if len({(network.run.backbone.arch, network.run.method_name) for network in networks}) == 1:
        order, _ = order_of_epochs([network.origin["epoch"] for network in networks])
    return [(paths[i], networks[i]) for i in order], images


def _networks(
    loaded: Sequence[tuple[str, Pretrained]], config: CollapseLayersConfig, images: ImageSet, device: torch.device
) -> list[Network]:
    """The networks in their order, each with those that it is compared with."""
    networks: list[Network] = []
    untrained: dict[str, Network] = {}
    for i, (path, pretrained) in enumerate(loaded):
        network = Network.of(path, pretrained.method, pretrained.preprocessing, images, device)
        if not pretrained.origin["random"]:
            run = pretrained.run
            key = str((run.backbone, run.method_name, run.method, run.seed, pretrained.preprocessing))
            if key not in untrained:
                method = build_method(run).to(device).eval()
                name = f"the untrained {run.backbone.arch}"
                untrained[key] = Network.of(name, method, pretrained.preprocessing, images, device, network)
            network.compare(UNTRAINED, untrained[key])
        if networks and is_one_run(loaded[i - 1][1], pretrained):
            network.compare(PREVIOUS, networks[-1])
        teacher = _teacher(network, pretrained, config, images, device)
        if teacher is not None:
            network.compare(TEACHER, teacher)
        networks.append(network)
    return networks


def _teacher(
    network: Network, pretrained: Pretrained, config: CollapseLayersConfig, images: ImageSet, device: torch.device
) -> Network | None:
    """The teacher in the checkpoint: that of a method with a momentum teacher, or the network of ``--teacher-key``."""
    method: Method | None = teacher_network(pretrained.method)
    if config.teacher_key is not None:
        if pretrained.run.program == SSLTOOL:
            raise SSLToolError(
                f"--teacher-key {config.teacher_key} has no effect: {network.name} is a checkpoint of ssltool, whose "
                "momentum teacher is found; leave it out"
            )
        settings = network_settings(config, network.name, NetworkSettings)
        teacher = dataclasses.replace(settings, key=config.teacher_key)
        found = load_pretrained(teacher, device, ranks=True).with_finite_weights()
        method = found.method
    if method is None:
        return None
    return Network.of(f"the teacher in {network.name}", method, pretrained.preprocessing, images, device, network)


def _result(network: Network, pretrained: Pretrained, thresholds: Thresholds, limit: Limit) -> Record:
    """The layers of a network, where its collapse begins, and what limits the numbers."""
    reference = network.references.get(UNTRAINED)
    layers: list[Record] = []
    for depth, (layer, measured) in enumerate(network.measured.items(), start=1):
        other = None if reference is None else reference.measured.get(layer)
        verdict = judge_layer(measured, other, thresholds)
        layers.append(
            {
                "layer": layer,
                "depth": depth,
                "d": measured.d,
                "directions": measured.directions,
                "metrics": measured.metrics,
                UNTRAINED: None if other is None else other.metrics,
                "cka": {name: network.cka(name, layer) for name in network.references},
                "verdict": {
                    "state": verdict.state,
                    "why": verdict.why,
                    "kinds": [kind.as_dict() for kind in verdict.kinds],
                },
            }
            | ({"asked": verdict.asked(limit.kinds)} if limit.kinds else {})
        )
    states = [one["verdict"]["state"] for one in layers]
    stretch = collapsed_stretch(states, list(network.measured).index(LAYERS[0]))
    return {
        "path": network.name,
        **{key: pretrained.origin[key] for key in ("arch", "method", "epoch", "image_size")},
        "n": next(iter(network.measured.values())).n,
        "pooled": POOLED[network.outputs.pooled],
        "layers": layers,
        "begins": layers[stretch.start]["layer"] if stretch else None,
        "ends": layers[stretch.stop - 1]["layer"] if stretch else None,
        "state": max((states[i] for i in stretch), key=STATES.index, default=STATES[0]),
        "kinds": list(dict.fromkeys(kind["kind"] for i in stretch for kind in layers[i]["verdict"]["kinds"])),
        "line": _line(layers, stretch),
        "notes": _notes(network),
    }


def _line(layers: Sequence[Record], stretch: range) -> str:
    """Where in depth the collapse begins, in one sentence."""
    others = [
        layer["layer"] for i, layer in enumerate(layers) if i not in stretch and layer["verdict"]["state"] != STATES[0]
    ]
    if not stretch:
        if others:
            return f"the last layers are healthy; low against the untrained network: {first_names(others)}"
        return "no layer is collapsed" + _lowest(layers)
    begin = layers[stretch.start]
    at = f"{begin['layer']}, layer {begin['depth']} of {len(layers)}"
    if len(stretch) == 1:
        where = f"only {at}, is collapsed"
    elif stretch.stop < len(layers):
        where = f"collapse begins at {at}, and ends at {layers[stretch.stop - 1]['layer']}"
    else:
        where = f"collapse begins at {at}, and all deeper layers are collapsed"
    more = f"; also low: {first_names(others)}" if others else ""
    return f"{where}: {' and '.join(begin['verdict']['why'])}{more}"


def _lowest(layers: Sequence[Record]) -> str:
    """The layer whose effective rank is lowest against the untrained network."""
    shares = {
        layer["layer"]: layer["metrics"]["effective_rank"] / layer[UNTRAINED]["effective_rank"]
        for layer in layers
        if layer[UNTRAINED] is not None and layer[UNTRAINED]["effective_rank"]
    }
    if not shares:
        return ""
    name = min(shares, key=lambda layer: shares[layer])
    return f"; the effective rank is lowest against the untrained network at {name}, {shares[name]:.2f} times its"


def _notes(network: Network) -> list[str]:
    outputs, notes = network.outputs, []
    wide = [one for one in network.measured.values() if one.n <= one.d]
    if wide:
        widest = max(wide, key=lambda one: one.d)
        notes.append(
            f"{widest.n:,} images bound the metrics of layers that are wider, up to {widest.d:,}; --sample takes more"
        )
    if network.patches and next(iter(network.measured.values())).n > RANKED:
        notes.append(f"patch_rank is the mean over at most {RANKED} of the images")
    if outputs.skipped:
        notes.append(f"blocks whose outputs are not rows, left out: {first_names(outputs.skipped)}")
    if outputs.beyond:
        total = len(outputs.beyond) + MOST_BLOCKS
        notes.append(f"{MOST_BLOCKS} of {counted(total, 'block')} are measured, at equal distances")
    return notes


def table_rows(document: Record) -> pd.DataFrame:
    """A row for each layer of each network, with its metrics, those of the untrained network and the comparisons."""
    rows = []
    names = [name for name in (*LAYER_METRICS, *PATCH_METRICS) if _has(document, name)]
    for network in document["networks"]:
        origin = {key: network[key] for key in ("path", "arch", "method", "epoch", "n")}
        for layer in network["layers"]:
            other = layer[UNTRAINED] or {}
            rows.append(
                origin
                | {key: layer[key] for key in ("layer", "depth", "d", "directions")}
                | {name: layer["metrics"].get(name) for name in names}
                | {f"{UNTRAINED}_{name}": other.get(name) for name in names}
                | {f"cka_{name}": layer["cka"].get(name) for name in COMPARISONS}
                | {"verdict": layer["verdict"]["state"], "why": "; ".join(layer["verdict"]["why"])}
            )
    return pd.DataFrame(rows, dtype=object)


def _has(document: Record, name: str) -> bool:
    return any(name in layer["metrics"] for network in document["networks"] for layer in network["layers"])


def _plot(document: Record, path: str) -> None:
    from ssltool.viz.depth_plot import plot_depth

    names = display_names([network["path"] for network in document["networks"]])
    plot_depth(names, document["networks"], path)
