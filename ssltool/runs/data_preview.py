"""What a run saw: images, augmented views, and the data schedule."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from ssltool.data import views
from ssltool.data.images import ImageSet, decode
from ssltool.data.loader import Loader, Shard
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.methods.base import Method
from ssltool.training.device import worker_count
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.viz.pictures import Views
from ssltool.viz.schedule import Schedule

MOMENTS = 8
"""Points of an epoch at which a learning rate that moves at every step is drawn."""


def pixels(images: ImageSet, row: int) -> np.ndarray:
    """One image as it is stored, (H, W, 3) uint8.

    Raises:
        SSLToolError: if its file cannot be decoded.
    """
    if images.images is None:
        return np.asarray(decode((images.paths or ())[row]))
    return images.images[row].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def views_of(setup: TrainingSetup, method: Method, rows: int, *, epoch: int = 0, workers: int | None = 0) -> Views:
    """The first ``rows`` images of the first step of ``epoch`` (from 0), and the views that the run made of them, bit
    for bit.

    Raises:
        SSLToolError: if the run has no such epoch, or an image cannot be decoded.
    """
    if epoch >= setup.epochs:
        raise SSLToolError(f"--epoch {epoch + 1} is not one of the run's epochs, 1 to {setup.epochs}")
    rows = min(rows, setup.batch_size)
    recipes = method.view_recipes(setup.recipe)
    loader = Loader(setup.images, setup.image_size, torch.device("cpu"), worker_count(workers))
    # The first of several ranks has the first images of the batch, with the views that they have in all of it.
    shard = Shard(0, setup.batch_size // rows)
    with contextlib.closing(loader):
        step = setup.indices(epoch)[: setup.batch_size]
        batch = next(
            loader.train(step, recipes, batch_size=setup.batch_size, seed=setup.config.seed, epoch=epoch, shard=shard)
        )
    shown = [views.to_pixels(view[:rows]).permute(0, 2, 3, 1).numpy() for view in batch.views]
    sizes = [view.shape[-1] for view in batch.views]
    titles = [f"view {i + 1}" + (f", {size} px" if size != sizes[0] else "") for i, size in enumerate(sizes)]
    originals = [pixels(setup.images, int(row)) for row in batch.rows[:rows]]
    return Views(originals, [[view[i] for view in shown] for i in range(rows)], titles, _in_words(recipes))


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


def schedule_of(setup: TrainingSetup, method: Method, records: Sequence[Record] = ()) -> Schedule:
    """Which images each epoch draws from, how often each is seen, and the learning rates.

    Epochs of a resumed run that had another data strategy, according to ``records``, are left out, because this run's
    settings do not describe them.
    """
    strategy = setup.config.strategy
    other = [record["epoch"] for record in records if record.get("strategy", strategy) != strategy]
    first = max(other) + 1 if other else 0
    seen = np.zeros(len(setup.order), np.int64)
    slices, times = [], []
    for epoch in range(first, setup.epochs):
        slices.append(setup.slice(epoch))
        counts = np.bincount(setup.indices(epoch), minlength=len(seen))
        times.append(counts.sum() / (counts > 0).sum())
        seen += counts
    within = np.arange(MOMENTS) / MOMENTS if setup.config.lr_schedule == "step" else np.array([0.0, 1.0 - 1e-6])
    moments = [(epoch, float(share)) for epoch in range(setup.epochs) for share in within]
    rates = [rates_at(setup.config, epoch, share) for epoch, share in moments]
    fixed = any(group["fixed_lr"] for group in method.param_groups())
    return Schedule(
        strategy=strategy,
        images=len(seen),
        first=first,
        slices=np.array(slices).reshape(-1, 2),
        times_each=np.array(times),
        seen=seen[setup.order],
        at=np.array([epoch + share for epoch, share in moments]),
        lr=np.array([rate.lr for rate in rates]),
        fixed=np.array([rate.fixed for rate in rates]) if fixed else None,
        note=f"Epochs 1 to {first} ran with another data strategy and are not drawn." if first else "",
    )
