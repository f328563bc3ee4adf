"""The representation stage: a checkpoint and images in, one row per image out."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ssltool
from ssltool import seeds
from ssltool.config import SaveReprsConfig
from ssltool.data import views
from ssltool.data.datasets import ImageSet, open_dataset, parse_type
from ssltool.data.loader import Batch, Loader
from ssltool.errors import SSLToolError
from ssltool.files import Representations
from ssltool.pretrained import Pretrained, load_pretrained, with_saved_data
from ssltool.training.device import pick_device, worker_count
from ssltool.training.progress import Progress


def run(config: SaveReprsConfig) -> list[dict[str, Any]]:
    """The stage: writes the representations of one split or both, and says of each file its path, rows and width.

    Raises:
        SSLToolError: for a checkpoint, dataset or output that cannot be used; no file is then half-written.
    """
    device = pick_device(config)
    network = load_pretrained(config, device)
    config = with_saved_data(config, network.config)
    splits = _splits(config)
    # Of both splits, the numbers in --idx-path choose among the train images; the val images stay whole.
    whole = dataclasses.replace(config, idx_path=None)
    opened = [open_dataset(whole if split == "val" and len(splits) > 1 else config, split) for split in splits]
    written = []
    for images in [_sample(one, config.sample, network.config["seed"]) for one in opened]:
        path = _target(config, images, network, several=len(opened) > 1)
        result = represent(network, images, config, device)
        result.save(path)
        rows, width = len(result), result.representations.shape[-1]
        written.append({"path": str(path), "split": images.split, "n": rows, "d": width, "layer": config.layer})
    return written


def represent(network: Pretrained, images: ImageSet, config: SaveReprsConfig, device: torch.device) -> Representations:
    """The outputs of ``config.layer`` for all ``images`` in order, in eval mode: (N, d) by the validation transform, or
    (N, Q, d) of Q augmented views."""
    rows: torch.Tensor | None = None
    size = max(1, config.batch_size // (config.views or 1))
    steps = -(-len(images) // size)
    progress = Progress(f"{images.name} {images.split}", steps, every=max(1, steps // 10))
    with (
        torch.inference_mode(),
        contextlib.closing(Loader(images, network.image_size, device, worker_count(config.workers))) as loader,
    ):
        for batch in _batches(loader, network, config, size):
            view = torch.cat(batch.views).contiguous(memory_format=torch.channels_last)
            out = network.method.embed(view, config.layer).float().flatten(1)
            if config.views is not None:
                out = out.unflatten(0, (config.views, -1)).transpose(0, 1)
            if rows is None:
                rows = torch.empty((len(images), *out.shape[1:]))
            rows[batch.rows.cpu()] = out.cpu()
            progress.update(len(out))
    progress.close()
    if rows is None:
        raise SSLToolError(f"{images.name} {images.split} has no images")
    meta = network.origin | {
        "dataset": images.name,
        "split": images.split,
        "classes": list(images.classes),
        "layer": config.layer,
        "directions": network.method.directions(config.layer),
        "views": config.views,
        "sample": config.sample,
        "transform": _transform(images, network, config),
        "ssltool": ssltool.__version__,
        "torch": str(torch.__version__),
        "seed": network.config["seed"],
        "config": network.config,
    }
    return Representations(rows, torch.from_numpy(images.labels), torch.from_numpy(images.index), meta)


def _batches(loader: Loader, network: Pretrained, config: SaveReprsConfig, size: int) -> Iterator[Batch]:
    if config.views is None:
        return loader.evaluate(size)
    seed = seeds.derive(network.config["seed"], seeds.Stream.SAVED_VIEWS)
    recipes = [views.recipe_of(network.config)] * config.views
    return loader.train(np.arange(len(loader.images)), recipes, batch_size=size, seed=seed, epoch=0)


def _transform(images: ImageSet, network: Pretrained, config: SaveReprsConfig) -> str:
    normalise, size = f"normalise mean {views.MEAN} std {views.STD}", network.image_size
    if config.views is not None:
        return f"{views.recipe_of(network.config)}, {normalise}"
    if images.images is not None and images.images.shape[-1] == images.images.shape[-2] == size:
        return normalise
    return f"resize {views.eval_resize(size)}, centre crop {size}, {normalise}"


def _sample(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """``count`` of the images, drawn at random, in order.

    Raises:
        SSLToolError: if there are not so many.
    """
    if count is None:
        return images
    if count > len(images):
        raise SSLToolError(f"--sample {count}: {images.name} {images.split} has {len(images)} images; ask for fewer")
    random = np.random.RandomState(seeds.derive(seed, seeds.Stream.SAVED_VIEWS) % 2**32)
    return images.select(np.sort(random.permutation(len(images))[:count]))


def _splits(config: SaveReprsConfig) -> list[str]:
    named = parse_type(config.dataset_type)[1]
    if config.split is None:
        return [named or "train"]
    if named is not None and named != config.split:
        raise SSLToolError(f"--dataset-type {config.dataset_type} and --split {config.split} contradict each other")
    return ["train", "val"] if config.split == "both" else [config.split]


def _target(config: SaveReprsConfig, images: ImageSet, network: Pretrained, *, several: bool) -> Path:
    """Where one split goes: ``--out``, or the paper's name."""
    file = f"{images.split}_reprs_e0.pt"
    if config.out is not None:
        if config.exp_id is not None or config.extra_info is not None:
            raise SSLToolError("--out names the file and leaves --exp-id and --extra-info nothing to do; drop them")
        out = Path(config.out)
        if several and out.suffix == ".pt":
            raise SSLToolError(f"--split both writes two files; give --out a folder instead of {out}")
        return out / file if several or out.is_dir() else out
    number = config.exp_id if config.exp_id is not None else int(network.config["exp_id"])
    # The paper's name is that of the trained backbone's output; anything else must not take its place.
    parts = ["random" if config.random else None, None if config.layer == "backbone" else config.layer]
    counts = {"views": config.views, "sample": config.sample}
    parts += [f"{name}{count}" for name, count in counts.items() if count]
    extra = "".join(f"_{part}" for part in (*parts, config.extra_info) if part)
    return Path("data") / f"{network.origin['arch']}_exp{number:04d}{extra}" / images.name / file
