"""The lincls stage: trains a linear probe on features and writes a run folder with the classifier and its accuracy.

On images it follows the protocol of SimSiam and the collapse paper: the backbone is frozen and in eval mode, a hash of
its weights and buffers verifies that it is unchanged, the classifier starts with weights from N(0, 0.01) and bias 0,
the learning rate follows a cosine per epoch, and images are randomly cropped and flipped. On saved representations it
is the same without crops, or logistic regression by L-BFGS. Learning rate or C are selected on held-out training rows,
never on the val rows.
"""

from __future__ import annotations

import contextlib
import dataclasses

import torch

from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig
from ssltool.config.fields import TRANSFORM
from ssltool.data import preprocessing as transforms
from ssltool.data.found import announce
from ssltool.data.shard import Shard
from ssltool.data.workers import killed_workers
from ssltool.errors import SSLToolError
from ssltool.reprs.class_names import Labels
from ssltool.reprs.representation_set import NETWORK_KEYS, NETWORK_TITLES
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.runs.resume import differences, find_file
from ssltool.runs.run_paths import run_path, with_number
from ssltool.settings import Record, Settings
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.image_features import ImageFeatures
from ssltool.stages.lincls.lbfgs import solve
from ssltool.stages.lincls.linear_heads import score
from ssltool.stages.lincls.saved_features import SavedFeatures
from ssltool.stages.lincls.selection import default_name
from ssltool.stages.lincls.sgd import ProbeLoop
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.precision import widest_float


@killed_workers("--resume auto continues after the last saved epoch")
def run(config: LinclsConfig) -> Record:
    """Trains a probe, or evaluates a trained one, and returns the result document.

    ``acc1``, ``acc5`` and ``class_acc1`` are the accuracies on the val rows in [0, 1], after the last epoch or at the
    optimum. The other entries describe the probe, the data and the network.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for unusable files or data, a loss that is not finite, or a backbone that changed.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1; the state is saved.
    """
    config.check()
    device = pick_device(config, local_rank=distributed.local_rank())
    with distributed.process_group(device, "auto") as shard:
        if config.evaluate:
            return _evaluate(config, device, shard)
        numbered = with_number(config, default_name(config))
        folder = RunFolder(run_path(numbered, default_name(config)), "lincls", is_new=numbered is not config)
        with folder.locked():
            return _train(numbered, device, folder, shard)


def _train(config: LinclsConfig, device: torch.device, folder: RunFolder, shard: Shard) -> Record:
    with distributed.raise_on_all_ranks():
        path = find_file(config.resume, folder.path / PROBE)
        folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=path)
    with contextlib.closing(_open(config, device, shard)) as source:
        _announce(source)
        if isinstance(source, SavedFeatures) and config.solver == "lbfgs":
            return solve(source, folder, device)
        return ProbeLoop(source, folder, device, path).train()


def _open(config: LinclsConfig, device: torch.device, shard: Shard, probe: Probe | None = None) -> FeatureSource:
    """Opens the source of the features; with a trained ``probe``, only the val rows."""
    known = None if probe is None else Labels("the probe", probe.classes, probe.names)
    if config.reprs is not None:
        return SavedFeatures(config, device, shard, known)
    with distributed.raise_on_all_ranks():
        return ImageFeatures(config, device, shard, known)


def _announce(source: FeatureSource) -> None:
    announce(*source.opened)
    for note in source.notes:
        distributed.rank_zero_info(f"note: {note}")
    distributed.rank_zero_info(source.describe())


def _transform_of(probe: Probe, config: LinclsConfig) -> Settings:
    """The settings of the transform that ``probe`` was trained with and ``config`` leaves open."""
    saved = {name: probe.config.get(name) for name in TRANSFORM if getattr(config, name) is None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}


def _evaluate(config: LinclsConfig, device: torch.device, shard: Shard) -> Record:
    folder = run_path(config, default_name(config))
    with distributed.raise_on_all_ranks():
        path = find_file(config.resume, folder / PROBE)
        if path is None:
            raise SSLToolError(f"{folder} holds no {PROBE} to evaluate; name one with --resume FILE")
        probe = Probe.load(path)
    if config.reprs is None:
        config = dataclasses.replace(config, **_transform_of(probe, config))
    with contextlib.closing(_open(config, device, shard, probe)) as source:
        _announce(source)
        origin = probe.config.get("origin", {})
        differing = differences(list(NETWORK_KEYS), origin, source.origin, NETWORK_TITLES.__getitem__)
        if probe.weight.shape[1] != source.width:
            differing.append(f"the width was {probe.weight.shape[1]}, is now {source.width}")
        if differing:
            raise SSLToolError(f"the probe was trained on another network: {'; '.join(differing)}; use that network")
        other_transform = transforms.differences(origin, source.origin)
        if other_transform:
            raise SSLToolError(
                f"the probe was trained with another transform: {', '.join(other_transform)}; use the probe's"
            )
        wide = widest_float(device) if probe.weight.dtype == torch.float64 else probe.weight.dtype
        classifier = probe.weight.to(device, wide), probe.bias.to(device, wide)
        (accuracies,) = score(source.val(), [classifier], source.total_classes)
        if accuracies is None:
            raise SSLToolError(
                "the probe's scores of val rows are not finite, because its weights or the "
                "rows are too large; train it again with a lower --lr, or divide the rows by a constant"
            )
        return accuracies | source.facts() | source.check() | source.origin | {"probe": str(path)}
