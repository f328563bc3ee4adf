"""``pretrain --dry-run``: what a run would do, without doing it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import Optimizer

from ssltool.config import PretrainConfig
from ssltool.data.strategies import epoch_subset
from ssltool.job import Job, make_job
from ssltool.methods.base import Method, trainable
from ssltool.runs import run_path
from ssltool.training.device import autocast, pick_device
from ssltool.training.optim import build_optimizer, epoch_rates

TRIAL_SECONDS = 0.5
"""The trial batch is doubled until a step takes this long, or it is the run's batch."""


def make_plan(config: PretrainConfig) -> dict[str, Any]:
    """The plan of a run as plain values: its settings, its epochs, its costs. Writes nothing.

    Raises:
        SSLToolError: for whatever would stop the run itself.
    """
    device = pick_device(config)
    job = make_job(config)
    return {
        "run": str(run_path(config, f"{config.method}-{config.arch}-{config.strategy}")),
        "data": job.images.describe(),
        "config": job.saved_config(),
        "steps_per_epoch": job.steps,
        "epochs": [_epoch(job, epoch) for epoch in range(job.epochs)],
        "exposure": _exposure(job),
        **_costs(job, device),
    }


def _epoch(job: Job, epoch: int) -> dict[str, Any]:
    c = job.config
    subset = epoch_subset(
        np.arange(len(job.order)),
        strategy=c.strategy,
        epoch=epoch,
        epochs=job.epochs,
        chunk_size=c.chunk_size,
        n_rounds=c.n_rounds,
    )
    indices = job.indices(epoch)
    lr, fixed = epoch_rates(c, epoch)
    return {
        "epoch": epoch,
        "slice": [int(subset[0]), int(subset[-1]) + 1],
        "unique_images": len(np.unique(indices)),
        "steps": len(indices) // job.batch_size,
        "times_each": len(indices) / len(np.unique(indices)),
        "lr": lr,
        "fixed_lr": fixed,
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
    if job.config.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(method.param_groups(), job.config)
    weights = {p.data_ptr(): p.nbytes for p in method.parameters()}
    count = min(16, job.batch_size)
    while True:
        _trial(job, method, optimizer, device, count)  # the first step of a shape also prepares its kernels
        seconds, kept = _trial(job, method, optimizer, device, count)
        if seconds > TRIAL_SECONDS or count == job.batch_size:
            break
        count = min(2 * count, job.batch_size)
    state = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return {
        "parameters": sum(p.numel() for p in method.parameters()),
        "trainable_parameters": sum(p.numel() for p in trainable(method)),
        "memory_bytes": int(2 * sum(weights.values()) + state + activations * job.batch_size / count),
        "images_per_second": count / seconds,
        "estimated_seconds": job.epochs * job.steps * job.batch_size * seconds / count,
    }


def _trial(
    job: Job, method: Method, optimizer: Optimizer, device: torch.device, count: int
) -> tuple[float, dict[int, int]]:
    """Seconds of one step on ``count`` images of noise, and the bytes of each tensor that it kept for the backward
    pass."""
    views = [torch.randn(count, 3, job.image_size, job.image_size, device=device) for _ in method.recipes(job.recipe)]
    if job.config.channels_last:
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    start = time.perf_counter()
    with autocast(device, job.config.precision), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = method(views, torch.arange(count, device=device)).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    float(loss.detach())  # waits for the device
    return time.perf_counter() - start, kept
