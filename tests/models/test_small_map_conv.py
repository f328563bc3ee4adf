"""Convolutions of maps of a few pixels: their outputs and gradients are those of torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssltool.models import small_map_conv
from ssltool.models.backbones import build_backbone
from ssltool.models.small_map_conv import (
    MapProduct,
    SmallMapConv2d,
    WindowProduct,
    faster_product,
    taps_of,
    use_small_map_convolutions,
)

PRODUCTS = (MapProduct, WindowProduct)
CONV = None


def pair(*shape: int, **settings) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The same convolution twice, for small maps and torch's, in double precision."""
    torch.manual_seed(0)
    plain = nn.Conv2d(*shape, **settings).double()
    other = nn.Conv2d(*shape, **settings).double()
    other.load_state_dict(plain.state_dict())
    use_small_map_convolutions(other)
    return other, plain


def outputs_and_gradients(run: Callable[[Tensor], Tensor], images: Tensor, *parameters: Tensor) -> list[Tensor]:
    made = run(images)
    return [made, *torch.autograd.grad(made.square().sum(), [images, *parameters])]


@pytest.mark.parametrize("product", [CONV, *PRODUCTS])
@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.integers(0, 3),
    bias=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_torch(product, height, width, kernel, stride, padding, bias):
    padding = tuple(min(padding, size // 2) for size in kernel)
    assume(height + 2 * padding[0] >= kernel[0] and width + 2 * padding[1] >= kernel[1])
    ours, plain = pair(3, 4, kernel, stride=stride, padding=padding, bias=bias)
    assert type(ours) is SmallMapConv2d
    images = torch.randn(2, 3, height, width, dtype=torch.float64).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_map_conv, "faster_product", lambda *given: product)
        found = outputs_and_gradients(ours, images, *ours.parameters())
    for one, other in zip(found, outputs_and_gradients(plain, images, *plain.parameters()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("product", PRODUCTS)
def test_images_without_gradient_get_none(product):
    taps, weight = taps_of(3, 3, 1, 1), torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    images = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    found, expected = product.apply(images, weight, taps, taps), F.conv2d(images, weight, padding=1)
    for one, other in zip(*(torch.autograd.grad(y.sum(), weight) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("product", PRODUCTS)
def test_outputs_are_in_channels_last_memory_as_those_of_such_images(product):
    taps, images = taps_of(3, 3, 1, 1), torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    made = product.apply(images, torch.randn(8, 4, 3, 3), taps, taps)
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("product", PRODUCTS)
def test_under_autocast_the_result_is_bfloat16_and_the_gradient_that_of_the_weight(monkeypatch, product):
    monkeypatch.setattr(small_map_conv, "faster_product", lambda *given: product)
    ours, plain = (conv.float() for conv in pair(8, 16, 3, padding=1))
    images = torch.randn(4, 8, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(images), plain(images)
    assert found.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    for conv, made in ((ours, found), (plain, expected)):
        made.float().square().sum().backward()
        assert conv.weight.grad.dtype is torch.float32
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=0.05, atol=0.5)


def test_in_evaluation_the_convolution_is_torchs(monkeypatch):
    monkeypatch.setattr(small_map_conv, "faster_product", lambda *given: pytest.fail("a product in evaluation"))
    ours, plain = (conv.float().eval() for conv in pair(64, 64, 3, padding=1))
    images = torch.randn(4, 64, 2, 2)
    assert torch.equal(ours(images), plain(images))


@pytest.mark.parametrize("settings", [{"groups": 2}, {"dilation": 2}])
def test_grouped_and_dilated_convolutions_stay(settings):
    network = nn.Sequential(nn.Conv2d(4, 4, 3, **settings))
    use_small_map_convolutions(network)
    assert type(network[0]) is nn.Conv2d


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
    assert taps_of(size, kernel, stride, padding).used == used


@given(inputs=st.integers(1, 9), kernel=st.integers(1, 5), stride=st.integers(1, 3), padding=st.integers(0, 2))
def test_pairs_are_the_products_of_a_convolution_in_one_dimension(inputs, kernel, stride, padding):
    assume(padding <= kernel // 2 and inputs + 2 * padding >= kernel)
    taps = taps_of(inputs, kernel, stride, padding)
    image = torch.randn(1, 1, inputs, dtype=torch.float64)
    weight = torch.randn(1, 1, kernel, dtype=torch.float64)
    expected = F.conv1d(image, weight, stride=stride, padding=padding)
    found, used = torch.zeros_like(expected), weight[..., taps.used]
    for output, pixel, tap in taps.pairs():
        found[..., output] += image[..., pixel] * used[..., tap]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("made", "given", "size", "kernel", "stride", "expected"),
    [
        (512, 512, 1, 3, 1, WindowProduct),  # of its centre alone
        (512, 256, 2, 3, 2, WindowProduct),
        (512, 512, 2, 3, 1, MapProduct),
        (16, 16, 2, 3, 1, CONV),
        (512, 512, 3, 3, 1, WindowProduct),
        (64, 64, 8, 3, 1, CONV),
        (64, 32, 14, 1, 2, CONV),
        (128, 64, 8, 1, 2, WindowProduct),
        (64, 3, 32, 7, 2, CONV),
    ],
)
def test_products_are_chosen_for_small_maps_of_enough_channels(made, given, size, kernel, stride, expected):
    taps = taps_of(size, kernel, stride, kernel // 2)
    weight = torch.empty(made, given, taps.length, taps.length)
    assert faster_product(weight, taps, taps) is expected


def test_bfloat16_multiplies_larger_maps_with_amx_only(monkeypatch):
    taps, weight = taps_of(4, 3, 1, 1), torch.empty(128, 128, 3, 3, dtype=torch.bfloat16)
    for has_amx, expected in ((True, WindowProduct), (False, CONV)):
        monkeypatch.setattr(small_map_conv, "has_amx", lambda has=has_amx: has)
        assert faster_product(weight, taps, taps) is expected


@pytest.mark.parametrize("size", [32, 64])
def test_a_resnet_for_small_images_trains_as_torchvisions(size):
    import torchvision

    ours, _ = build_backbone("resnet18", stem="imagenet", image_size=size, zero_init_residual=False)
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, size, size)
    grads = []
    for network in (ours.double(), theirs.double()):
        network(images.double()).square().mean().backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    assert any(isinstance(module, SmallMapConv2d) for module in ours.modules())
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-9, atol=1e-12)
