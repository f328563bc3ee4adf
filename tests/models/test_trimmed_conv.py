"""Convolutions of maps that are smaller than their kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ssltool.models.backbones import build_backbone
from ssltool.models.trimmed_conv import TrimmedConv2d, trim_convolutions, trimmed


def pair(*shape: int, **settings) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice, trimmed and not, in double precision."""
    torch.manual_seed(0)
    plain = nn.Conv2d(*shape, **settings).double()
    other = nn.Conv2d(*shape, **settings).double()
    other.load_state_dict(plain.state_dict())
    trim_convolutions(other)
    return other, plain


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    kernel=st.integers(2, 7),
    stride=st.integers(1, 4),
    padding=st.integers(0, 6),
)
def test_outputs_and_gradients_are_those_of_the_whole_kernel(height, width, kernel, stride, padding):
    padding = min(padding, kernel // 2)
    if min(height, width) + 2 * padding < kernel:
        return
    trimmed_conv, plain = pair(3, 4, kernel, stride=stride, padding=padding)
    assert type(trimmed_conv) is TrimmedConv2d
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    found, expected = (conv(images.requires_grad_()) for conv in (trimmed_conv, plain))
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(out.square().sum(), [images, *conv.parameters()]) for out, conv in
             ((found, trimmed_conv), (expected, plain))]  # fmt: skip
    for mine, whole in zip(*grads, strict=True):
        torch.testing.assert_close(mine, whole)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "used"),
    [
        (1, 3, 1, 1, slice(1, 2)),  # the centre
        (1, 3, 2, 1, slice(1, 2)),
        (2, 3, 2, 1, slice(1, 3)),
        (2, 3, 1, 1, slice(0, 3)),  # each tap meets a pixel
        (1, 7, 2, 3, slice(3, 4)),
    ],
)
def test_the_rows_of_a_kernel_that_meet_only_padding_are_left_out(size, kernel, stride, padding, used):
    assert trimmed(size, kernel, stride, padding)[0] == used


def test_a_resnet_for_small_images_trains_as_torchvisions():
    import torchvision

    ours, _ = build_backbone("resnet18", stem="imagenet", image_size=32, zero_init_residual=False)
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, 32, 32)
    grads = []
    for network in (ours.double(), theirs.double()):
        network(images.double()).square().mean().backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    assert any(isinstance(module, TrimmedConv2d) for module in ours.modules())
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-9, atol=1e-12)
