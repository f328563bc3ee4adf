"""``pretrain --dry-run``: the plan of a run, without training."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from ssltool.config import PretrainConfig
from ssltool.data.cached_images import cache_path
from ssltool.data.detection import splits_of
from ssltool.data.found import announce, record_of
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, trainable_parameters
from ssltool.runs.resume import find_start, pretrain_folder, pretrain_name
from ssltool.runs.run_paths import with_number
from ssltool.settings import Record
from ssltool.stages.pretrain.epoch_monitor import check_limit
from ssltool.stages.pretrain.prepare import prepare
from ssltool.stages.pretrain.run_time import epochs_within
from ssltool.training.device import autocast, pick_device, require_cuda
from ssltool.training.optimizers import build_optimizer
from ssltool.training.precision import native_precision
from ssltool.training.progress import info
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup

TRIAL_SECONDS = 0.5
"""The trial batch is doubled until a step takes this long, or it has the size of the run's micro-batches."""


def plan(config: PretrainConfig) -> Record:
    """The plan of a run: settings, epochs, memory and time. Writes nothing.

    Raises:
        SSLToolError: for every error that the run itself would raise before training.
    """
    device = pick_device(config)
    config.check()
    config = _without_unwritten_cache(config)
    config = with_number(config, pretrain_name(config), create=False)
    setup = prepare(config, native_precision(device))
    start = find_start(config, setup.saved_run, pretrain_folder(config))
    announce(setup.images)
    first = start.checkpoint.epoch if start.checkpoint else 0
    costs = _costs(setup, device)
    seconds = costs["estimated_seconds"] / setup.epochs
    if config.minutes is not None and start.checkpoint is None:
        setup = setup.with_epochs(epochs_within(config.minutes, 0.0, seconds, config.n_rounds))
    epochs, exposure = _schedule(setup, first)
    return {
        "run": str(start.folder.path),
        "resumes": str(start.path) if start.path else None,
        "data": setup.images.describe(),
        "found": [record_of(setup.images)],
        "config": setup.saved_run.settings,
        "steps_per_epoch": setup.steps,
        "epochs": epochs,
        "exposure": exposure,
        **costs,
        "estimated_seconds": seconds * setup.epochs,
    }


def _without_unwritten_cache(config: PretrainConfig) -> PretrainConfig:
    """``config`` without a cache that the run would write first."""
    if config.cache is None or cache_path(config.cache, splits_of(config.dataset_type, None)[0]).exists():
        return config
    info(f"note: {config.cache} has no cache yet, and --dry-run writes none; the plan is that of the files")
    return dataclasses.replace(config, cache=None, cache_size=None)


def _schedule(setup: TrainingSetup, first: int) -> tuple[list[Record], dict[str, float]]:
    """The epochs from ``first`` on; and how often each image is used in the run: minimum, mean, maximum, and the number
    of images never used."""
    uses, epochs = np.zeros(len(setup.images), np.int64), []
    for epoch in range(setup.epochs):
        counts = np.bincount(
            np.asarray(setup.indices(epoch)), minlength=len(uses)
        )  # sorting them would take ten times as long
        uses += counts
        if epoch >= first:
            epochs.append(_epoch(setup, epoch, int(counts.sum()), int(np.count_nonzero(counts))))
    return epochs, {
        "min": int(uses.min()),
        "mean": float(uses.mean()),
        "max": int(uses.max()),
        "never": int((uses == 0).sum()),
    }


def _epoch(setup: TrainingSetup, epoch: int, drawn: int, different: int) -> Record:
    """An epoch that draws ``drawn`` images, of which ``different`` are different."""
    rates = rates_at(setup.config, epoch)
    replays = setup.config.strategy == "replay"
    return {
        "epoch": epoch,
        "slice": list(setup.slice(epoch)),
        **({"replayed": len(setup.replayed(epoch))} if replays else {}),
        "unique_images": different,
        "steps": drawn // setup.batch_size,
        "times_each": drawn / different,
        "lr": rates.lr,
        "fixed_lr": rates.fixed,
    }


def _costs(setup: TrainingSetup, device: torch.device) -> Record:
    """Number of parameters, and memory and time extrapolated from a few trial steps on noise."""
    method = setup.build_method().to(device)
    check_limit(setup.config, method, setup.images)
    if setup.config.cuda_graphs:
        require_cuda(device, "--cuda-graphs")
    warnings = setup.warnings(method)
    model = setup.regularised(method)
    if setup.config.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(method.param_groups(), setup.config)
    weights = {p.untyped_storage().data_ptr(): p.nbytes for p in method.parameters()}
    largest = setup.batch_size // setup.config.accumulate
    count = min(max(16, method.min_batch_size), largest)
    measured, seconds, saved = 0, 0.0, dict[int, int]()
    while seconds < TRIAL_SECONDS and measured < largest:
        try:
            _trial(
                setup, method, model, optimizer, device, count
            )  # warm-up: the first step of a shape prepares its kernels
            seconds, saved = _trial(setup, method, model, optimizer, device, count)
        except torch.OutOfMemoryError:
            break  # extrapolate from the last batch that fitted
        measured, count = count, min(2 * count, largest)
    if not measured:
        raise SSLToolError(
            f"a batch of {count} images does not fit into the memory of {device}; lower --image-size or --dim"
        )
    state = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    gradients = sum(p.nbytes for p in trainable_parameters(method))
    activations = sum(size for pointer, size in saved.items() if pointer not in weights)
    return {
        "warnings": warnings,
        "parameters": sum(p.numel() for p in method.parameters()),
        "trainable_parameters": sum(p.numel() for p in trainable_parameters(method)),
        "memory_bytes": int(sum(weights.values()) + gradients + state + activations * largest / measured),
        "images_per_second": measured / seconds,
        "estimated_seconds": setup.epochs * setup.steps * setup.batch_size * seconds / measured,
    }


def _trial(
    setup: TrainingSetup, method: Method, model: nn.Module, optimizer: Optimizer, device: torch.device, count: int
) -> tuple[float, dict[int, int]]:
    """Seconds of one step on ``count`` images of noise, and the bytes of each storage kept for the backward pass."""
    batch = _noise([recipe.size or setup.image_size for recipe in method.view_recipes(setup.recipe)], count, device)
    if setup.support is not None:
        batch.support = _noise([setup.image_size], setup.support.batch_size, device)
    if setup.config.channels_last:
        batch = batch.channels_last()
    saved: dict[int, int] = {}

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # shared by parts of a tensor
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    start = time.perf_counter()
    with autocast(device, setup.config.precision), torch.autograd.graph.saved_tensors_hooks(record, lambda t: t):
        loss = Output(*model(batch)).objective
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    float(loss.detach())  # waits for the device
    return time.perf_counter() - start, saved


def _noise(sizes: list[int], count: int, device: torch.device) -> Batch:
    """A batch of random views of the given ``sizes`` of ``count`` images of class 0, each of the whole image."""
    rows = torch.arange(count, device=device)
    views = [torch.randn(count, 3, size, size, device=device) for size in sizes]
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(count, len(sizes), 4)
    return Batch(views, rows * 0, rows, boxes=boxes)
