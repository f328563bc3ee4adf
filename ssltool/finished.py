"""A run folder, read back: its settings and records, its images and their views, the course of its epochs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.collapse.tables import labels
from ssltool.config import PretrainConfig
from ssltool.data import views
from ssltool.data.datasets import ImageSet, decode, open_dataset
from ssltool.data.loader import Loader, Shard
from ssltool.data.strategies import read_order
from ssltool.errors import SSLToolError
from ssltool.job import Job
from ssltool.methods import method_options
from ssltool.methods.base import Method
from ssltool.resume import FOUND_OUT
from ssltool.runs import RunFolder
from ssltool.training.device import worker_count
from ssltool.training.optim import rates_at
from ssltool.viz.pictures import Views
from ssltool.viz.schedule import Schedule

MOMENTS = 8
"""Points of an epoch at which a learning rate that moves at every step is drawn."""


@dataclass(frozen=True)
class FinishedRun:
    """What a run folder says: ``config`` are the resolved settings, ``records`` the lines of ``metrics.jsonl``, one an
    epoch; ``name`` tells the run from those beside it."""

    path: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]
    name: str


def read_runs(paths: Sequence[str]) -> list[FinishedRun]:
    """The runs in these folders of ``pretrain``, under short names that differ.

    Raises:
        SSLToolError: if one is no such folder, cannot be read, or is given twice.
    """
    folders = [Path(path) for path in paths]
    read = [(_config(folder), RunFolder(folder).read_metrics()) for folder in folders]
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise SSLToolError("a run folder is given twice; name each once")
    names = labels([str(path) for path in resolved])
    return [
        FinishedRun(folder, config, records, name)
        for folder, (config, records), name in zip(folders, read, names, strict=True)
    ]


def _config(folder: Path) -> dict[str, Any]:
    config = RunFolder(folder).read_config()
    if "method_options" not in config:
        raise SSLToolError(f"{folder} holds no run of pretrain; its config.json has no method_options")
    return config


def training_job(run: FinishedRun, data: str | None = None) -> Job:
    """The job that the run was, with its images in ``data`` where they have moved there; without what only training
    needs, a trained teacher and labelled images.

    Raises:
        SSLToolError: if its images cannot be opened, or are not those that it was trained on.
    """
    own = [f.name for f in dataclasses.fields(PretrainConfig) if not f.metadata["method_option"]]
    values = {name: run.config[name] for name in own if name in run.config and name != "options"}
    if data is not None and run.config["data"] is None:
        raise SSLToolError(f"{run.path} was trained on the images that come with ssltool; leave --data out")
    config = PretrainConfig(**(values if data is None else values | {"data": data}))
    if config.data is not None and not Path(config.data).is_dir():
        raise SSLToolError(f"the images of {run.path} are not in {config.data}; name their folder with --data")
    if config.idx_path is not None and not Path(config.idx_path).is_file():
        raise SSLToolError(
            f"{run.path} was trained on the images that {config.idx_path} names, and there is no such file; put it back"
        )
    images = open_dataset(config, "train")
    order = np.arange(len(images))
    if config.strategy != "iid":
        kept = run.path / "order.npy"
        order = read_order(str(kept) if kept.is_file() else config.incremental_idx_path, len(images), config.seed)
    options = method_options(config.method, run.config["method_options"])
    job = Job(config, options, images, order, views.recipe_of(run.config))
    found = job.saved_config()
    for key in ("dataset", "n_images", "index_hash", "order_hash"):
        if key in run.config and found[key] != run.config[key]:
            raise SSLToolError(
                f"{run.path} was trained on other images: {FOUND_OUT[key]} was {run.config[key]}, is now {found[key]}; "
                "name the folder of its own with --data"
            )
    return job


def pixels(images: ImageSet, row: int) -> np.ndarray:
    """One image as it is stored, (H, W, 3) uint8.

    Raises:
        SSLToolError: if its file cannot be decoded.
    """
    if images.images is None:
        return np.asarray(decode((images.paths or ())[row]))
    return images.images[row].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def views_of(job: Job, method: Method, rows: int, *, epoch: int = 0, workers: int | None = 0) -> Views:
    """The first ``rows`` images of an epoch's first step, and the views that the run made of them, bit for bit.

    Raises:
        SSLToolError: if the run has no such epoch, or an image cannot be decoded.
    """
    if epoch >= job.epochs:
        raise SSLToolError(f"--epoch {epoch} is not among the run's {job.epochs} epochs, which count from 0")
    rows = min(rows, job.batch_size)
    recipes = method.view_recipes(job.recipe)
    loader = Loader(job.images, job.image_size, torch.device("cpu"), worker_count(workers))
    # The first of several ranks has the first images of the batch, with the views that they have in all of it.
    shard = Shard(0, job.batch_size // rows)
    with contextlib.closing(loader):
        step = job.indices(epoch)[: job.batch_size]
        batch = next(
            loader.train(step, recipes, batch_size=job.batch_size, seed=job.config.seed, epoch=epoch, shard=shard)
        )
    made = [_shown(view[:rows]) for view in batch.views]
    sizes = [view.shape[-1] for view in batch.views]
    titles = [f"view {i + 1}" + (f", {size} px" if size != sizes[0] else "") for i, size in enumerate(sizes)]
    originals = [pixels(job.images, int(row)) for row in batch.rows[:rows]]
    return Views(originals, [[view[i] for view in made] for i in range(rows)], titles, _in_words(recipes))


def _shown(view: Tensor) -> np.ndarray:
    """Standardised views (N, 3, S, S) as images (N, S, S, 3) uint8."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (views.MEAN, views.STD))
    return (view * std + mean).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).numpy()


