"""Convolutions of maps of a few pixels, as the last stages of a ResNet have for small images.

oneDNN, which computes convolutions on a CPU, is slow for such maps, above all in the backward pass. In training, unless
they are compiled, they are one matrix product instead, where that is faster: of the windows of the image and the kernel
(``WindowProduct``), or of the whole map and a matrix that holds the kernel once for each output (``MapProduct``).
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

from ssltool.training.processor import BF16_FLAGS, cpu_flags

LARGEST_MAP = 15
"""Pixels of a side of the input up to which a matrix product can be faster."""

MIN_CHANNELS = 64
"""Channels of the output from which a product of overlapping windows can be faster."""

MIN_CHANNELS_PER_PIXEL = {"fp32": 28, "bf16": 64, "bf16 with AMX": 5}
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

    def transposed(self) -> Taps:
        """With a stride of 1, the convolution of the gradient of the outputs which gives that of the inputs."""
        return Taps(self.outputs, self.inputs, slice(0, self.length), 1, self.length - 1 - self.padding)


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
    is faster on a CPU. The result and the gradients are those of ``nn.Conv2d`` but for rounding. A product cannot be
    differentiated twice.
    """

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or isinstance(self.padding, str) or images.ndim != 4:
            return super().forward(images)
        sizes, multiplies = images.shape[-2:], images.device.type == "cpu" and not torch.compiler.is_compiling()
        covers = sizes[0] >= self.kernel_size[0] and sizes[1] >= self.kernel_size[1]
        if covers and not (multiplies and min(sizes) <= LARGEST_MAP):
            return super().forward(images)
        geometry = zip(sizes, self.kernel_size, self.stride, self.padding, strict=True)
        rows, columns = (taps_of(*of_side) for of_side in geometry)
        trims = (rows.length, columns.length) != self.kernel_size
        weight = self.weight[:, :, rows.used, columns.used] if trims else self.weight
        autocasts = torch.is_autocast_enabled("cpu") and weight.dtype is torch.float32
        dtype = torch.get_autocast_dtype("cpu") if autocasts else weight.dtype
        product = faster_product(weight.shape, dtype, rows, columns) if multiplies and len(images) else None
        if product is not None and images.dtype in (weight.dtype, dtype):
            out: Tensor = product.apply(images.to(dtype), weight.to(dtype), rows, columns)  # type: ignore[no-untyped-call]
            return out if self.bias is None else out + self.bias.to(dtype)[:, None, None]
        strides, padding = (rows.stride, columns.stride), (rows.padding, columns.padding)
        return F.conv2d(images, weight, self.bias, strides, padding)


