"""Convolutions of maps of a few pixels, as the last stages of a ResNet have for small images.

oneDNN, which computes convolutions on a CPU, is slow for such maps, above all in the backward pass. In training they
are one matrix product instead, where that is faster: of the windows of the image and the kernel (``WindowProduct``), or
of the whole map and a matrix that holds the kernel once for each output (``MapProduct``).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ssltool.training.processor import cpu_flags

FEWEST_CHANNELS = 64
PAYS_FROM = {torch.float32: 28, torch.float64: 28, torch.bfloat16: 64}
PAYS_FROM_WITH_AMX = 5
"""Channels of the output for each of its pixels from which copying the windows costs less than their product saves."""


class Taps(NamedTuple):
    """A convolution in one dimension: the ``used`` part of its kernel, and the ``stride`` and ``padding`` with which it
    makes ``outputs`` pixels of ``inputs``."""

    inputs: int
    outputs: int
    used: slice
    stride: int
    padding: int

    @property
    def length(self) -> int:
        """The number of used taps."""
        return int(self.used.stop - self.used.start)

    @property
    def overlap(self) -> bool:
        """Whether a pixel is in several windows."""
        return self.outputs > 1 and self.length > self.stride

    def pairs(self) -> list[tuple[int, int, int]]:
        """The (output, input, tap) that are multiplied, counted from 0 each."""
        found = []
        for output in range(self.outputs):
            first = output * self.stride - self.padding
            found += [(output, first + tap, tap) for tap in range(self.length) if 0 <= first + tap < self.inputs]
        return found


def taps_of(inputs: int, kernel: int, stride: int, padding: int) -> Taps:
    """The taps of a kernel that meet a map of ``inputs`` pixels, in one dimension: all of them, unless some meet only
    padding, as all but the centre of three do over a map of one pixel."""
    outputs = (inputs + 2 * padding - kernel) // stride + 1
    met = [tap for tap in range(kernel) if any(0 <= o * stride + tap - padding < inputs for o in range(outputs))]
    whole = Taps(inputs, outputs, slice(0, kernel), stride, padding)
    if not met:
        return whole
    used = slice(met[0], met[-1] + 1)
    left, length = padding - used.start, used.stop - used.start
    if (inputs + 2 * left - length) // stride + 1 != outputs:
        return whole
    return Taps(inputs, outputs, used, 1 if inputs + 2 * left == length else stride, left)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is faster for small maps, in training.

    It leaves out the rows and columns of its kernel which meet only padding, and computes a matrix product where that
    is faster on a CPU. The result and the gradients are those of ``nn.Conv2d`` but for rounding.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or isinstance(self.padding, str):
            return super().forward(images)
        sizes, geometry = images.shape[-2:], (self.kernel_size, self.stride, self.padding)
        rows, columns = (taps_of(*given) for given in zip(sizes, *geometry, strict=True))
        whole = rows.length == self.kernel_size[0] and columns.length == self.kernel_size[1]
        weight = self.weight if whole else self.weight[:, :, rows.used, columns.used]
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            if torch.is_autocast_enabled("cpu"):
                dtype = torch.get_autocast_dtype("cpu")
                images, weight = images.to(dtype), weight.to(dtype)
            product = faster_product(weight, rows, columns)
            if product is not None:
                made: Tensor = product.apply(images, weight, rows, columns)  # type: ignore[no-untyped-call]
                return made if self.bias is None else made + self.bias.to(made.dtype)[:, None, None]
        strides, padding = (rows.stride, columns.stride), (rows.padding, columns.padding)
        return F.conv2d(images, weight, self.bias, strides, padding)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Makes the convolutions of ``network`` ``SmallMapConv2d``; those that are dilated or grouped stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and max(module.dilation) == 1 and module.groups == 1:
            module.__class__ = SmallMapConv2d


def faster_product(weight: Tensor, rows: Taps, columns: Taps) -> type[Function] | None:
    """The matrix product that is faster than oneDNN's convolution with the ``weight`` (O, C, K, M), or None.

    The rule follows from measured forward and backward passes, with and without AMX; see ``benchmarks/small_maps.py``.
    """
    made, given = weight.shape[:2]
    pixels, overlap = rows.outputs * columns.outputs, rows.overlap or columns.overlap
    if weight.dtype not in PAYS_FROM:
        return None
    if overlap and rows.inputs * columns.inputs <= 4:
        return MapProduct if min(made, given) >= FEWEST_CHANNELS else None
    skips = rows.length < rows.stride and columns.length < columns.stride  # which oneDNN reads all the same
    if not overlap and pixels <= (25 if skips else 4):
        return WindowProduct
    channels = PAYS_FROM[weight.dtype] if not (weight.dtype is torch.bfloat16 and has_amx()) else PAYS_FROM_WITH_AMX
    return WindowProduct if pixels <= 49 and made >= max(FEWEST_CHANNELS, channels * pixels) else None


@functools.cache
def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16."""
    return "amx_bf16" in cpu_flags()


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C), without a copy if that is how it lies in memory."""
    return x.permute(0, 2, 3, 1)


class WindowProduct(Function):
    """A convolution as the product of all windows (B H' W', K M C) and the kernel (K M C, O)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
        """The outputs (B, O, H', W') of images (B, C, H, W) and a weight (O, C, K, M)."""
        padded = F.pad(_channels_last(images), (0, 0, *2 * (columns.padding,), *2 * (rows.padding,))).contiguous()
        batch, height, width, channels = padded.shape
        windows = padded.as_strided(
            (batch, rows.outputs, columns.outputs, rows.length, columns.length, channels),
            (
                *(height * width * channels, rows.stride * width * channels, columns.stride * channels),
                *(width * channels, channels, 1),
            ),
        ).reshape(batch * rows.outputs * columns.outputs, -1)
        kernel = _channels_last(weight).reshape(len(weight), -1)
        ctx.save_for_backward(windows, kernel)
        ctx.given = (padded.shape, weight.shape, rows, columns)
        return (windows @ kernel.t()).view(batch, rows.outputs, columns.outputs, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """The gradients of images and weight."""
        windows, kernel = ctx.saved_tensors
        (batch, height, width, channels), shape, rows, columns = ctx.given
        grad = _channels_last(grad).reshape(-1, len(kernel))
        of_weight = _empty(shape, grad)
        torch.mm(grad.t(), windows, out=_channels_last(of_weight).view(len(kernel), -1))
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None, None
        parts = (grad @ kernel).view(batch, rows.outputs, columns.outputs, rows.length, columns.length, channels)
        of_padded = _empty((batch, channels, height, width), grad).zero_()
        pixels = _channels_last(of_padded)
        for k in range(rows.length):
            for m in range(columns.length):
                pixels[:, _every(k, rows), _every(m, columns)] += parts[:, :, :, k, m]
        inside = slice(rows.padding, height - rows.padding), slice(columns.padding, width - columns.padding)
        return of_padded[:, :, inside[0], inside[1]], of_weight, None, None


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of ``shape`` (A, B, H, W) in channels-last memory, in dimensions of 1 too, as weights have it. It is no
    view, so that autograd adds the gradients of several passes in place."""
    _, channels, height, width = shape
    return like.new_empty_strided(shape, (height * width * channels, 1, width * channels, channels))


def _every(first: int, taps: Taps) -> slice:
    """The pixels of a padded map that a tap meets."""
    return slice(first, first + taps.stride * (taps.outputs - 1) + 1, taps.stride)


class MapProduct(Function):
    """A convolution as the product of all maps (B, H W C) and a matrix (H W C, H' W' O) of taps and zeros."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
        """The outputs (B, O, H', W') of images (B, C, H, W) and a weight (O, C, K, M)."""
        made, given = weight.shape[:2]
        matrix = weight.new_zeros(rows.outputs, columns.outputs, made, rows.inputs, columns.inputs, given)
        kernel = _channels_last(weight)
        for top, row, k in rows.pairs():
            for left, column, m in columns.pairs():
                matrix[top, left, :, row, column] = kernel[:, k, m]
        matrix = matrix.view(rows.outputs * columns.outputs * made, -1)
        maps = _channels_last(images).reshape(len(images), -1)
        ctx.save_for_backward(maps, matrix)
        ctx.given = (weight.shape, rows, columns)
        return (maps @ matrix.t()).view(len(maps), rows.outputs, columns.outputs, made).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients of images and weight."""
        maps, matrix = ctx.saved_tensors
        shape, rows, columns = ctx.given
        made, given = shape[:2]
        grad = _channels_last(grad).reshape(len(maps), -1)
        of_images = _empty((len(maps), given, rows.inputs, columns.inputs), grad)
        torch.mm(grad, matrix, out=_channels_last(of_images).view(len(maps), -1))
        of_matrix = (grad.t() @ maps).view(rows.outputs, columns.outputs, made, rows.inputs, columns.inputs, given)
        of_weight = _empty(shape, grad).zero_()
        kernel = _channels_last(of_weight)
        for top, row, k in rows.pairs():
            for left, column, m in columns.pairs():
                kernel[:, k, m] += of_matrix[top, left, :, row, column]
        return of_images, of_weight, None, None
