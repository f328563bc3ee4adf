"""The images that a monitor embeds: a fixed sample, kept in memory, of which each rank embeds its share."""

from __future__ import annotations

import copy
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssltool.diagnosis.isolation import same_randomness
from ssltool.errors import SSLToolError

IMAGE_KEYS, LABEL_KEYS = ("image", "images", "pixel_values"), ("label", "labels")
"""Keys of the images and labels of a batch that is a dict."""

BATCH_SIZE = 256
"""Images per forward pass."""


def process_group() -> ModuleType | None:
    """``ssltool.training.distributed`` if the program has initialised a process group, else None."""
    group = sys.modules.get("torch.distributed")
    if group is None or not group.is_available() or not group.is_initialized():
        return None
    from ssltool.training import distributed

    return distributed


class Probe:
    """The images of a monitor, with ``labels`` (N,), -1 where unknown.

    ``batches`` yields the share of this rank, equally many images on all ranks; ``gathered`` has all rows.
    """

    labels: Tensor

    def batches(self, like: Tensor | None) -> Iterator[Tensor]:
        """Batches (n, 3, S, S) on the device and of the type of ``like``, in tensors that may be changed."""
        raise NotImplementedError

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows (N, ...) of all images, from the ``rows`` of this rank's share."""
        raise NotImplementedError

    @property
    def fingerprint(self) -> str | None:
        """A hash of the images; None if it is not known."""
        return None