def use_small_map_convolutions(network: nn.Module) -> None:
    """Makes the convolutions of ``network`` ``SmallMapConv2d``; those that are dilated, grouped, or padded with other
    values than zeros stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and max(module.dilation) == module.groups == 1 and module.padding_mode == "zeros":
            module.__class__ = SmallMapConv2d


def faster_product(shape: Sequence[int], dtype: torch.dtype, rows: Taps, columns: Taps) -> type[Function] | None:
    """The matrix product that is faster than oneDNN's convolution with a weight of ``shape`` (O, C, K, M), or None.

    The rule follows from measured forward and backward passes with batches of 64 to 256, with and without AMX; see
    ``benchmarks/small_maps.py``.
    """
    out_channels, in_channels = shape[:2]
    pixels, overlap = rows.outputs * columns.outputs, rows.overlap or columns.overlap
    per_pixel = min_channels_per_pixel(dtype)
    if per_pixel is None or pixels < 1:
        return None
    if overlap and rows.inputs * columns.inputs <= 4:
        return MapProduct if min(out_channels, in_channels) >= MIN_CHANNELS else None
    skips = rows.length < rows.stride and columns.length < columns.stride  # pixels, which oneDNN is slow at
    if not overlap and pixels <= (25 if skips else 4):
        return WindowProduct
    return WindowProduct if pixels <= 49 and out_channels >= max(MIN_CHANNELS, per_pixel * pixels) else None


@functools.cache
def min_channels_per_pixel(dtype: torch.dtype) -> int | None:
    """One of ``MIN_CHANNELS_PER_PIXEL``; None for types that the processor does not multiply."""
    if dtype in (torch.float32, torch.float64):
        return MIN_CHANNELS_PER_PIXEL["fp32"]
    flags = cpu_flags()
    if dtype is not torch.bfloat16 or flags.isdisjoint(BF16_FLAGS):
        return None
    return MIN_CHANNELS_PER_PIXEL["bf16 with AMX" if "amx_bf16" in flags else "bf16"]


class WindowProduct(Function):
    """A convolution as the product of all windows (B H' W', K M C) and the kernel (K M C, O)."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
        """The outputs (B, O, H', W') of images (B, C, H, W) and a weight (O, C, K, M)."""
        ctx.save_for_backward(images, weight)
        ctx.taps = rows, columns
        return _windows_times(images, weight, rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of images and weight."""
        (images, weight), (rows, columns) = ctx.saved_tensors, ctx.taps
        of_images = of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = _empty(weight.shape, weight)
            by_pixel = _nhwc(grad).reshape(-1, len(weight))
            torch.mm(by_pixel.t(), _windows(images, rows, columns), out=_nhwc(of_weight).view(len(weight), -1))
        if ctx.needs_input_grad[0] and rows.stride == columns.stride == 1:
            turned = weight.flip(2, 3).transpose(0, 1)
            of_images = _windows_times(grad, turned, rows.transposed(), columns.transposed())
        elif ctx.needs_input_grad[0]:
            of_images = _scattered(grad, weight, rows, columns)
        return of_images, of_weight, None, None


def _nhwc(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of ``shape`` (A, B, H, W) in channels-last memory, in dimensions of 1 too, as weights have it. It is no
    view, so that autograd adds the gradients of several passes in place."""
    _, channels, height, width = shape
    return like.new_empty_strided(shape, (height * width * channels, 1, width * channels, channels))


def _windows(images: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The windows of images (B, C, H, W): (B H' W', K M C), a view where nothing has to be copied."""
    pixels = _nhwc(images)
    if rows.padding or columns.padding:
        pixels = F.pad(pixels, (0, 0, *2 * (columns.padding,), *2 * (rows.padding,)))
    pixels = pixels.contiguous()
    batch, height, width, channels = pixels.shape
    sizes = (batch, rows.outputs, columns.outputs, rows.length, columns.length, channels)
    of_row = width * channels
    between = (height * of_row, rows.stride * of_row, columns.stride * channels, of_row, channels, 1)
    return pixels.as_strided(sizes, between).reshape(batch * rows.outputs * columns.outputs, -1)


def _windows_times(images: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The convolution of images (B, C, H, W) with a weight (O, C, K, M): (B, O, H', W')."""
    out = _empty((len(images), len(weight), rows.outputs, columns.outputs), images)
    kernel = _nhwc(weight).reshape(len(weight), -1)
    torch.mm(_windows(images, rows, columns), kernel.t(), out=_nhwc(out).view(-1, len(weight)))
    return out


def _scattered(grad: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """The gradient of images (B, C, H, W), of that of the outputs: each output adds to the pixels of its window."""
    batch, channels = len(grad), weight.shape[1]
    parts = _nhwc(grad).reshape(-1, len(weight)) @ _nhwc(weight).reshape(len(weight), -1)
    parts = parts.view(batch, rows.outputs, columns.outputs, rows.length, columns.length, channels)
    height, width = rows.inputs + 2 * rows.padding, columns.inputs + 2 * columns.padding
    padded = _empty((batch, channels, height, width), grad).zero_()
    for k in range(rows.length):
        for m in range(columns.length):
            _nhwc(padded)[:, _pixels_of(k, rows), _pixels_of(m, columns)] += parts[:, :, :, k, m]
    return padded[:, :, rows.padding : height - rows.padding, columns.padding : width - columns.padding]


def _pixels_of(tap: int, taps: Taps) -> slice:
    """The pixels of a padded map that a tap meets."""
    return slice(tap, tap + taps.stride * (taps.outputs - 1) + 1, taps.stride)


class MapProduct(Function):
    """A convolution as the product of all maps (B, H W C) and a matrix (H W C, H' W' O) of taps and zeros."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
        """The outputs (B, O, H', W') of images (B, C, H, W) and a weight (O, C, K, M)."""
        ctx.save_for_backward(images, weight)
        ctx.taps = rows, columns
        out = _empty((len(images), len(weight), rows.outputs, columns.outputs), images)
        maps = _nhwc(images).reshape(len(images), -1)
        torch.mm(maps, _matrix(weight, rows, columns).t(), out=_nhwc(out).view(len(images), -1))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """The gradients of images and weight."""
        (images, weight), (rows, columns) = ctx.saved_tensors, ctx.taps
        of_images = of_weight = None
        grad = _nhwc(grad).reshape(len(grad), -1)
        if ctx.needs_input_grad[0]:
            of_images = _empty(images.shape, images)
            torch.mm(grad, _matrix(weight, rows, columns), out=_nhwc(of_images).view(len(images), -1))
        if ctx.needs_input_grad[1]:
            of_matrix = grad.t() @ _nhwc(images).reshape(len(images), -1)
            of_matrix = of_matrix.view(rows.outputs, columns.outputs, len(weight), rows.inputs, columns.inputs, -1)
            of_weight = _empty(weight.shape, weight).zero_()
            for top, row, k in rows.pairs():
                for left, column, m in columns.pairs():
                    _nhwc(of_weight)[:, k, m] += of_matrix[top, left, :, row, column]
        return of_images, of_weight, None, None


def _matrix(weight: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """(H' W' O, H W C): the taps of a weight (O, C, K, M) where an output meets a pixel, else 0."""
    out_channels, in_channels = weight.shape[:2]
    matrix = weight.new_zeros(rows.outputs, columns.outputs, out_channels, rows.inputs, columns.inputs, in_channels)
    for top, row, k in rows.pairs():
        for left, column, m in columns.pairs():
            matrix[top, left, :, row, column] = _nhwc(weight)[:, k, m]
    return matrix.view(rows.outputs * columns.outputs * out_channels, -1)
