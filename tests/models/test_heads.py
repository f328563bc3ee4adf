"""The heads behind a backbone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssltool.models.heads import mlp, relu


def kinds(head: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_hidden_layers_are_followed_by_bn_and_relu():
    head = mlp([4, 5, 6, 7])
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    widths = [(layer.in_features, layer.out_features) for layer in head if isinstance(layer, nn.Linear)]
    assert widths == [(4, 5), (5, 6), (6, 7)]


@pytest.mark.parametrize("hidden_bn", [True, False])
@pytest.mark.parametrize("last_bn", [True, False])
@pytest.mark.parametrize("activation", [nn.GELU, relu])
def test_bn_and_activation_are_placed_by_the_arguments(hidden_bn, last_bn, activation):
    hidden = ["Linear", *["BatchNorm1d"] * hidden_bn, type(activation()).__name__]
    head = mlp([4, 5, 6, 7], hidden_bn=hidden_bn, last_bn=last_bn, activation=activation)
    assert kinds(head) == [*hidden, *hidden, "Linear", *["BatchNorm1d"] * last_bn]


def test_two_widths_are_one_linear_layer():
    assert kinds(mlp([4, 5])) == ["Linear"]


def test_only_hidden_bns_have_scale_and_shift():
    head = mlp([4, 5, 6], last_bn=True)
    hidden, last = (layer for layer in head if isinstance(layer, nn.BatchNorm1d))
    assert [p.shape for p in hidden.parameters()] == [(5,), (5,)]
    assert list(last.parameters()) == []


@pytest.mark.parametrize("last_bias", [True, False])
@pytest.mark.parametrize("hidden_bn", [True, False])
def test_a_hidden_layer_has_a_bias_only_without_bn(hidden_bn, last_bias):
    head = mlp([4, 5, 5, 6], hidden_bn=hidden_bn, last_bias=last_bias)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is not None for layer in linear] == [not hidden_bn, not hidden_bn, last_bias]


def test_a_head_maps_rows_to_rows_and_standardises_at_a_last_bn():
    head = mlp([4, 5, 6], last_bn=True, last_bias=False)
    out = head(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    assert out.shape == (64, 6)
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)


def test_a_head_without_bn_maps_each_row_by_itself():
    head, rows = mlp([4, 5, 6], hidden_bn=False), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(rows), torch.cat([head(row[None]) for row in rows]))
