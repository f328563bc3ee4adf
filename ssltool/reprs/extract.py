"""What becomes of images in a network: a batch at a time, each image the same whichever batches are asked for."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

import ssltool
from ssltool import seeds
from ssltool.checkpoints.load import Pretrained
from ssltool.config import SaveReprsConfig
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.loader import Batch, Loader, Shard
from ssltool.errors import SSLToolError, found_in
from ssltool.files import Record
from ssltool.models.outputs import Features
from ssltool.reprs.representations import Representations
from ssltool.training.device import DTYPES, autocast, worker_count

VIEWS_AT_ONCE = 256
"""Views that are drawn together, so that they are the same at any batch size."""


def extract_all(
    network: Pretrained, images: ImageSet, config: SaveReprsConfig, device: torch.device
) -> Representations:
    """What the settings ask of all ``images`` in order, in eval mode, in memory: (N, d) by the validation transform,
    (N, Q, d) of Q augmented views, or (N P, d) of P places."""
    one = Extraction(network, images, config, device)
    rows, done = torch.empty((len(images), *one.shape), dtype=one.dtype), 0
    for batch in one.batches(range(len(images))):
        rows[done : done + len(batch)] = batch
        done += len(batch)
    return one.stored(rows, range(len(images)), Shard())


class Extraction:
    """One network and one set of images: what becomes of each image, and in what order."""

    def __init__(self, network: Pretrained, images: ImageSet, config: SaveReprsConfig, device: torch.device) -> None:
        if not len(images):
            raise SSLToolError(f"{images.name} {images.split} has no images")
        self.network, self.images, self.config, self.device = network, images, config, device
        with found_in(config.pretrained):  # which layers there are
            self.features = Features(network.method, config.layer, tokens=config.tokens, pool=config.pool)
        self.shape = self.features.shape(network.image_size, device)
        self.keeps_places = len(self.shape) == 2
        self.places = self.shape[0] if self.keeps_places else 1
        self.dtype = DTYPES.get(config.dtype, torch.float32)
        self.size = config.batch_size
        if config.views is not None:
            self.shape = (config.views, *self.shape)
            self.size = max(1, VIEWS_AT_ONCE // config.views)

    def part(self, shard: Shard) -> range:
        """The images of one rank: whole batches, so that they are those of a single process.

        Raises:
            SSLToolError: if there are fewer batches than ranks.
        """
        total = len(self.images)
        steps = -(-total // self.size)
        if steps < shard.world:
            raise SSLToolError(
                f"{total} images of {self.images.name} {self.images.split} are {steps} batches of {self.size}, too few "
                f"for {shard.world} ranks; lower --batch-size or start fewer"
            )
        first, last = (steps * rank // shard.world * self.size for rank in (shard.rank, shard.rank + 1))
        return range(first, min(last, total))

    @torch.inference_mode()
    def batches(self, part: range) -> Generator[Tensor, None, None]:
        """What becomes of the images in ``part``, which begins at a whole batch: (n, d), (n, Q, d) or (n, P, d) on the
        CPU, in order."""
        images, workers = self.images, worker_count(self.config.workers)
        with contextlib.closing(Loader(images, self.network.image_size, self.device, workers)) as loader:
            yield from _on_cpu(self._outputs(batch) for batch in self._loaded(loader, part))

    def _loaded(self, loader: Loader, part: range) -> Iterator[Batch]:
        if self.config.views is None:
            return loader.evaluate(self.size, np.arange(part.start, part.stop))
        seed = seeds.derive(self.network.run.seed, seeds.Stream.SAVED_VIEWS)
        recipes = [self.network.run.recipe] * self.config.views
        first, upto = part.start // self.size, np.arange(part.stop)
        return loader.train(upto, recipes, batch_size=self.size, seed=seed, epoch=0, first_step=first)

    def _outputs(self, batch: Batch) -> Tensor:
        view = torch.cat(batch.views) if len(batch.views) > 1 else batch.views[0]
        view = view.contiguous(memory_format=torch.channels_last)
        with autocast(self.device, self.config.precision):
            made = [self.features(few) for few in view.split(self.config.batch_size)]
        out = (torch.cat(made) if len(made) > 1 else made[0]).to(self.dtype)
        return out if self.config.views is None else out.unflatten(0, (self.config.views, -1)).transpose(0, 1)

    def stored(self, rows: Tensor, part: range, shard: Shard) -> Representations:
        """The finished file of the images in ``part``."""
        columns = [column[part.start : part.stop] for column in (self.images.labels, self.images.index)]
        labels, index = (torch.from_numpy(column).repeat_interleave(self.places) for column in columns)
        return Representations(rows.flatten(0, 1) if self.keeps_places else rows, labels, index, self.meta(shard))

    def meta(self, shard: Shard) -> Record:
        """Where the rows come from."""
        c, network, images = self.config, self.network, self.images
        return network.origin | {
            "dataset": images.name,
            "split": images.split,
            "classes": list(images.classes),
            "layer": c.layer,
            "directions": self.features.directions,
            "tokens": c.tokens,
            "pool": c.pool,
            "places": self.places if self.places > 1 else None,
            "views": c.views,
            "sample": c.sample,
            "transform": _transform(images, network, c),
            "precision": c.precision,
            "shard": [shard.rank, shard.world] if shard.world > 1 else None,
            "ssltool": ssltool.__version__,
            "torch": str(torch.__version__),
            "seed": network.run.seed,
            "config": network.run.settings,
        }

    def facts(self, shard: Shard) -> Record:
        """Everything that the rows depend on, to the last bit."""
        digest = hashlib.sha256("\0".join(self.images.paths or ()).encode())
        for column in (self.images.labels, self.images.index):
            digest.update(np.ascontiguousarray(column).tobytes())
        c = self.config
        own = {"batch_size": c.batch_size, "dtype": c.dtype, "device": self.device.type, "data": c.data}
        return self.meta(shard) | own | {"images": digest.hexdigest()}


def _on_cpu(made: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors on the CPU, each handed on when a GPU has begun with the next, so that it does not wait for what is
    done with them here."""
    before: tuple[Tensor, torch.cuda.Event | None] | None = None
    for out in made:
        copy = out.to("cpu", non_blocking=out.is_cuda)
        copied = torch.cuda.current_stream(out.device).record_event() if out.is_cuda else None
        if before is not None:
            yield _arrived(*before)
        before = copy, copied
    if before is not None:
        yield _arrived(*before)


def _arrived(copy: Tensor, copied: torch.cuda.Event | None) -> Tensor:
    if copied is not None:
        copied.synchronize()
    return copy


def _transform(images: ImageSet, network: Pretrained, config: SaveReprsConfig) -> str:
    normalise, size = f"normalise mean {views.MEAN} std {views.STD}", network.image_size
    if config.views is not None:
        return f"{network.run.recipe}, {normalise}"
    if images.images is not None and images.images.shape[-1] == images.images.shape[-2] == size:
        return normalise
    return f"resize {views.eval_resize(size)}, centre crop {size}, {normalise}"
