"""Which images each epoch sees: the collapse paper's data strategies, as index sequences. NumPy only.

Li, Efros, Pathak, "Understanding Collapse in Non-Contrastive Siamese Representation Learning", ECCV 2022, Sec. 5. With
r = epochs // n_rounds epochs in a round and c = (epoch mod r) // chunk_size the number of the chunk, an epoch's
subset is

    iid         the whole order
    current     order[N*c*s // r : N*(c+1)*s // r]     a single pass: every image is seen in one chunk only
    accumulate  order[: N*(c+1)*s // r]                all chunks so far
    last        order[-N*s // r :]                     the last chunk, throughout

for N images and chunks of s epochs. Every epoch has the same number of steps whatever its subset: the subset is
permuted, trimmed to whole batches, and permuted again until there are enough.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssltool.config import STRATEGIES
from ssltool.errors import SSLToolError, unknown


def epoch_subset(
    order: np.ndarray, *, strategy: str, epoch: int, epochs: int, chunk_size: int = 1, n_rounds: int = 1
) -> np.ndarray:
    """The part of ``order`` (N,) that ``epoch`` (from 0) draws from.

    Raises:
        SSLToolError: for an unknown strategy, or rounds that do not divide the epochs.
    """
    start, stop = _bounds(
        len(order), strategy=strategy, epoch=epoch, epochs=epochs, chunk_size=chunk_size, n_rounds=n_rounds
    )
    return order[start:stop]


def _bounds(
    n: int, *, strategy: str, epoch: int, epochs: int, chunk_size: int, n_rounds: int
) -> tuple[int | None, int | None]:
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if chunk_size < 1 or n_rounds < 1 or epochs % n_rounds:
        raise SSLToolError(
            f"{epochs} epochs, {n_rounds} rounds and chunks of {chunk_size} epochs do not go together; "
            "--n-rounds must divide --epochs, and both it and --chunk-size be at least 1"
        )
    if not 0 <= epoch < epochs:
        raise SSLToolError(f"epoch is {epoch}; it must be from 0 to {epochs - 1}")
    per_round = epochs // n_rounds
    chunk = (epoch % per_round) // chunk_size
    if strategy == "current":
        return n * chunk * chunk_size // per_round, n * (chunk + 1) * chunk_size // per_round
    if strategy == "accumulate":
        return None, n * (chunk + 1) * chunk_size // per_round
    if strategy == "last":
        return -n * chunk_size // per_round, None  # the minus binds first: the length is rounded up
    return None, None


def steps_in_epoch(n: int, batch_size: int, steps_per_epoch: int | None = None) -> int:
    """Steps of every epoch over ``n`` images: ``steps_per_epoch``, or as many whole batches as there are.

    Raises:
        SSLToolError: if not even one batch fits.
    """
    if batch_size > n:
        raise SSLToolError(f"a batch of {batch_size} is larger than the data of {n} images; lower --batch-size")
    return n // batch_size if steps_per_epoch is None else steps_per_epoch


def chunk_too_small(strategy: str, epoch: int, size: int, batch_size: int) -> str:
    """What to tell whoever asked for chunks of less than a batch."""
    return (
        f"epoch {epoch + 1} of --strategy {strategy} has {size} images, fewer than one batch of {batch_size}; "
        "lower --batch-size or --epochs, or raise --chunk-size"
    )


def epoch_indices(
    order: np.ndarray,
    *,
    strategy: str,
    epoch: int,
    epochs: int,
    batch_size: int,
    chunk_size: int = 1,
    n_rounds: int = 1,
    repeat_batch: int = 1,
    steps_per_epoch: int | None = None,
    seed: int = 10,
) -> np.ndarray:
    """The image numbers of one epoch, batch after batch.

    Args:
        order: (N,) integers, the order in which the data arrives.
        epoch: the epoch, from 0.
        batch_size: the batch over all ranks.
        repeat_batch: times each batch is used in a row.
        steps_per_epoch: steps of the epoch; N // batch_size when None.
        seed: the permutations are ``numpy.random.RandomState(epoch + seed)``'s.

    Returns:
        (steps * batch_size,) int64; for ``current``, ``accumulate`` and ``last`` the sequence of the paper's code,
        element for element.

    Raises:
        SSLToolError: for settings that do not go together, or a subset smaller than one batch.
    """
    if min(batch_size, repeat_batch) < 1:
        raise SSLToolError(f"batches of {batch_size} used {repeat_batch} times in a row; both must be at least 1")
    subset = epoch_subset(
        order, strategy=strategy, epoch=epoch, epochs=epochs, chunk_size=chunk_size, n_rounds=n_rounds
    )
    steps = steps_in_epoch(len(order), batch_size, steps_per_epoch)
    if len(subset) < batch_size:
        raise SSLToolError(chunk_too_small(strategy, epoch, len(subset), batch_size))
    rng = np.random.RandomState(seed=(epoch + seed) % 2**32)
    whole = len(subset) - len(subset) % batch_size
    pieces: list[np.ndarray] = []
    filled = 0
    while filled < steps:
        batches = rng.permutation(subset)[:whole].reshape(-1, 1, batch_size)
        pieces.append(np.tile(batches, (1, repeat_batch, 1)).reshape(-1))
        filled += len(batches) * repeat_batch
    return np.concatenate(pieces)[: steps * batch_size].astype(np.int64)


def read_numbers(path: str, n: int, flag: str) -> np.ndarray:
    """Image numbers from the ``.npy`` file given with ``flag``: int64, each from 0 to n - 1 and only once.

    Raises:
        SSLToolError: if the file is missing, no array of integers, or its numbers are out of range or repeated.
    """
    if not Path(path).is_file():
        raise SSLToolError(f"{flag}: no such file: {path}")
    try:
        with open(path, "rb") as stream:
            numbers = np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise SSLToolError(f"{flag}: {path} is not a .npy array ({error}); write it with numpy.save") from error
    if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
        found = f"{numbers.dtype} of shape {numbers.shape}"
        raise SSLToolError(f"{flag}: {path} must hold one row of integers; found {found}")
    if not len(numbers):
        raise SSLToolError(f"{flag}: {path} names no image at all")
    outside = numbers[(numbers < 0) | (numbers >= n)]
    if len(outside):
        raise SSLToolError(
            f"{flag}: {path} names image {outside[0]}, but the data's {n} images are numbered 0 to {n - 1}"
        )
    unique, counts = np.unique(numbers, return_counts=True)
    if len(unique) < len(numbers):
        raise SSLToolError(f"{flag}: {path} names image {unique[counts > 1][0]} more than once; remove the duplicates")
    return numbers.astype(np.int64)


def read_order(path: str | None, n: int, seed: int) -> np.ndarray:
    """The order of ``n`` images: from ``path``, or random by ``seed``.

    Raises:
        SSLToolError: if the file is not a permutation of 0 to n - 1.
    """
    if path is None:
        return np.random.RandomState(seed).permutation(n).astype(np.int64)
    order = read_numbers(path, n, "--incremental-idx-path")
    if len(order) != n:
        raise SSLToolError(
            f"--incremental-idx-path: {path} orders {len(order)} images, but the data has {n}; name every image once"
        )
    return order
