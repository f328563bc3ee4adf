"""The verdict on a layer beside that of an untrained network, and where the collapse begins."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ssltool.diagnosis.depth_verdict import collapsed_stretch, judge_layer
from ssltool.diagnosis.layer_sums import LayerSums, MeasuredLayer
from ssltool.diagnosis.verdict import DEFAULT, Thresholds

BLOCK = "backbone.layer1.0"


def layer(name: str = BLOCK, width: int = 64, **metrics: float) -> MeasuredLayer:
    """A healthy layer, but for these metrics."""
    sums = LayerSums(name)
    sums.update(torch.randn(1000, width, generator=torch.Generator().manual_seed(0)))
    measured = sums.measured()
    return dataclasses.replace(measured, metrics=measured.metrics | metrics)


@pytest.mark.parametrize(
    ("ours", "theirs", "state"),
    [
        ({"effective_rank": 4.0, "feature_std": 0.1}, {"effective_rank": 5.0, "feature_std": 0.15}, "healthy"),
        ({"effective_rank": 2.0}, {"effective_rank": 5.0}, "partial"),
        ({"effective_rank": 20.0}, {"effective_rank": 50.0}, "partial"),
        ({"effective_rank": 1.1}, {"effective_rank": 5.0}, "complete"),
        ({"feature_std": 0.15}, {"feature_std": 0.9}, "partial"),
        ({"feature_std": 0.3}, {"feature_std": 0.9}, "healthy"),
        ({"feature_std": 0.01}, {"feature_std": 0.04}, "complete"),
        ({"feature_std": 0.03}, {"feature_std": 0.04}, "healthy"),
    ],
)
def test_a_block_is_collapsed_only_against_the_untrained_network(ours, theirs, state):
    verdict = judge_layer(layer(**ours), layer(**theirs), DEFAULT)
    assert verdict.state == state
    assert bool(verdict.why) == (state != "healthy")


@pytest.mark.parametrize("name", ["backbone", "projector"])
def test_a_representation_has_the_verdict_of_its_own_and_a_far_lower_rank_is_partial(name):
    low = {"effective_rank": 2.0}
    assert judge_layer(layer(name, **low), layer(name, **low), DEFAULT).state == "partial"
    assert judge_layer(layer(name, effective_rank=20.0), layer(name, effective_rank=50.0), DEFAULT).state == "partial"
    assert judge_layer(layer(name), layer(name, effective_rank=50.0), DEFAULT).state == "healthy"
    assert judge_layer(layer(name, **low), None, DEFAULT).state == "partial"


@pytest.mark.parametrize("name", ["backbone", "projector"])
def test_a_narrow_representation_is_collapsed_only_if_training_narrowed_it(name):
    assert judge_layer(layer(name, feature_std=0.15), layer(name, feature_std=0.16), DEFAULT).state == "healthy"
    assert judge_layer(layer(name, feature_std=0.15), layer(name, feature_std=0.9), DEFAULT).state == "partial"


def test_without_an_untrained_network_a_block_is_collapsed_only_if_its_rows_are_on_a_line():
    assert judge_layer(layer(effective_rank=2.0, feature_std=0.01), None, DEFAULT).state == "healthy"
    assert judge_layer(layer(effective_rank=1.1), None, DEFAULT).state == "complete"


def test_the_thresholds_can_be_changed():
    ours, theirs = layer(effective_rank=20.0), layer(effective_rank=50.0)
    assert judge_layer(ours, theirs, Thresholds(like_rank=0.3)).state == "healthy"


@pytest.mark.parametrize(
    ("states", "backbone", "stretch"),
    [
        ("hhhh", 2, []),
        ("hpcc", 2, [1, 2, 3]),
        ("pcpp", 3, [0, 1, 2, 3]),
        ("phph", 2, [2]),  # the projector after it is healthy, the representation is not
        ("hhpph", 3, [2, 3]),
        ("pphh", 2, []),
        ("pphp", 2, [3]),
        ("h", 0, []),
        ("c", 0, [0]),
    ],
)
def test_collapse_shows_from_the_last_healthy_layer_before_the_backbone_on(states, backbone, stretch):
    names = {"h": "healthy", "p": "partial", "c": "complete"}
    assert list(collapsed_stretch([names[state] for state in states], backbone)) == stretch
