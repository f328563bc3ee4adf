"""The linear probe as a stage: features in, a run folder with the classifier and its accuracy out.

From images it is the protocol of SimSiam and the collapse paper: the backbone frozen, in eval mode, and proved
unchanged by a hash of its weights and buffers; classifier weights from N(0, 0.01), bias 0; a cosine per epoch, random
crops and flips. From saved representations it is the same without crops, or the optimum by L-BFGS. What is chosen, a
learning rate or a penalty, is chosen on held-out training rows, never on those that are scored.
"""

from __future__ import annotations

import contextlib

import torch

from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.reprs.representation_set import NETWORK_KEYS
from ssltool.runs.folder import PROBE, RunFolder, run_path
from ssltool.runs.resume import differences, find_file
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


def run(config: LinclsConfig) -> Record:
    """The stage: trains the probe, or scores a trained one, and returns ``acc1``, ``acc5`` and ``class_acc1`` (shares
    of 1) on what is scored, after the last epoch or at the optimum, and what was trained on.

    Raises:
        SSLToolError: for settings that contradict one another, unusable files or data, a loss that is not finite, or a
            backbone that changed.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1, with the state saved.
    """
    config.check()
    device = pick_device(config)
    folder = RunFolder(run_path(config, default_name(config)), "lincls")
    path = find_file(config.resume, folder.path / PROBE)
    if config.evaluate:
        if path is None:
            raise SSLToolError(f"{folder.path} holds no {PROBE} to score; name one with --resume FILE")
        return _evaluate(config, device, Probe.load(path)) | {"probe": str(path)}
    folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=path)
    with contextlib.closing(_open(config, device)) as source:
        distributed.rank_zero_info(source.describe())
        if isinstance(source, SavedFeatures) and config.solver == "lbfgs":
            return solve(source, folder, device)
        return ProbeLoop(source, folder, device, path).train()


def _open(config: LinclsConfig, device: torch.device, probe: Probe | None = None) -> FeatureSource:
    """Where the features come from: only what is scored, where a trained probe is given."""
    known = None if probe is None else probe.classes.numpy()
    return ImageFeatures(config, device, known) if config.reprs is None else SavedFeatures(config, device, known)


def _evaluate(config: LinclsConfig, device: torch.device, probe: Probe) -> Record:
    with contextlib.closing(_open(config, device, probe)) as source:
        distributed.rank_zero_info(source.describe())
        names = {name: name.replace("_", " ") for name in NETWORK_KEYS}
        found = differences(list(NETWORK_KEYS), probe.config.get("origin", {}), source.origin, names.__getitem__)
        if probe.weight.shape[1] != source.width:
            found.append(f"the width was {probe.weight.shape[1]}, is now {source.width}")
        if found:
            raise SSLToolError(f"the probe was trained on another network: {'; '.join(found)}. Give the one it was")
        wide = widest_float(device) if probe.weight.dtype == torch.float64 else probe.weight.dtype
        classifier = probe.weight.to(device, wide), probe.bias.to(device, wide)
        (accuracies,) = score(source.val(), [classifier], source.counted)
        return accuracies | source.facts() | source.check() | source.origin
