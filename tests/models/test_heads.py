"""The heads behind a backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.models.heads import mlp


def kinds(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_hidden_layers_are_followed_by_bn_and_relu():
    head = mlp([4, 5, 6, 7], last_bn=False, last_bias=True)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(4, 5), (5, 6), (6, 7)]


def test_a_last_bn_has_neither_scale_nor_shift():
    head = mlp([4, 5], last_bn=True, last_bias=False)
    assert kinds(head) == ["Linear", "BatchNorm1d"]
    assert list(head[-1].parameters()) == []


@pytest.mark.parametrize("last_bias", [True, False])
def test_only_the_last_layer_may_have_a_bias(last_bias):
    head = mlp([4, 5, 6], last_bn=False, last_bias=last_bias)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is not None for layer in linear] == [False, last_bias]


def test_a_head_maps_rows_to_rows_and_standardises_at_a_last_bn():
    head = mlp([4, 5, 6], last_bn=True, last_bias=False)
    out = head(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (64, 6)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
