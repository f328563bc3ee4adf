"""Extracts the representations of images, batch by batch. A row does not depend on which batches are extracted."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ssltool
from ssltool import seeds
from ssltool.checkpoints.load import Pretrained
from ssltool.config import SaveReprsConfig
from ssltool.data.detection import absolute
from ssltool.data.fingerprint import fingerprint
from ssltool.data.found import record_of
from ssltool.data.images import ImageSet
from ssltool.data.loader import Batch, Loader
from ssltool.data.shard import ONE_PROCESS, Shard
from ssltool.errors import SSLToolError, counted, found_in
from ssltool.models.outputs import Features
from ssltool.models.tokens import KINDS
from ssltool.reprs.columns import column
from ssltool.reprs.kept_tokens import KeptTokens
from ssltool.reprs.nonfinite import all_finite
from ssltool.reprs.representations import PLACE, PLACES, Representations
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.device import DTYPES, autocast
from ssltool.training.launch import worker_count
from ssltool.training.setup import numbers_hash

VIEW_BLOCK = 256
"""Views that are drawn together, so that they are the same at any batch size."""


def extract_all(
    network: Pretrained, images: ImageSet, config: SaveReprsConfig, device: torch.device, shard: Shard = ONE_PROCESS
) -> Representations:
    """The representations of all ``images``, in order, in eval mode and in memory. Of several ranks, each computes its
    share of the batches, and all return all rows.

    Their shape is (N, d) with the validation transform, (N, Q, d) for Q augmented views, (N P, d) for P positions.
    """
    with distributed.raise_on_all_ranks():
        extraction = Extraction(network, images, config, device)
        own = extraction.share(shard)
        new = torch.empty if len(own) == len(images) else torch.zeros
        rows, done = new((len(images), *extraction.shape), dtype=extraction.dtype), own.start
        for batch in extraction.batches(own) if own else ():
            rows[done : done + len(batch)] = batch
            done += len(batch)
    if shard.world > 1:
        distributed.all_reduce_sum(rows)
    return extraction.to_representations(rows, range(len(images)), Shard())


class Extraction:
    """The extraction of the representations of ``images`` by ``network``, in the order of the images.

    ``shape`` is the shape of an image's rows: (d,), (Q, d) for Q views, or (P, d) for P positions, which are the
    ``tokens``. ``size`` is the number of images in a batch: that of the settings, or less so that each of ``ranks`` has
    a batch. Random views depend on it, so theirs is always the same.

    Raises:
        UsageError: if the network has no such layer.
        SSLToolError: if there are no images, a setting has no effect with the layer, or an image has fewer patches than
            are to be sampled.
    """

    def __init__(
        self, network: Pretrained, images: ImageSet, config: SaveReprsConfig, device: torch.device, ranks: int = 1
    ) -> None:
        if not len(images):
            raise SSLToolError(f"{images.name} {images.split} has no images; name another --split, or other DATA")
        self.network, self.images, self.config, self.device = network, images, config, device
        with found_in(config.pretrained):  # the layers depend on the checkpoint
            self.features = Features(network.method, config.layer, tokens=config.tokens, pool=config.pool)
        self.shape, tokens = self.features.outline(network.image_size, device)
        self.tokens = None if tokens is None else KeptTokens(tokens, config.sample_patches, network.run.seed)
        if self.tokens is not None:
            self.shape = (len(self.tokens), *self.shape[1:])
        self.places = 1 if self.tokens is None else len(self.tokens)
        self.dtype = DTYPES.get(config.dtype, torch.float32)
        if config.views is None:
            self.size = min(config.batch_size, max(1, len(images) // ranks))
        else:
            self.shape, self.size = (config.views, *self.shape), max(1, VIEW_BLOCK // config.views)

    def images_of(self, shard: Shard) -> range:
        """The images of one rank. They are whole batches, so that the rows are those of a single process.

        Raises:
            SSLToolError: if a rank would have no images.
        """
        total = len(self.images)
        steps = -(-total // self.size)
        if steps < shard.world:
            raise SSLToolError(
                f"{counted(total, 'image')} of {self.images.name} {self.images.split} are "
                f"{counted(steps, 'batch')} of {self.size}, fewer than {shard.world} ranks; start fewer ranks"
            )
        return self.share(shard)

    def share(self, shard: Shard) -> range:
        """The images of one rank, as ``images_of``; none if there are fewer batches than ranks."""
        total = len(self.images)
        steps = shard.span(-(-total // self.size))
        return range(steps.start * self.size, min(steps.stop * self.size, total))

    @torch.inference_mode()
    def batches(self, numbers: range) -> Generator[Tensor, None, None]:
        """The representations of the images ``numbers``, which start at the beginning of a batch.

        Yields (n, d), (n, Q, d) or (n, P, d) on the CPU, in order.
        """
        images, workers = self.images, worker_count(self.config.workers)
        with contextlib.closing(Loader(images, self.network.preprocessing, self.device, workers)) as loader:
            yield from _on_cpu(self._outputs(batch) for batch in self._loaded(loader, numbers))

    def _loaded(self, loader: Loader, numbers: range) -> Iterator[Batch]:
        if self.config.views is None:
            return loader.evaluate(self.size, np.arange(numbers.start, numbers.stop))
        seed = seeds.derive(self.network.run.seed, seeds.Stream.SAVED_VIEWS)
        recipes = [self.network.run.recipe] * self.config.views
        first, rows = numbers.start // self.size, np.arange(numbers.stop)
        return loader.train(rows, recipes, batch_size=self.size, seed=seed, epoch=0, first_step=first)

    def _outputs(self, batch: Batch) -> Tensor:
        view = torch.cat(batch.views) if len(batch.views) > 1 else batch.views[0]
        view = view.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.config.precision):
            outputs = [self.features(chunk) for chunk in view.split(self.config.batch_size)]
        out = (torch.cat(outputs) if len(outputs) > 1 else outputs[0]).to(self.dtype)
        if self.tokens is not None and self.tokens.sampled:
            out = self.tokens.take(out, self.images.index[batch.rows.cpu().numpy()])
        return out if self.config.views is None else out.unflatten(0, (self.config.views, -1)).transpose(0, 1)

    def to_representations(
        self, rows: Tensor, numbers: range, shard: Shard, folder: Path | None = None
    ) -> Representations:
        """The ``rows`` of the images ``numbers`` with their labels and metadata.

        With a ``folder``, columns with a value for each of several rows of an image are in unnamed files there.
        """
        images, part, tokens, times = self.images, slice(numbers.start, numbers.stop), self.tokens, self.places
        labels, index = (torch.from_numpy(each[part]) for each in (images.labels, images.index))
        paths = None if images.files is None else list(images.files[part])
        digests = None if images.digests is None else torch.from_numpy(images.digests[part])
        if tokens is None:
            return Representations(rows, labels, index, self.meta(shard), paths, digests)
        columns = {
            "targets": column(lambda some: labels[some].repeat_interleave(times), len(rows), folder),
            "index": column(lambda some: index[some].repeat_interleave(times), len(rows), folder),
        }
        for name in PLACES if self.config.tokens == "all" else PLACE:
            columns[name] = column(partial(tokens.column, name, index), len(rows), folder)
        return Representations(rows.flatten(0, 1), meta=self.meta(shard), paths=paths, digests=digests, **columns)

    def meta(self, shard: Shard) -> Record:
        """The network, images and settings that the rows come from, as files record them."""
        c, network, images = self.config, self.network, self.images
        return network.origin | {
            "dataset": images.name,
            "data": absolute(c.data),
            "split": images.split,
            "image_column": c.image_column,
            "label_column": c.label_column,
            "classes": list(images.classes),
            "fingerprint": images.fingerprint or None,
            "found": record_of(images),
            "layer": c.layer,
            "directions": self.features.directions,
            "tokens": c.tokens,
            "pool": c.pool,
            "places": self.places if self.places > 1 else None,
            "grid": None if self.tokens is None or self.tokens.grid is None else list(self.tokens.grid),
            "kinds": list(KINDS) if c.tokens == "all" else None,
            "sample_patches": c.sample_patches,
            "views": c.views,
            "sample": c.sample,
            "pixels": images.rules.settings(),
            "transform": _transform(images, network, c),
            "precision": c.precision,
            "shard": [shard.rank, shard.world] if shard.world > 1 else None,
            "ssltool": ssltool.__version__,
            "torch": str(torch.__version__),
            "seed": network.run.seed,
            "config": network.run.settings,
        }

    def refuse_nonfinite(self, rows: Tensor, numbers: range) -> None:
        """Checks the ``rows`` of the images ``numbers``.

        Raises:
            SSLToolError: if a value is NaN or infinite; the message names the first image.
        """
        if all_finite(rows):
            return
        wrong = ~torch.isfinite(rows).flatten(1).all(dim=1)
        row = numbers[int(wrong.nonzero()[0])]
        images = self.images
        image = f"image {images.index[row]}{f' ({images.files[row]})' if images.files is not None else ''}"
        raise SSLToolError(
            f"the {self.config.layer} of {self.config.pretrained or 'the network'} gives NaN or infinite values from "
            f"row {row} on, {image}; its weights are finite; use an earlier checkpoint"
        )

    def facts(self, shard: Shard) -> Record:
        """Everything that determines the rows bit for bit."""
        c, images = self.config, self.images
        settings = {"batch_size": c.batch_size, "dtype": c.dtype, "device": self.device.type, "data": c.data}
        hashes = {name: numbers_hash(column) for name, column in (("labels", images.labels), ("index", images.index))}
        contents = None if images.digests is None else fingerprint(images.files, images.digests)
        return self.meta(shard) | settings | hashes | {"images": contents, "fingerprint": images.fingerprint}


def _on_cpu(outputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Copies tensors to the CPU. Each is yielded after the next has been started, so that a GPU never waits for the
    caller."""
    previous: tuple[Tensor, torch.cuda.Event | None] | None = None
    for out in outputs:
        copy = out.to("cpu", non_blocking=out.is_cuda)
        copied = torch.cuda.current_stream(out.device).record_event() if out.is_cuda else None
        if previous is not None:
            yield _synchronised(*previous)
        previous = copy, copied
    if previous is not None:
        yield _synchronised(*previous)


def _synchronised(copy: Tensor, copied: torch.cuda.Event | None) -> Tensor:
    if copied is not None:
        copied.synchronize()
    return copy


def _transform(images: ImageSet, network: Pretrained, config: SaveReprsConfig) -> str:
    if config.views is not None:
        return f"{network.run.recipe}, {network.preprocessing.describe_views()}"
    return network.preprocessing.describe(images.image_size)
