"""Data strategies: the image indices of each epoch. All but ``replay`` are those of the collapse paper.

Li, Efros, Pathak, "Understanding Collapse in Non-Contrastive Siamese Representation Learning", ECCV 2022, Sec. 5. With
r = epochs // n_rounds epochs per round and chunk index c = (epoch mod r) // chunk_size, the subset of an epoch is

    iid         the whole order
    current     order[N*c*s // r : N*(c+1)*s // r]     a single pass: each image is in one chunk only
    accumulate  order[: N*(c+1)*s // r]                all chunks so far
    last        order[-N*s // r :]                     always the last chunk
    replay      that of current, and a buffer of ``replay_size`` images of the earlier chunks of the round

for N images and s = chunk_size epochs per chunk. The buffer is that of experience replay in continual learning
(Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", arXiv:1902.10486). It has the last images before
the chunk (``fifo``), or a uniform sample of all earlier ones (``reservoir``; Vitter, ACM TOMS 11, 1985). All epochs
have the same number of steps: the subset is permuted and trimmed to whole batches, repeatedly, until there are enough
batches.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

import numpy as np

from ssltool import seeds
from ssltool.config import STRATEGIES
from ssltool.data.computed_orders import ComputedOrder, Consecutive, Epoch, KeyedPermutation, Order
from ssltool.errors import SSLToolError, counted, unknown
from ssltool.files.npy_files import read_npy

LARGEST_EPOCH = 2**28
"""Maximum number of images of an epoch that ``steps_per_epoch`` sets; their numbers are in memory."""

FEW_STEPS = 8
"""With fewer steps in an epoch, a smaller batch is proposed."""

SMALLEST_BATCH = 16
"""Of the proposed batches: batch statistics of fewer images are inaccurate."""


def epoch_subset(order: Order, **schedule: Any) -> np.ndarray:
    """The subset of ``order`` (N,) used in an epoch: the replayed images and the slice; see ``epoch_parts``."""
    start, stop, replayed = epoch_parts(order, **schedule)
    return np.concatenate([replayed, order[start:stop]]) if len(replayed) else order[start:stop]


def epoch_parts(
    order: Order,
    *,
    strategy: str,
    epoch: int,
    epochs: int,
    chunk_size: int = 1,
    n_rounds: int = 1,
    replay_size: int | None = None,
    replay_rule: str = "reservoir",
    seed: int = 10,
) -> tuple[int, int, np.ndarray]:
    """The slice [start, stop) of ``order`` (N,) that ``epoch`` (from 0) uses, and the images that ``replay`` adds.

    These are the images of the buffer in their order, at most ``replay_size``, and none for the other strategies. The
    buffer is a function of the seed and the chunk: no state is carried from epoch to epoch.

    Raises:
        SSLToolError: for an unknown strategy, or if ``n_rounds`` does not divide ``epochs``.
    """
    n = len(order)
    bounds = _bounds(n, strategy=strategy, epoch=epoch, epochs=epochs, chunk_size=chunk_size, n_rounds=n_rounds)
    start, stop, _ = slice(*bounds).indices(n)
    replayed = order[:0]
    if strategy == "replay" and replay_size and start:
        if replay_rule == "fifo":
            replayed = order[max(0, start - replay_size) : start]
        else:
            replayed = order[buffer_places(reservoir_keys(n, seed), start, replay_size)]
    return start, stop, replayed


@functools.lru_cache(maxsize=1)
def reservoir_keys(n: int, seed: int) -> np.ndarray:
    """A random permutation of 0 to n - 1, independent of that of ``read_order``."""
    return np.random.RandomState(seeds.derive(seed, seeds.Stream.REPLAY) % 2**32).permutation(n)


def buffer_places(keys: np.ndarray, seen: int, size: int) -> np.ndarray:
    """The places, ascending, that a reservoir of ``size`` holds after the first ``seen`` places of the order.

    It holds those with the smallest ``keys``, which are random: each set of ``size`` places is equally likely, and a
    place that left the buffer does not come back.
    """
    if seen <= size:
        return np.arange(seen)
    return np.sort(np.argpartition(keys[:seen], size - 1)[:size])


def _bounds(
    n: int, *, strategy: str, epoch: int, epochs: int, chunk_size: int, n_rounds: int
) -> tuple[int | None, int | None]:
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if chunk_size < 1 or n_rounds < 1 or epochs % n_rounds:
        raise SSLToolError(
            f"--epochs {epochs}, --n-rounds {n_rounds} and --chunk-size {chunk_size} are incompatible; --n-rounds must "
            "divide --epochs, and --n-rounds and --chunk-size must be at least 1"
        )
    if not 0 <= epoch < epochs:
        raise SSLToolError(f"epoch is {epoch}; it must be from 0 to {epochs - 1}")
    per_round = epochs // n_rounds
    chunk = (epoch % per_round) // chunk_size
    if strategy in ("current", "replay"):
        return n * chunk * chunk_size // per_round, n * (chunk + 1) * chunk_size // per_round
    if strategy == "accumulate":
        return None, n * (chunk + 1) * chunk_size // per_round
    if strategy == "last":
        return -n * chunk_size // per_round, None  # the unary minus binds first, so the length is rounded up
    return None, None


def steps_in_epoch(n: int, batch_size: int, steps_per_epoch: int | None = None) -> int:
    """Steps per epoch for ``n`` images: ``steps_per_epoch``, or the number of whole batches if None.

    Raises:
        SSLToolError: if ``batch_size`` is larger than ``n``.
    """
    if batch_size > n:
        raise SSLToolError(f"--batch-size {batch_size} is larger than the number of images ({n}); lower it")
    return n // batch_size if steps_per_epoch is None else steps_per_epoch


def few_steps_notes(n: int, batch_size: int) -> list[str]:
    """The note on a batch size that leaves few steps in an epoch of ``n`` images, with one that makes at least
    twice as many."""
    steps = n // batch_size
    smaller = max(SMALLEST_BATCH, 2 ** int(math.log2(max(1, n / FEW_STEPS))))
    if steps >= FEW_STEPS or n // smaller < 2 * steps:
        return []
    return [f"an epoch has only {counted(steps, 'step')} of {batch_size} images; -b {smaller} makes {n // smaller}"]


def chunk_too_small_message(strategy: str, epoch: int, size: int, batch_size: int) -> str:
    """The error message for chunks that are smaller than a batch."""
    return (
        f"epoch {epoch + 1} of --strategy {strategy} has {size} images, fewer than the batch size ({batch_size}); "
        "lower --batch-size or --epochs, or raise --chunk-size"
    )


def epoch_indices(
    order: Order,
    *,
    strategy: str,
    epoch: int,
    batch_size: int,
    repeat_batch: int = 1,
    steps_per_epoch: int | None = None,
    seed: int = 10,
    **schedule: Any,
) -> Order:
    """The image indices of one epoch, in batch order.

    Args:
        order: (N,) integers, the order of the data. If they are computed, so are the indices.
        epoch: the epoch, from 0.
        batch_size: images per batch, over all ranks.
        repeat_batch: number of consecutive uses of each batch.
        steps_per_epoch: steps of the epoch; N // batch_size if None.
        seed: permutations come from ``numpy.random.RandomState(epoch + seed)``.
        schedule: ``epochs`` and the other arguments of ``epoch_parts``.

    Returns:
        (steps * batch_size,) int64, an array or a computed order. The arrays of ``current``, ``accumulate`` and
        ``last`` are identical to those of the paper's code.

    Raises:
        SSLToolError: for incompatible settings, or a subset smaller than a batch.
    """
    computed = isinstance(order, ComputedOrder)
    if not computed and steps_per_epoch is not None and steps_per_epoch * batch_size > LARGEST_EPOCH:
        raise SSLToolError(
            f"--steps-per-epoch {steps_per_epoch} of --batch-size {batch_size} are more than {LARGEST_EPOCH:,} images "
            "an epoch; lower one of them"
        )
    if min(batch_size, repeat_batch) < 1:
        raise SSLToolError(f"--batch-size {batch_size} and --repeat-batch {repeat_batch} must be at least 1")
    start, stop, replayed = epoch_parts(order, strategy=strategy, epoch=epoch, seed=seed, **schedule)
    steps = steps_in_epoch(len(order), batch_size, steps_per_epoch)
    size = len(replayed) + stop - start
    if size < batch_size:
        raise SSLToolError(chunk_too_small_message(strategy, epoch, size, batch_size))
    if isinstance(order, ComputedOrder):  # the buffer is the part of the order before the chunk
        start -= len(replayed)
        return Epoch(order, start, stop, batch_size, steps, min(repeat_batch, steps), seed, epoch)
    subset = np.concatenate([replayed, order[start:stop]])
    rng = np.random.RandomState(seed=(epoch + seed) % 2**32)
    whole = len(subset) - len(subset) % batch_size
    pieces: list[np.ndarray] = []
    filled = 0
    while filled < steps:
        batches = rng.permutation(subset)[:whole].reshape(-1, 1, batch_size)
        pieces.append(np.tile(batches, (1, min(repeat_batch, steps), 1)).reshape(-1))
        filled += len(batches) * min(repeat_batch, steps)
    return np.concatenate(pieces)[: steps * batch_size].astype(np.int64)


def images_seen(
    n: int, epochs_done: int, *, keyed_order: bool = False, stream: bool = False, seed: int = 10, **settings: Any
) -> int:
    """How many different ones of ``n`` images the first ``epochs_done`` epochs use.

    ``settings`` are those of ``epoch_indices`` without the order and the epoch. An order in an array does not change
    the number.

    Raises:
        SSLToolError: as ``epoch_indices``.
    """
    seen = np.zeros(n, dtype=bool)
    order = computed_order(n, seed, keyed=keyed_order, stream=stream)
    for epoch in range(epochs_done):
        used = epoch_indices(np.arange(n) if order is None else order, epoch=epoch, seed=seed, **settings)
        seen[np.asarray(used)] = True
        if seen.all():
            break
    return int(seen.sum())


def computed_order(n: int, seed: int, *, keyed: bool, stream: bool) -> ComputedOrder | None:
    """The order of ``n`` images with ``--keyed-order`` or ``--stream``; None without them."""
    if stream:
        return Consecutive(n)
    return KeyedPermutation(n, seed, seeds.Stream.ORDER) if keyed else None


def read_numbers(path: str, n: int | None, flag: str) -> np.ndarray:
    """Unique image indices from 0 to n - 1, int64, from the ``.npy`` file given with ``flag``. If ``n`` is None, they
    may be those of any number of images.

    Raises:
        SSLToolError: if the file is missing or not a 1-d integer array, or if indices are out of range or repeated.
    """
    try:
        numbers = read_npy(path)
    except SSLToolError as error:
        raise SSLToolError(f"{flag}: {error}") from error
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        found = f"{numbers.dtype} of shape {numbers.shape}"
        raise SSLToolError(f"{flag}: {path} must be a 1-d array of integers; found {found}")
    if not len(numbers):
        raise SSLToolError(f"{flag}: {path} is empty")
    n = sys.maxsize if n is None else n
    outside = numbers[(numbers < 0) | (numbers >= n)]
    if len(outside):
        raise SSLToolError(
            f"{flag}: {path} contains index {outside[0]}, which is out of range for {n} images (0 to {n - 1})"
        )
    unique, counts = np.unique(numbers, return_counts=True)
    if len(unique) < len(numbers):
        repeated = unique[counts > 1][0]
        raise SSLToolError(f"{flag}: {path} contains index {repeated} more than once; remove the duplicates")
    return numbers.astype(np.int64)


def read_order(path: str | None, n: int, seed: int) -> np.ndarray:
    """The order of ``n`` images: from ``path``, or a random permutation by ``seed`` if None.

    Raises:
        SSLToolError: if the file is not a permutation of 0 to n - 1.
    """
    if path is None:
        return np.random.RandomState(seed % 2**32).permutation(n).astype(np.int64)
    order = read_numbers(path, n, "--incremental-idx-path")
    if len(order) != n:
        raise SSLToolError(
            f"--incremental-idx-path: {path} has {len(order)} indices, but there are {n} images; list each image once"
        )
    return order
