"""Previews of a run's data: its images, augmented views and data schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from ssltool.data import views
from ssltool.data.image_files import pixels
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.shard import Shard
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.settings import Record
from ssltool.training.launch import worker_count
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.viz.data_schedule import Schedule
from ssltool.viz.pictures import Views

POINTS_PER_EPOCH = 8
"""Points at which a learning rate that changes at every step is evaluated, per epoch."""


def image_name(images: ImageSet, row: int) -> str:
    """The relative path of the image in ``row``, or ``#`` and its number in the dataset if it has no file."""
    return f"#{images.index[np.array([row])][0]}" if images.files is None else images.files[row]


def views_of(setup: TrainingSetup, method: Method, rows: int, *, epoch: int = 0, workers: int | None = 0) -> Views:
    """The first ``rows`` images of the first step of ``epoch`` (from 0), and their views, bit for bit as in the run.

    Raises:
        SSLToolError: if ``epoch`` is out of range, or an image cannot be decoded.
    """
    if epoch >= setup.epochs:
        raise SSLToolError(f"--epoch {epoch + 1} is out of range; the run has epochs 1 to {setup.epochs}")
    rows = min(rows, setup.batch_size)
    recipes = method.view_recipes(setup.recipe)
    loader = Loader(setup.images, setup.preprocessing, torch.device("cpu"), worker_count(workers))
    # The shard of the first of several ranks: the first images of the batch, with the same views as in the full batch.
    shard = Shard(0, setup.batch_size // rows)
    with contextlib.closing(loader):
        step = setup.indices(epoch)[: setup.batch_size]
        batch = next(
            loader.train(step, recipes, batch_size=setup.batch_size, seed=setup.config.seed, epoch=epoch, shard=shard)
        )
    drawn = [views.to_pixels(view[:rows], setup.preprocessing).permute(0, 2, 3, 1).numpy() for view in batch.views]
    sizes = [view.shape[-1] for view in batch.views]
    titles = [f"view {i + 1}" + (f", {size} px" if size != sizes[0] else "") for i, size in enumerate(sizes)]
    shown = [int(row) for row in batch.rows[:rows]]
    originals, names = [pixels(setup.images, row) for row in shown], [image_name(setup.images, row) for row in shown]
    return Views(
        originals, [[view[i] for view in drawn] for i in range(rows)], titles, _describe(recipes), names, epoch
    )


def _describe(recipes: Sequence[views.Recipe]) -> list[str]:
    """One line for each distinct recipe, with the numbers of its views."""
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


def schedule_of(setup: TrainingSetup, method: Method, records: Sequence[Record] = ()) -> Schedule:
    """The images that each epoch draws from, how often each image is seen, and the learning rates.

    Epochs that ran with another data strategy, before the run was resumed with this one, are omitted, because their
    settings were not saved. ``records`` show which these are.
    """
    strategy = setup.config.strategy
    other = [record["epoch"] for record in records if record.get("strategy", strategy) != strategy]
    first = max(other) + 1 if other else 0
    order = np.asarray(setup.order)
    seen = np.zeros(len(order), np.int64)
    slices, times, replayed = [], [], []
    places = np.argsort(order)
    for epoch in range(first, setup.epochs):
        slices.append(setup.slice(epoch))
        replayed.append(places[setup.replayed(epoch)])
        counts = np.bincount(np.asarray(setup.indices(epoch)), minlength=len(seen))
        times.append(counts.sum() / (counts > 0).sum())
        seen += counts
    continuous = setup.config.lr_schedule == "step"
    shares = np.arange(POINTS_PER_EPOCH) / POINTS_PER_EPOCH if continuous else np.array([0.0, 1.0 - 1e-6])
    points = [(epoch, float(share)) for epoch in range(setup.epochs) for share in shares]
    rates = [rates_at(setup.config, epoch, share) for epoch, share in points]
    fixed = any(group["fixed_lr"] for group in method.param_groups())
    return Schedule(
        strategy=strategy,
        images=len(seen),
        first=first,
        slices=np.array(slices).reshape(-1, 2),
        times_each=np.array(times),
        seen=seen[order],
        at=np.array([epoch + share for epoch, share in points]),
        lr=np.array([rate.lr for rate in rates]),
        fixed=np.array([rate.fixed for rate in rates]) if fixed else None,
        note=f"Epochs 1 to {first} ran with another data strategy and are not drawn." if first else "",
        replayed=tuple(replayed) if strategy == "replay" else (),
    )
