"""Measures every block of networks in one pass over images: where in depth do they collapse?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from ssltool.checkpoints.load import Pretrained, load_pretrained, use_saved_dataset
from ssltool.checkpoints.load_several import network_settings, order_of_epochs, sampled_images
from ssltool.config import LAYERS, CollapseLayersConfig, NetworkSettings
from ssltool.config.fields import STATES
from ssltool.data.found import record_of
from ssltool.data.images import ImageSet
from ssltool.diagnosis.kinds import Shown
from ssltool.diagnosis.layer_sums import LAYER_METRICS, MeasuredLayer
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.patch_sums import PATCH_METRICS, RANKED
from ssltool.diagnosis.verdict import Thresholds, Verdict, compare, fewer_numbers
from ssltool.errors import SSLToolError, counted, first_names
from ssltool.files.writing import finite
from ssltool.methods.parts.momentum import teacher_network
from ssltool.models.blocks import MOST_BLOCKS
from ssltool.runs.display_names import display_names
from ssltool.runs.folder import NEWEST
from ssltool.runs.tables import write_table
from ssltool.settings import Record
from ssltool.stages.collapse.networks import Network, measure_networks
from ssltool.training.device import pick_device

UNTRAINED, PREVIOUS, TEACHER = "untrained", "previous", "teacher_network"
COMPARISONS = (UNTRAINED, PREVIOUS, TEACHER)
"""What each layer of a checkpoint is compared with by CKA."""

POOLED = {
    "cls": "the class token of each block",
    "mean": "the mean over the patches of each block",
    None: "feature maps averaged over their positions",
}


def run(config: CollapseLayersConfig) -> Record:
    """The stage: measures each checkpoint beside an untrained network. Writes the table ``out`` and the figure
    ``plot``.

    Returns:
        {"networks": [{"path", "layers": [{"layer", "metrics", "cka", "verdict", ...}, ...], "begins", "line", ...},
        ...], "images", "worst", "failed", "plot"}; "worst" is the most severe state from which on all layers are
        collapsed, "failed" whether ``fail_on`` is reached.

    Raises:
        SSLToolError: for a checkpoint or images that cannot be used, or outputs that are not finite. Nothing is
            written then.
    """
    config.check()
    thresholds = Thresholds.parse(config.threshold)
    limit = Limit.parse(config.fail_on, "--fail-on")
    limit.require({"rows"}, "--fail-on", quick=True)
    device = pick_device(config)
    paths = [_checkpoint(path) for path in config.files]
    loaded, images = _load(config, paths, device)
    order, _ = order_of_epochs([network.origin["epoch"] for network in loaded])
    networks = _networks([(paths[i], loaded[i]) for i in order], config, images, device)
    passed = {id(one): one for network in networks for one in (network, *network.references.values())}
    measure_networks(list(passed.values()), images, config.batch_size, device, config.workers)
    results = [_result(network, loaded[i], thresholds) for network, i in zip(networks, order, strict=True)]
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
    config: CollapseLayersConfig, paths: Sequence[str], device: torch.device
) -> tuple[list[Pretrained], ImageSet]:
    """The networks, and the images that all of them are measured on: those of the first."""
    settings = [network_settings(config, path, NetworkSettings) for path in paths]
    for one in settings:
        one.check()
    networks = []
    for one in settings:
        network = load_pretrained(one, device)
        networks.append(network.with_finite_weights(list(network.method.measured_layers)[-1]))
    images = sampled_images(use_saved_dataset(settings[0], networks[0].run), config)
    if len(images) < 2:
        raise SSLToolError(f"{images.name} {images.split}: a spectrum requires at least 2 images; found {len(images)}")
    for network in networks:
        network.refuse_unused_flags(images.image_size, crops=False)
    return networks, images


def _networks(
    loaded: Sequence[tuple[str, Pretrained]], config: CollapseLayersConfig, images: ImageSet, device: torch.device
) -> list[Network]:
    """The networks in their order, each with those that it is compared with."""
    networks: list[Network] = []
    untrained: dict[str, Network] = {}
    for path, pretrained in loaded:
        network = Network.of(path, pretrained.method, pretrained.preprocessing, images, device)
        if not pretrained.origin["random"]:
            run = pretrained.run
            key = str((run.backbone, run.method_name, run.method, run.seed, pretrained.preprocessing))
            if key not in untrained:
                untrained[key] = Network.untrained(pretrained, images, device)
            network.compare(UNTRAINED, untrained[key])
        if networks:
            network.compare(PREVIOUS, networks[-1])
        teacher = _teacher(path, pretrained, config, images, device)
        if teacher is not None:
            network.compare(TEACHER, teacher)
        networks.append(network)
    return networks


def _teacher(
    path: str, pretrained: Pretrained, config: CollapseLayersConfig, images: ImageSet, device: torch.device
) -> Network | None:
    """The teacher in the checkpoint: that of a method with a momentum teacher, or the network of ``--teacher-key``."""
    name = f"the teacher in {path}"
    if config.teacher_key is not None:
        other = dataclasses.replace(network_settings(config, path, NetworkSettings), key=config.teacher_key)
        found = load_pretrained(other, device).with_finite_weights()
        return Network.of(name, found.method, found.preprocessing, images, device)
    method = teacher_network(pretrained.method)
    return None if method is None else Network.of(name, method, pretrained.preprocessing, images, device)


def _result(network: Network, pretrained: Pretrained, thresholds: Thresholds) -> Record:
    """The layers of a network, where its collapse begins, and what limits the numbers."""
    reference = network.references.get(UNTRAINED)
    layers, verdicts = [], []
    for depth, (layer, measured) in enumerate(network.measured.items(), start=1):
        other = None if reference is None else reference.measured[layer]
        verdict = read_layer(measured, other, thresholds)
        verdicts.append(verdict)
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
        )
    first = begins([verdict.state for verdict in verdicts])
    state = max((verdict.state for verdict in verdicts[first:]), key=STATES.index, default=STATES[0])
    return {
        "path": network.name,
        **{key: pretrained.origin[key] for key in ("arch", "method", "epoch", "image_size")},
        "n": next(iter(network.measured.values())).n,
        "pooled": POOLED[network.outputs.pooled],
        "layers": layers,
        "begins": None if first == len(layers) else layers[first]["layer"],
        "state": state,
        "kinds": list(dict.fromkeys(kind.kind for verdict in verdicts[first:] for kind in verdict.kinds)),
        "line": _line(layers, first),
        "notes": _notes(network),
    }


def read_layer(measured: MeasuredLayer, untrained: MeasuredLayer | None, thresholds: Thresholds) -> Verdict:
    """The verdict on a layer, compared with the same layer of an untrained network.

    Of the backbone and the heads it is that of ``collapse --like``. The thresholds of the other verdicts hold for
    representations only: an untrained network's blocks may be below them. So a block is collapsed if its effective rank
    is below ``like_rank`` of the untrained network's, or if its ``feature_std`` is below that share of the untrained
    network's and below ``partial_std``; its state is then that of its verdict, and at least partial.
    """
    verdict = measured.verdict(thresholds)
    if untrained is None:
        return verdict
    if measured.layer in LAYERS:
        return compare(verdict, measured.metrics, untrained.metrics, UNTRAINED, thresholds)
    share, why = thresholds.like_rank, []
    for name, title, most in (
        ("effective_rank", "effective rank", math.inf),
        ("feature_std", "feature_std", thresholds.partial_std),
    ):
        ours, theirs = measured.metrics[name], untrained.metrics[name]
        if ours < min(share * theirs, most):
            why.append(f"{title} {ours:.3g} is below {share:.0%} of the untrained network's {theirs:.3g}")
    state = max(verdict.state, STATES[1], key=STATES.index) if why else STATES[0]
    kinds = [dataclasses.replace(kind, why=why) for kind in verdict.kinds] if why else []
    if why and not kinds:
        kinds = [Shown("dimensional", STATES[1], fewer_numbers(measured.metrics, untrained.metrics), why)]
    return dataclasses.replace(verdict, state=state, why=why, kinds=kinds)


def begins(states: Sequence[str]) -> int:
    """The index of the first layer from which on all are collapsed; the number of layers if the last is healthy."""
    healthy = [i for i, state in enumerate(states) if state == STATES[0]]
    return healthy[-1] + 1 if healthy else 0


def _line(layers: Sequence[Record], first: int) -> str:
    """Where in depth the collapse begins, in one sentence."""
    collapsed = [layer["layer"] for layer in layers if layer["verdict"]["state"] != STATES[0]]
    if not collapsed:
        return "no layer is collapsed" + _lowest(layers)
    if first == len(layers):
        return f"deeper layers are healthy, but collapsed: {first_names(collapsed)}"
    begin = layers[first]
    where = f"collapse begins at {begin['layer']}, layer {first + 1} of {len(layers)}"
    where += ", and all deeper layers are collapsed" if first + 1 < len(layers) else ", the last"
    earlier = [name for name in collapsed if name not in {layer["layer"] for layer in layers[first:]}]
    more = f"; also collapsed: {first_names(earlier)}" if earlier else ""
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
