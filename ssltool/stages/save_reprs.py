"""The save-reprs stage: computes the representations of images with a checkpoint, one row per image.

Each batch of rows is appended to a partial file next to the target, so only one batch is in memory, and a run that was
stopped or killed is continued by the same command. Under torchrun each rank computes its own part of the batches and
writes its own file; the ranks exchange only that one has failed or was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from ssltool.checkpoints.load import Pretrained, load_pretrained, use_saved_dataset
from ssltool.config import SaveReprsConfig
from ssltool.data.detection import splits_of
from ssltool.data.found import announce, record_of
from ssltool.data.images import ImageSet
from ssltool.data.sample import sample_images
from ssltool.data.shard import Shard
from ssltool.data.workers import killed_workers
from ssltool.errors import Interrupted, SSLToolError
from ssltool.files.text import part_of_name
from ssltool.models.arch_name import file_name
from ssltool.reprs import formats
from ssltool.reprs.extract import Extraction
from ssltool.reprs.partial_file import PartialFile
from ssltool.runs.resume import note_changed_images
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.device import pick_device
from ssltool.training.open_images import open_images
from ssltool.training.progress import Progress, info
from ssltool.training.separate_ranks import SeparateRanks
from ssltool.training.signals import StopRequest


@killed_workers("the same command continues after the images that are done")
def run(config: SaveReprsConfig) -> list[Record]:
    """Saves the representations of one or both splits, under torchrun this rank's part of them.

    Returns the path, number of rows and width of each file, including those of other ranks.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for a checkpoint, dataset, layer or output that cannot be used; no file is left half-written.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1; another call with the same settings continues.
    """
    config.check()
    with distributed.separate_ranks() as ranks:
        return _run(config, distributed.shard_from_env(), ranks)


def _run(config: SaveReprsConfig, shard: Shard, ranks: SeparateRanks) -> list[Record]:
    if config.download and shard.world > 1:
        raise SSLToolError("--download under torchrun would download once per rank; download in one process first")
    formats.check(config.format)
    device = pick_device(config, local_rank=distributed.local_rank())
    network = load_pretrained(config, device, ranks=True).with_finite_weights(config.layer)
    splits = splits_of(config.dataset_type, config.split)
    given, config = config, use_saved_dataset(config, network.run, train="train" in splits)
    # The run's --idx-path selects train images only, and so does one that is given with both splits.
    train_only = len(splits) > 1 or given.idx_path is None
    all_images = dataclasses.replace(config, idx_path=None)
    opened: list[ImageSet] = []
    for split in splits:
        settings = all_images if split != "train" and train_only else config
        rules = opened[0].rules.settings() if opened else {}
        opened.append(open_images(dataclasses.replace(settings, **rules), split, ranks.from_rank_zero))
        if split == "train":
            note_changed_images(network, given, opened[-1])
    network.refuse_unused_flags(*(images.image_size for images in opened), crops=config.views is not None)
    sampled = [_sample(images, config.sample, network.run.seed) for images in opened]
    extractions = [Extraction(network, images, config, device, shard.world) for images in sampled]
    paths = [_target(config, images, network, several=len(splits) > 1) for images in sampled]
    shards = [Shard(rank, shard.world) for rank in range(shard.world)]
    parts = [[extraction.images_of(each) for each in shards] for extraction in extractions]
    announce(*sampled)
    with contextlib.ExitStack() as files, StopRequest() as stop:
        # Partial files are removed at the end: if the second split is stopped, the first one is not computed again.

        def stopped() -> int:
            return ranks.agreed(stop.number)

        partial = [_save(p, path, shard, config, stopped, files) for p, path in zip(extractions, paths, strict=True)]
        for file in partial:
            file.remove()
    return [
        {
            "path": str(_rank_path(path, each)),
            "split": extraction.images.split,
            "n": len(part) * extraction.places,
            "d": extraction.shape[-1],
            "layer": config.layer,
            "found": record_of(extraction.images),
        }
        for extraction, path, rank_parts in zip(extractions, paths, parts, strict=True)
        for each, part in zip(shards, rank_parts, strict=True)
    ]


def _save(
    extraction: Extraction,
    path: Path,
    shard: Shard,
    config: SaveReprsConfig,
    stopped: Callable[[], int],
    files: contextlib.ExitStack,
) -> PartialFile:
    """Computes the missing rows, writes the file, and returns the partial file for removal."""
    path, part = _rank_path(path, shard), extraction.images_of(shard)
    images = dataclasses.replace(extraction.images, images=None, paths=None).select(np.arange(part.start, part.stop))
    facts, shape, dtype = extraction.facts(shard), extraction.shape, extraction.dtype
    rows = PartialFile(path, facts, shape, dtype, len(part), extraction.size, images)
    files.callback(rows.close)
    if rows.changed:
        info(f"{rows.path} has rows of an earlier call that differs from this one ({rows.why}): starting over")
    if rows.done:
        _check(extraction, rows.rows(), part[: rows.done], rows)  # an earlier version saved them unchecked
        info(f"continuing after {rows.done} of {len(part)} images in {rows.path}")
    steps, done = (-(-count // extraction.size) for count in (len(part), rows.done))
    title = f"{extraction.images.name} {extraction.images.split}"
    progress = Progress(title, steps, done=done, every=max(1, steps // 10), visible=distributed.is_main())
    remaining = part[rows.done :]
    with contextlib.closing(extraction.batches(remaining)) as batches, contextlib.closing(progress):
        for batch in batches if remaining else ():
            _check(extraction, batch, part[rows.done :], rows)
            rows.append(batch)
            progress.update(len(batch) * (config.views or 1))
            if (number := stopped()) and rows.done < len(part):
                raise Interrupted(number, f"{rows.done} of {len(part)} images in {rows.path}")
    saved = extraction.to_representations(rows.rows(), part, shard, folder=rows.path.parent)
    formats.write(saved, path, config.format)
    return rows


def _check(extraction: Extraction, batch: Tensor, numbers: range, rows: PartialFile) -> None:
    """Refuses rows that are not finite. The same would follow from a second attempt, so the partial file is removed."""
    try:
        extraction.refuse_nonfinite(batch, numbers)
    except SSLToolError:
        rows.remove()
        raise


def _rank_path(path: Path, shard: Shard) -> Path:
    """The path of one rank's file."""
    return path if shard.world == 1 else path.with_name(f"{path.stem}.rank{shard.rank}of{shard.world}{path.suffix}")


