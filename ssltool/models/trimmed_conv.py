"""A convolution of maps that are smaller than its kernel."""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch.nn.functional import conv2d


def trim_convolutions(network: nn.Module) -> None:
    """Makes the convolutions of ``network`` ``TrimmedConv2d``; those whose kernel is one pixel or dilated stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and max(module.kernel_size) > 1 and max(module.dilation) == 1:
            module.__class__ = TrimmedConv2d


class TrimmedConv2d(nn.Conv2d):
    """A convolution that leaves out, in training, the rows and columns of its kernel which meet only padding.

    A 3x3 kernel over a map of one pixel, as in the last stage of a ResNet for 32 pixels, multiplies that pixel with its
    centre and zeros with the rest. oneDNN computes all nine products in the backward pass. The result is the same, and
    the gradient of what is left out is zero.
    """

    def forward(self, images: Tensor) -> Tensor:
        (height, width), kernel, stride, padding = images.shape[-2:], self.kernel_size, self.stride, self.padding
        if not self.training or (height >= kernel[0] and width >= kernel[1]) or isinstance(padding, str):
            return super().forward(images)
        rows, row_stride, top = trimmed(height, kernel[0], stride[0], padding[0])
        columns, column_stride, left = trimmed(width, kernel[1], stride[1], padding[1])
        used, strides = self.weight[:, :, rows, columns], (row_stride, column_stride)
        return conv2d(images, used, self.bias, strides, (top, left), self.dilation, self.groups)


@functools.cache
def trimmed(size: int, kernel: int, stride: int, padding: int) -> tuple[slice, int, int]:
    """The part of a kernel that meets a map of ``size`` pixels, in one dimension, and the stride and padding with which
    it gives the same output; the whole kernel where no part of it does."""
    outputs = (size + 2 * padding - kernel) // stride + 1
    used = [tap for tap in range(kernel) if any(0 <= o * stride + tap - padding < size for o in range(outputs))]
    if not used:
        return slice(0, kernel), stride, padding
    first, length = used[0], used[-1] + 1 - used[0]
    left = padding - first
    if (size + 2 * left - length) // stride + 1 != outputs:
        return slice(0, kernel), stride, padding
    return slice(first, first + length), 1 if size + 2 * left == length else stride, left