class KeptImages(Probe):
    """``images`` (n, 3, S, S) in memory.

    If all ranks have the same images, each embeds a share. Otherwise, as with a distributed sampler, each embeds its
    own, in all about ``size``.
    """

    def __init__(self, images: Tensor, labels: Tensor | None, size: int) -> None:
        self.images, self.size = images, size
        self.labels = torch.full((len(images),), -1) if labels is None else labels
        self._share: _Share | None = None

    @classmethod
    def of(cls, images: Any, labels: Tensor | Sequence[int] | None, size: int) -> KeptImages:
        """Up to ``size`` images of a tensor or of an iterable of batches. Random states do not change.

        Raises:
            SSLToolError: for fewer than two images, or what is not a tensor of images, or labels that do not fit.
        """
        if isinstance(images, Tensor):
            kept, found = _checked(images)[:size], None
        else:
            kept, found = _collected(images, size)
        if len(kept) < 2:
            raise SSLToolError(f"the monitor needs at least 2 images; found {len(kept)}")
        if labels is not None:
            found = _as_labels(labels)
            if found is None or len(found) < len(kept):
                raise SSLToolError(
                    f"labels must be one whole number per image, for {len(kept):,} images; found "
                    f"{'values that are not' if found is None else f'{len(found):,}'}"
                )
        return cls(kept.detach().clone(), None if found is None else found[: len(kept)].clone(), size)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the images."""
        digest = hashlib.blake2b(str((tuple(self.images.shape), self.images.dtype)).encode(), digest_size=8)
        digest.update(self.images.cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batches(self, like: Tensor | None) -> Iterator[Tensor]:
        """Batches of this rank's share."""
        if self._share is None:
            self._share = _Share.agreed(self, torch.device("cpu") if like is None else like.device)
            self.labels = self._share.labels
        for numbers in self._share.numbers.split(BATCH_SIZE):
            batch = self.images[numbers.to(self.images.device)]  # a copy
            if like is not None:
                batch = batch.to(like.device, like.dtype if batch.is_floating_point() else None)
            yield batch

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all images."""
        return rows if self._share is None else self._share.joined(rows)


class _Share:
    """The images that this rank embeds: their ``numbers``, padded to the same count on all ranks, the ``counts`` of
    rows that each rank contributes, and the ``labels`` of all images."""

    def __init__(self, numbers: Tensor, counts: Sequence[int], labels: Tensor) -> None:
        self.numbers, self.counts, self.labels = numbers, counts, labels

    @classmethod
    def agreed(cls, kept: KeptImages, device: torch.device) -> _Share:
        """The share that follows from the images of all ranks, which exchange their number and hash on ``device``."""
        group, n = process_group(), len(kept.images)
        if group is None:
            return cls(torch.arange(n), [n], kept.labels)
        shard = group.group_shard()
        own = torch.tensor([[n, int(kept.fingerprint, 16) >> 1]], device=device)
        found = group.gather(own).cpu()
        if bool((found == found[0]).all()):
            numbers = torch.from_numpy(shard.padded(n))
            share = len(numbers)
            return cls(numbers, [min(share, max(0, n - share * rank)) for rank in range(shard.world)], kept.labels)
        most = -(-kept.size // shard.world)
        counts = [min(count, most) for count in found[:, 0].tolist()]
        numbers = torch.from_numpy(np.resize(np.arange(counts[shard.rank]), max(counts)))
        result = cls(numbers, counts, kept.labels)
        result.labels = result.joined(kept.labels[numbers].to(device)).cpu()
        return result

    def joined(self, rows: Tensor) -> Tensor:
        """The rows of all ranks without those that pad."""
        group = process_group()
        if group is None:
            return rows
        parts = group.gather(rows).chunk(len(self.counts))
        return torch.cat([part[:count] for part, count in zip(parts, self.counts, strict=True)])


def _collected(batches: Any, size: int) -> tuple[Tensor, Tensor | None]:
    """Up to ``size`` images of an iterable of batches, and their labels if all batches have them."""
    if not isinstance(batches, Iterable):
        raise SSLToolError(
            f"images is a {type(batches).__name__}; give a tensor (N, 3, S, S) or an iterable of batches"
        )
    images, labels, count = [], [], 0
    with same_randomness(), _Untouched(batches) as loader:
        for batch in loader:
            given_images, given = _parts(batch)
            images.append(_checked(given_images)[: size - count].cpu())
            given = _as_labels(given)
            if given is not None and len(given) >= len(images[-1]):
                labels.append(given[: len(images[-1])].cpu())
            count += len(images[-1])
            if count >= size:
                break
    shapes = {tuple(part.shape[1:]) for part in images}
    if len(shapes) > 1:
        raise SSLToolError(f"the images of the batches have different shapes: {sorted(shapes)}; give them one shape")
    if not images:
        raise SSLToolError("the monitor needs at least 2 images; found no batch")
    return torch.cat(images), torch.cat(labels) if len(labels) == len(images) else None


def _parts(batch: Any) -> tuple[Any, Any]:
    """The images and the labels of a batch; None for labels that it does not have."""
    if isinstance(batch, Mapping):
        images = next((batch[key] for key in IMAGE_KEYS if key in batch), batch)
        return images, next((batch[key] for key in LABEL_KEYS if key in batch), None)
    if isinstance(batch, (tuple, list)):
        return (batch[0] if batch else None), (batch[1] if len(batch) > 1 else None)
    return batch, None


class _Untouched:
    """Context manager that iterates over ``batches`` and restores the generators of a DataLoader, of which it uses a
    copy: the workers of the loader itself do not start."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.states: list[tuple[torch.Generator, Tensor]] = []

    def __enter__(self) -> Iterable[Any]:
        loader: Any = self.batches
        if not isinstance(loader, DataLoader):
            return self.batches
        owners = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        for owner in owners:
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                self.states.append((generator, generator.get_state()))
        again: Any = copy.copy(loader)
        again._iterator = None  # that of persistent workers
        return again  # type: ignore[no-any-return]

    def __exit__(self, *exc: object) -> None:
        for generator, state in self.states:
            generator.set_state(state)


def _checked(images: Any) -> Tensor:
    if not isinstance(images, Tensor) or images.dim() != 4 or images.is_complex():
        found = f"a tensor {tuple(images.shape)}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise SSLToolError(
            f"the images of the monitor are {found}; give a tensor (N, 3, S, S), or batches that are such tensors, "
            f"tuples (images, labels, ...), or dicts with {' or '.join(IMAGE_KEYS)}"
        )
    return images


def _as_labels(labels: Any) -> Tensor | None:
    """``labels`` as (n,) int64; None if they are not whole numbers."""
    try:
        found = torch.as_tensor([] if labels is None else labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if found.dim() != 1 or found.is_floating_point() or found.is_complex() else found.long().cpu()