def _sample(images: ImageSet, count: int | None, seed: int) -> ImageSet:
    """``sample_images``, or all images if there is no ``count``.

    Raises:
        SSLToolError: if there are fewer images.
    """
    if count is None:
        return images
    if count > len(images):
        raise SSLToolError(f"--sample {count}: {images.name} {images.split} has only {len(images)} images; lower it")
    return sample_images(images, count, seed)


def _target(config: SaveReprsConfig, images: ImageSet, network: Pretrained, *, several: bool) -> Path:
    """The file of one split: ``--out``, or the paper's name."""
    suffix = f".{config.format}"
    file = f"{images.split}_reprs_e0{suffix}"
    if config.out is not None:
        out = Path(config.out)
        out = out / file if several or out.is_dir() else out
        return out if config.format != "npy" or out.suffix == suffix else out.with_name(out.name + suffix)
    number = config.exp_id if config.exp_id is not None else int(network.run.settings["exp_id"])
    # The paper's name is for the output of the trained backbone; anything else gets a suffix.
    parts = ["random" if network.origin["random"] else None, "momentum_teacher" if config.momentum_teacher else None]
    parts += [None if config.key is None else part_of_name(config.key)]
    parts += [None if config.layer == "backbone" else config.layer]
    parts += [config.tokens, "places" if config.pool == "none" else None]
    counts = {"patches": config.sample_patches, "views": config.views, "sample": config.sample}
    parts += [f"{name}{count}" for name, count in counts.items() if count]
    parts += ["bf16" if config.precision == "bf16" else None, "in_bf16" if config.dtype == "bf16" else None]
    extra = "".join(f"_{part}" for part in (*parts, config.extra_info) if part)
    return Path("data") / f"{file_name(network.origin['arch'])}_exp{number:04d}{extra}" / images.name / file