def _in_words(recipes: Sequence[views.Recipe]) -> list[str]:
    """Each different recipe in a line, with the views that it makes."""
    lines = []
    for recipe in dict.fromkeys(recipes):
        low, high = recipe.crop_scale
        strengths = "/".join(f"{s:g}" for s in (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue))
        chances = {
            "flip": recipe.flip_p,
            f"jitter ({strengths})": recipe.jitter_p,
            "grey": recipe.gray_p,
            "blur": recipe.blur_p,
            "solarise": recipe.solarize_p,
            "erase": recipe.erase_p,
        }
        parts = [f"crop of {low:.0%} to {high:.0%} of the area" if low < 1 else "the whole image"]
        parts += [f"rotation up to {recipe.rotation:g}°"] if recipe.rotation else []
        parts += [f"{p:.0%} {name}" for name, p in chances.items() if p]
        numbers = [i + 1 for i, other in enumerate(recipes) if other == recipe]
        together = numbers[-1] - numbers[0] == len(numbers) - 1
        listed = f"{numbers[0]} to {numbers[-1]}" if together and len(numbers) > 2 else ", ".join(map(str, numbers))
        lines.append(f"view{'s' if len(numbers) > 1 else ''} {listed}: {', '.join(parts)}")
    return lines


def schedule_of(job: Job, method: Method, records: Sequence[dict[str, Any]] = ()) -> Schedule:
    """Which images each epoch draws from, how often each is seen, and the learning rates.

    Epochs that ``records`` tell to have run with another data strategy, in a run that was gone on from, are left out:
    their settings are not in this run's.
    """
    strategy = job.config.strategy
    other = [record["epoch"] for record in records if record.get("strategy", strategy) != strategy]
    first = max(other) + 1 if other else 0
    seen = np.zeros(len(job.order), np.int64)
    slices, times = [], []
    for epoch in range(first, job.epochs):
        slices.append(job.slice(epoch))
        counts = np.bincount(job.indices(epoch), minlength=len(seen))
        times.append(counts.sum() / (counts > 0).sum())
        seen += counts
    within = np.arange(MOMENTS) / MOMENTS if job.config.lr_schedule == "step" else np.array([0.0, 1.0 - 1e-6])
    moments = [(epoch, float(share)) for epoch in range(job.epochs) for share in within]
    rates = [rates_at(job.config, epoch, share) for epoch, share in moments]
    fixed = any(group["fixed_lr"] for group in method.param_groups())
    return Schedule(
        strategy=strategy,
        images=len(seen),
        first=first,
        slices=np.array(slices).reshape(-1, 2),
        times_each=np.array(times),
        seen=seen[job.order],
        at=np.array([epoch + share for epoch, share in moments]),
        lr=np.array([rate.lr for rate in rates]),
        fixed=np.array([rate.fixed for rate in rates]) if fixed else None,
        note=f"Epochs 0 to {first - 1} ran with another data strategy and are not drawn." if first else "",
    )
