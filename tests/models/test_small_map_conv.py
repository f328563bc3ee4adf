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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("product", [CONV, *PRODUCTS])
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.integers(0, 3),
    bias=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_torch(
    product, memory_format, batch, height, width, kernel, stride, padding, bias
):
    padding = tuple(min(padding, size // 2) for size in kernel)
    assume(height + 2 * padding[0] >= kernel[0] and width + 2 * padding[1] >= kernel[1])
    ours, plain = pair(3, 4, kernel, stride=stride, padding=padding, bias=bias)
    assert type(ours.to(memory_format=memory_format)) is SmallMapConv2d
    images = torch.randn(batch, 3, height, width, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_map_conv, "faster_product", lambda *given: product)
        found = outputs_and_gradients(ours, images, *ours.parameters())
    for one, other in zip(found, outputs_and_gradients(plain, images, *plain.parameters()), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("frozen", ["images", "weight"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_that_of_torch(product, frozen):
    taps = taps_of(3, 3, 1, 1)
    given = {"images": torch.randn(2, 2, 3, 3, dtype=torch.float64), "weight": torch.randn(4, 2, 3, 3).double()}
    trained = next(one for name, one in given.items() if name != frozen).requires_grad_()
    expected = torch.autograd.grad(F.conv2d(*given.values(), padding=1).square().sum(), trained)[0]
    made = product.apply(*given.values(), taps, taps)
    torch.testing.assert_close(torch.autograd.grad(made.square().sum(), trained, retain_graph=True)[0], expected)
    gradients = product.backward(made.grad_fn, torch.ones_like(made))
    assert [gradient is None for gradient in gradients[:2]] == [name == frozen for name in given]


def test_images_of_another_type_than_the_weight_are_refused_as_by_torch():
    for conv in pair(64, 64, 3, padding=1):
        with pytest.raises(RuntimeError):
            conv(torch.randn(2, 64, 2, 2))


def test_an_empty_batch_has_an_empty_result():
    ours, _ = pair(64, 64, 3, padding=1)
    assert ours(torch.empty(0, 64, 2, 2, dtype=torch.float64)).shape == (0, 64, 2, 2)


def test_gradients_of_two_passes_keep_the_layout_of_the_weight():
    """That of a 1x1 convolution too, for which DistributedDataParallel compares all strides."""
    ours = pair(64, 64, 1, stride=2, bias=False)[0].to(memory_format=torch.channels_last)
    images = torch.randn(2, 64, 4, 4, dtype=torch.float64).to(memory_format=torch.channels_last)
    (ours(images).sum() + ours(2 * images).sum()).backward()
    assert ours.weight.grad.stride() == ours.weight.stride()


@pytest.mark.parametrize("product", PRODUCTS)
def test_nothing_but_images_and_weight_is_kept_for_the_backward_pass(product):
    kept = []
    images, weight = (torch.randn(shape, requires_grad=True) for shape in ((4, 8, 2, 2), (16, 8, 3, 3)))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        product.apply(images, weight, *2 * (taps_of(2, 3, 1, 1),))
    assert kept == [images.data_ptr(), weight.data_ptr()]


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


@pytest.mark.parametrize("settings", [{"groups": 2}, {"dilation": 2}, {"padding": 1, "padding_mode": "reflect"}])
def test_other_kinds_of_convolutions_stay(settings):
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
        (512, 512, 7, 3, 1, CONV),
        (64, 64, 8, 3, 1, CONV),
        (64, 32, 14, 1, 2, CONV),
        (128, 64, 8, 1, 2, WindowProduct),
        (64, 3, 32, 7, 2, CONV),
    ],
)
def test_products_are_chosen_for_small_maps_of_enough_channels(made, given, size, kernel, stride, expected):
    taps = taps_of(size, kernel, stride, kernel // 2)
    assert faster_product((made, given, taps.length, taps.length), torch.float32, taps, taps) is expected


@pytest.mark.parametrize(
    ("flags", "of_one_pixel", "of_sixteen"),
    [
        ({"avx512_bf16", "amx_bf16"}, WindowProduct, WindowProduct),
        ({"avx512_bf16"}, WindowProduct, CONV),
        ({"avx2"}, CONV, CONV),
    ],
)
def test_products_in_bfloat16_depend_on_the_features_of_the_processor(monkeypatch, flags, of_one_pixel, of_sixteen):
    monkeypatch.setattr(small_map_conv, "cpu_flags", lambda: flags)
    monkeypatch.setattr(small_map_conv, "min_channels_per_pixel", small_map_conv.min_channels_per_pixel.__wrapped__)
    for side, expected in ((1, of_one_pixel), (4, of_sixteen)):
        taps = taps_of(side, 3, 1, 1)
        assert faster_product((128, 128, 3, 3), torch.bfloat16, taps, taps) is expected
    assert faster_product((128, 128, 1, 1), torch.float16, taps, taps) is CONV


@pytest.mark.parametrize("size", [32, 64])
def test_a_resnet_for_small_images_trains_as_torchvisions(monkeypatch, size):
    import torchvision

    ours, _ = build_backbone("resnet18", stem="imagenet", image_size=size, zero_init_residual=False)
    theirs = torchvision.models.resnet18()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(4, 3, size, size)
    grads = []
    chosen = set()
    monkeypatch.setattr(small_map_conv, "faster_product", lambda *g: chosen.add(made := faster_product(*g)) or made)
    for network in (ours.double(), theirs.double()):
        network(images.double()).square().mean().backward()
        grads.append({name: p.grad for name, p in network.named_parameters()})
    assert chosen == {CONV, *PRODUCTS}
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-9, atol=1e-12)
