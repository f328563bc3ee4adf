"""``pretrain --dry-run``: what a run would do, without doing it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import Optimizer

from ssltool.config import PretrainConfig
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.job import Job, make_job
from ssltool.methods.base import Method, trainable
from ssltool.resume import find_start
from ssltool.training.device import autocast, pick_device
from ssltool.training.optim import build_optimizer, rates_at

TRIAL_SECONDS = 0.5
"""The trial batch is doubled until a step takes this long, or it is the run's batch."""


def make_plan(config: PretrainConfig) -> dict[str, Any]:
    """The plan of a run as plain values: its settings, its epochs, its costs. Writes nothing.

    Raises:
        SSLToolError: for whatever would stop the run itself.
    """
    device = pick_device(config)
    job = make_job(config)
    start = find_start(config, job.saved_config())
    first = start.checkpoint.epoch if start.checkpoint else 0
    return {
        "run": str(start.folder.path),
        "resumes": str(start.path) if start.path else None,
        "data": job.images.describe(),
        "config": job.saved_config(),
        "steps_per_epoch": job.steps,
        "epochs": [_epoch(job, epoch) for epoch in range(first, job.epochs)],
        "exposure": _exposure(job),
        **_costs(job, device),
    }


def _epoch(job: Job, epoch: int) -> dict[str, Any]:
    indices = job.indices(epoch)
    rates = rates_at(job.config, epoch)
    return {
        "epoch": epoch,
        "slice": list(job.slice(epoch)),
        "unique_images": len(np.unique(indices)),
        "steps": len(indices) // job.batch_size,
        "times_each": len(indices) / len(np.unique(indices)),
        "lr": rates.lr,
        "fixed_lr": rates.fixed,
    }


def _exposure(job: Job) -> dict[str, float]:
    """How often the images will be seen over the whole run."""
    seen = np.zeros(len(job.images), np.int64)
    for epoch in range(job.epochs):
        seen += np.bincount(job.indices(epoch), minlength=len(seen))
    return {
        "min": int(seen.min()),
        "mean": float(seen.mean()),
        "max": int(seen.max()),
        "never": int((seen == 0).sum()),
    }


def _costs(job: Job, device: torch.device) -> dict[str, Any]:
    """Parameters, and memory and time from a few trial steps on noise, scaled to the batch."""
    method = job.build_method().to(device)
    warnings = job.warnings(method)
    if job.config.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(method.param_groups(), job.config)
    weights = {p.data_ptr(): p.nbytes for p in method.parameters()}
    count = min(max(16, method.smallest_batch), job.batch_size)
    tried, seconds, kept = 0, 0.0, dict[int, int]()
    while seconds < TRIAL_SECONDS and tried < job.batch_size:
        try:
            _trial(job, method, optimizer, device, count)  # the first step of a shape also prepares its kernels
            seconds, kept = _trial(job, method, optimizer, device, count)
        except torch.OutOfMemoryError:
            break  # the memory of the batches that fitted says how much this one would need
        tried, count = count, min(2 * count, job.batch_size)
    if not tried:
        raise SSLToolError(f"not even {count} images fit into the memory of {device}; lower --image-size or --dim")
    state = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    gradients = sum(p.nbytes for p in trainable(method))
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return {
        "warnings": warnings,
        "parameters": sum(p.numel() for p in method.parameters()),
        "trainable_parameters": sum(p.numel() for p in trainable(method)),
        "memory_bytes": int(sum(weights.values()) + gradients + state + activations * job.batch_size / tried),
        "images_per_second": tried / seconds,
        "estimated_seconds": job.epochs * job.steps * job.batch_size * seconds / tried,
    }


def _trial(
    job: Job, method: Method, optimizer: Optimizer, device: torch.device, count: int
) -> tuple[float, dict[int, int]]:
    """Seconds of one step on ``count`` images of noise, and the bytes of each tensor that it kept for the backward
    pass."""
    batch = _noise([recipe.size or job.image_size for recipe in method.view_recipes(job.recipe)], count, device)
    if job.support is not None:
        batch.support = _noise([job.image_size], job.support.batch_size, device)
    if job.config.channels_last:
        batch = batch.channels_last()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    start = time.perf_counter()
    with autocast(device, job.config.precision), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = method(batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    float(loss.detach())  # waits for the device
    return time.perf_counter() - start, kept


def _noise(sizes: list[int], count: int, device: torch.device) -> Batch:
    """Views of those sizes of ``count`` images, all of class 0."""
    numbers = torch.arange(count, device=device)
    return Batch([torch.randn(count, 3, size, size, device=device) for size in sizes], numbers * 0, numbers)
