"""The representation stage: a checkpoint and images in, one row per image out.

Rows pass through batch by batch into an unfinished file beside their target, so memory holds a batch, and a run that
is stopped or killed goes on with the same command line. Under torchrun each rank does its own part of the batches and
writes its own file; the ranks need nothing of one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ssltool import seeds
from ssltool.checkpoints.load import Pretrained, load_pretrained, use_saved_dataset
from ssltool.config import SaveReprsConfig
from ssltool.data.images import ImageSet, open_dataset, parse_type
from ssltool.data.loader import Shard
from ssltool.errors import Interrupted, SSLToolError, UsageError
from ssltool.reprs import formats
from ssltool.reprs.extract import Extraction
from ssltool.reprs.partial_file import PartialFile
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.progress import Progress, info
from ssltool.training.signals import StopRequest


def run(config: SaveReprsConfig) -> list[dict[str, Any]]:
    """The stage: writes the representations of one split or both, under torchrun this rank's part of them, and says of
    each file, also of the other ranks', its path, rows and width.

    Raises:
        SSLToolError: for a checkpoint, dataset, layer or output that cannot be used; no file is then half-written.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1; the same settings go on from there.
    """
    config.check()
    shard = distributed.shard_from_env()
    if config.download and shard.world > 1:
        raise SSLToolError("--download under torchrun would fetch once for each rank; download in one process first")
    formats.check(config.format)
    device = pick_device(config, local_rank=distributed.local_rank())
    network = load_pretrained(config, device, ranks=True)
    config = use_saved_dataset(config, network.run)
    splits = _splits(config)
    # Of both splits, the numbers in --idx-path choose among the train images; the val images stay whole.
    whole = dataclasses.replace(config, idx_path=None)
    opened = [open_dataset(whole if split == "val" and len(splits) > 1 else config, split) for split in splits]
    sampled = [_sample(one, config.sample, network.run.seed) for one in opened]
    passes = [Extraction(network, images, config, device) for images in sampled]
    paths = [_target(config, images, network, several=len(splits) > 1) for images in sampled]
    parts = [[one.images_of(Shard(rank, shard.world)) for rank in range(shard.world)] for one in passes]
    with contextlib.ExitStack() as opened_files, StopRequest() as stop:
        # All are kept until all are done: the first split need not be made again where the second is stopped.
        unfinished = [_save(p, path, shard, config, stop, opened_files) for p, path in zip(passes, paths, strict=True)]
        for one in unfinished:
            one.remove()
    return [
        {
            "path": str(_of_rank(path, Shard(rank, shard.world))),
            "split": one.images.split,
            "n": len(part) * one.places,
            "d": one.shape[-1],
            "layer": config.layer,
        }
        for one, path, of_ranks in zip(passes, paths, parts, strict=True)
        for rank, part in enumerate(of_ranks)
    ]


def _save(
    one: Extraction, path: Path, shard: Shard, config: SaveReprsConfig, stop: StopRequest, files: contextlib.ExitStack
) -> PartialFile:
    """Makes the rows that are still missing and writes the file; what it was made from is returned, to be removed."""
    path, part = _of_rank(path, shard), one.images_of(shard)
    rows = PartialFile(path, one.facts(shard), one.shape, one.dtype, len(part), one.size)
    files.callback(rows.close)
    if rows.changed:
        info(f"{rows.path} is of another run, which differs in {', '.join(rows.changed)}: starting anew")
    if rows.done:
        info(f"going on after {rows.done} of {len(part)} images in {rows.path}")
    steps, done = (-(-count // one.size) for count in (len(part), rows.done))
    title = f"{one.images.name} {one.images.split}"
    progress = Progress(title, steps, done=done, every=max(1, steps // 10), visible=distributed.is_main())
    left = part[rows.done :]
    with contextlib.closing(one.batches(left)) as batches, contextlib.closing(progress):
        for batch in batches if left else ():
            rows.append(batch)
            progress.update(len(batch) * (config.views or 1))
            if stop.number and rows.done < len(part):
                raise Interrupted(stop.number, f"{rows.done} of {len(part)} images in {rows.path}")
    formats.write(one.to_representations(rows.rows(), part, shard), path, config.format)
    return rows


def _of_rank(path: Path, shard: Shard) -> Path:
    """The name of one rank's file beside the others'."""
    return path if shard.world == 1 else path.with_name(f"{path.stem}.rank{shard.rank}of{shard.world}{path.suffix}")


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
        raise UsageError(f"--dataset-type {config.dataset_type} and --split {config.split} contradict each other")
    return ["train", "val"] if config.split == "both" else [config.split]


def _target(config: SaveReprsConfig, images: ImageSet, network: Pretrained, *, several: bool) -> Path:
    """Where one split goes: ``--out``, or the paper's name."""
    suffix = f".{config.format}"
    file = f"{images.split}_reprs_e0{suffix}"
    if config.out is not None:
        out = Path(config.out)
        out = out / file if several or out.is_dir() else out
        return out if config.format != "npy" or out.suffix == suffix else out.with_name(out.name + suffix)
    number = config.exp_id if config.exp_id is not None else int(network.run.settings["exp_id"])
    # The paper's name is that of the trained backbone's output; anything else must not take its place.
    parts = ["random" if network.origin["random"] else None, None if config.layer == "backbone" else config.layer]
    parts += [config.tokens, "places" if config.pool == "none" else None]
    counts = {"views": config.views, "sample": config.sample}
    parts += [f"{name}{count}" for name, count in counts.items() if count]
    parts += ["bf16" if config.precision == "bf16" else None, "in_bf16" if config.dtype == "bf16" else None]
    extra = "".join(f"_{part}" for part in (*parts, config.extra_info) if part)
    return Path("data") / f"{network.origin['arch']}_exp{number:04d}{extra}" / images.name / file
