"""Metrics of the patch tokens of images: ``tokens`` (N, P, d), P patches of each of N images, or an iterable of blocks
of images (n, P, d) that can be iterated several times.

They measure dense representations, which the metrics of one row per image do not see.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_rows import unit_length
from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.diagnosis.metrics.shared import Detailed, finite_rows
from ssltool.diagnosis.spectrum import Factor
from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.training.precision import widest_float

Images = Tensor | Iterable[Tensor]
"""Patches (N, P, d), or an iterable of blocks of images."""

GROUP = 8
"""Number of images of a block."""

HIGH_NORM = 2.0
"""A high norm is above this multiple of the median."""

DEVIATIONS = 5.0
"""A high norm is this number of standard deviations above the median, estimated from the median absolute deviation."""

MAD_OF_NORMAL = 0.6744897501960817
"""Median absolute deviation of a normal distribution of standard deviation 1."""


def patch_cosine(tokens: Images) -> float:
    """Mean cosine over all pairs of different patches of an image, averaged over images; exact in O(N P d).

    Range [-1 / (P - 1), 1]: 1 if all patches of each image have one direction, which is called oversmoothing. It does
    not compare images: if all images are equal, it need not rise.

    Raises:
        SSLToolError: for fewer than two patches, or values that are not finite.
    """
    each = []
    for block in image_blocks(tokens, 2):
        unit, count = unit_length(block), block.shape[1]
        squares = unit.square().sum(dim=(1, 2))  # P, less the rows of zeros
        each.append((unit.sum(dim=1).square().sum(dim=1) - squares) / (count * (count - 1)))
    return float(torch.cat(each).mean())


def patch_rank(tokens: Images) -> Detailed:
    """Mean over images of the effective rank of the centred patches of an image.

    Range [0, min(P - 1, d)]: 0 if all patches of each image are equal. The detail ``over_all`` is the effective rank of
    the patches of all images. O(N P d min(P, d)) time.

    Raises:
        SSLToolError: for values that are not finite.
    """
    factor, each = Factor(), list[float]()
    for block in image_blocks(tokens):
        factor.update(block.flatten(0, 1))
        each += ranks_of_images(block)
    return Detailed(sum(each) / len(each), over_all=effective_rank(factor.singular_values()))


def ranks_of_images(block: Tensor) -> list[float]:
    """The effective rank of the centred patches of each image of ``block`` (n, P, d), of floating-point numbers."""
    shifted = block - block[:, :1]  # equal patches become exactly 0
    return list(map(effective_rank, torch.linalg.svdvals(shifted - shifted.mean(dim=1, keepdim=True))))


def high_norm_tokens(tokens: Images) -> Detailed:
    """Share of the patches whose norm is above twice the median and above the median + 5 standard deviations, estimated
    as the median absolute deviation / 0.674.

    Range [0, 0.5]: 0 if no patch stands out. Large ViTs store information of the whole image in a few patches of
    background (Darcet et al., ICLR 2024, arXiv:2309.16588), about 2 % with a norm that is several times that of others;
    registers prevent it. The paper sets the cut by eye for one network, as a number. Norms after a layer norm vary
    less: take the tokens before the last one, if the network has it. Details: the ``cut``, the ``median`` and the
    ``highest`` norm.

    Raises:
        SSLToolError: for values that are not finite.
    """
    norms = torch.cat([torch.linalg.vector_norm(block, dim=2).flatten() for block in image_blocks(tokens)])
    median = norms.median()
    deviation = (norms - median).abs().median() / MAD_OF_NORMAL
    cut = torch.maximum(HIGH_NORM * median, median + DEVIATIONS * deviation)
    share = float((norms > cut).double().mean())
    return Detailed(share, cut=float(cut), median=float(median), highest=float(norms.max()))


def cls_patch_cosine(cls: Tensor, patches: Images) -> float:
    """Mean cosine of the class token (N, d) and each patch of its image.

    Range [-1, 1]: 1 if every patch has the direction of the class token, and holds nothing about its place.

    Raises:
        SSLToolError: for different numbers of images or widths, or values that are not finite.
    """
    unit, seen, total = unit_length(finite_rows(cls)), 0, 0.0
    for block in image_blocks(patches):
        own = unit[seen : seen + len(block)]
        if own.shape != (len(block), block.shape[2]):
            raise SSLToolError(f"class tokens {tuple(cls.shape)} and patches {tuple(block.shape)} do not match")
        total += float((unit_length(block) @ own[:, :, None]).mean(dim=(1, 2)).sum())
        seen += len(block)
    if seen < len(unit):
        raise SSLToolError(f"{len(unit):,} class tokens and patches of {seen:,} images do not match")
    return total / seen


def gram_drift(now: Images, before: Images) -> float:
    """Mean over images of the mean squared difference of the cosines of all pairs of patches: that of X X^T and
    Y Y^T (P, P), with the L2-normalised patches X ``now`` and Y ``before``.

    Range [0, 4]: 0 if the patches of each image are as similar to each other as before. Widths may differ; rotations do
    not change it. It is the Gram loss of DINOv3 (arXiv:2508.10104) of single images, in which negative cosines stay:
    ``img_level: true`` and ``remove_neg: false`` in its configuration. The diagonal, which is always 0, counts.

    Raises:
        SSLToolError: if the images or their patches differ in number, or values are not finite.
    """
    each = list[Tensor]()
    for x, y in itertools.zip_longest(_single_images(now), _single_images(before)):
        if x is None or y is None or len(x) != len(y):
            found = ["none" if image is None else f"{len(image)} patches" for image in (x, y)]
            raise SSLToolError(f"image {len(each)} has {found[0]} now and {found[1]} before; both must be of one shape")
        each.append((x @ x.T - y @ y.T).square().mean())
    return float(torch.stack(each).mean())


def image_blocks(tokens: Images, least: int = 1) -> Iterator[Tensor]:
    """Yields blocks of images (n, P, d) in float64 (float32 on MPS). A tensor is split; the blocks of an iterable stay.

    Raises:
        SSLToolError: if there are no images, a block is not (n, P, d) with at least ``least`` patches, or values are
            not finite.
    """
    seen = 0
    for block in tokens.split(GROUP) if isinstance(tokens, Tensor) and len(tokens) else tokens:
        if block.dim() != 3 or block.shape[1] < least or not block.shape[2]:
            raise SSLToolError(
                f"this metric requires patches (N, P, d), at least {least} of each image; found {tuple(block.shape)}"
            )
        refuse_nonfinite(block)
        seen += len(block)
        yield block.to(widest_float(block.device))
    if not seen:
        raise SSLToolError("there are no images; this metric requires the patches of at least one")


def _single_images(tokens: Images) -> Iterator[Tensor]:
    return (image for block in image_blocks(tokens) for image in unit_length(block))
