"""The verdict: known collapses, thresholds, and the one-line summary."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.config.fields import STATES
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.verdict import DEFAULT, NEEDED, Thresholds, Verdict, compare, judge
from ssltool.errors import SSLToolError

HEALTHY, PARTIAL, COMPLETE = STATES


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=1))[0]


def verdict(x: Tensor, bound: int | None = None) -> Verdict:
    found = measure(x, NEEDED, bound=bound)
    return judge(found.metrics, n=found.n, d=found.d, bound=bound, dead=len(found.dead))


# Representations of which one knows


@pytest.mark.parametrize(("n", "d"), [(2000, 64), (2000, 3), (60, 60), (40, 512)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_isotropic_rows_are_healthy(n, d, scale):
    found = verdict(scale * gaussian(n, d))
    assert (found.state, found.why, found.severity) == (HEALTHY, [], 0)


@pytest.mark.parametrize("n", [4, 5, 6, 10])
def test_few_rows_of_full_rank_are_healthy(n):
    # The corners of a simplex: n - 1 equal singular values, and no further direction.
    assert verdict(torch.eye(n, 64)).state == HEALTHY


def test_outputs_of_a_relu_are_healthy():
    assert verdict(gaussian(2000, 64).relu()).state == HEALTHY


@pytest.mark.parametrize("n", [10, 1000])
@pytest.mark.parametrize("d", [3, 64, 512])
def test_rows_on_one_line_are_a_complete_collapse(n, d):
    found = verdict(gaussian(n, 1) @ gaussian(1, d, seed=2))
    assert (found.state, found.severity) == (COMPLETE, 2)
    assert any("effective rank" in text for text in found.why)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5])
@pytest.mark.parametrize("value", [1.0, -300.0])
def test_rows_that_are_equal_up_to_rounding_are_a_complete_collapse(noise, value):
    """Their centred spectrum is that of the noise and flat; only feature_std detects the collapse."""
    x = value * (1 + gaussian(1, 64, seed=2).abs()) * (1 + noise * gaussian(1000, 64))
    found = verdict(x)
    assert found.state == COMPLETE
    assert any("feature_std" in text for text in found.why)


def test_rows_of_zeros_are_a_complete_collapse():
    assert verdict(torch.zeros(100, 64)).state == COMPLETE


def around_one_direction(std: float, d: int = 64) -> Tensor:
    """Isotropic rows, shifted from the origin such that their feature_std is about ``std``."""
    distance = math.sqrt(d * (1 / std**2 - 1))
    return gaussian(4000, d) + distance * gaussian(1, d, seed=2) / gaussian(1, d, seed=2).norm()


def test_rows_near_one_direction_are_collapsed_by_feature_std_despite_a_flat_spectrum():
    t = Thresholds()
    between = math.sqrt(t.complete_std * t.partial_std)
    wanted = {t.complete_std / 2: COMPLETE, between: PARTIAL, (t.partial_std + 1) / 2: HEALTHY}
    for std, state in wanted.items():
        found = measure(around_one_direction(std), NEEDED)
        assert found.metrics["feature_std"] == pytest.approx(std, rel=0.05)
        assert found.metrics["effective_rank"] > 60
        assert judge(found.metrics, n=found.n, d=found.d).state == state


@pytest.mark.parametrize("d", [100, 300])
def test_rows_in_a_twentieth_of_the_dimensions_are_a_partial_collapse(d):
    x = torch.cat([gaussian(1000, d // 20), torch.zeros(1000, d - d // 20)], dim=1) @ rotation(d)
    found = verdict(x)
    assert (found.state, found.severity) == (PARTIAL, 1)
    assert found.details["used"] == pytest.approx(d / 20, rel=0.02)
    assert found.details["used_share"] == pytest.approx(1 / 20, rel=0.02)
    assert found.details["dead_directions"] == pytest.approx(19 / 20)


def test_many_dead_directions_are_a_partial_collapse_despite_a_high_effective_rank():
    x = gaussian(1000, 100)
    x[:, 60:] *= 1e-5
    found = verdict(x @ rotation(100))
    assert found.state == PARTIAL
    assert found.why == [f"40.0% of the directions are dead, above {DEFAULT.partial_dead:.0%}"]
    x[:, 60:] *= 1e5
    assert verdict(x @ rotation(100)).state == HEALTHY


# Thresholds

SPREAD = {"auc": 101 / 200, "effective_rank": 100.0, "dead_directions": 0.0, "feature_std": 1.0}
"""The metrics of a flat spectrum of 100 values."""


def state(thresholds: Thresholds = DEFAULT, **changes: float) -> str:
    return judge(SPREAD | changes, n=1000, d=100, thresholds=thresholds).state


MOVED = Thresholds(0.11, 3.0, 0.31, 0.21, 0.41, 0.7)


@pytest.mark.parametrize("t", [DEFAULT, MOVED], ids=["default", "moved"])
def test_the_verdict_changes_at_each_threshold_exclusively(t):
    assert state(t) == HEALTHY
    for name, limit, beyond in [
        ("feature_std", t.complete_std, COMPLETE),
        ("effective_rank", t.complete_rank, COMPLETE),
        ("feature_std", t.partial_std, PARTIAL),
        ("effective_rank", t.partial_rank * 100, PARTIAL),
    ]:
        assert state(t, **{name: math.nextafter(limit, 0)}) == beyond
        assert STATES.index(state(t, **{name: limit})) < STATES.index(beyond)
    assert state(t, dead_directions=t.partial_dead + 1e-9) == PARTIAL
    assert state(t, dead_directions=t.partial_dead - 1e-9) == HEALTHY


def test_nearly_equal_outputs_in_one_direction_are_a_complete_collapse():
    """Outputs u + a v with a fixed u and a random a for each image: their mean cosine is that of u and the outputs."""
    generator = torch.Generator().manual_seed(0)
    u, v = rotation(100)[:2].double()
    a = torch.randn(1000, 1, generator=generator, dtype=torch.float64)
    noise = 5e-4 * torch.randn(1000, 100, generator=generator, dtype=torch.float64)
    near, far = (u + scale * (a * v + noise) for scale in (0.25, 2.0))
    unit = [F.normalize(x, dim=1) for x in (near, far)]
    cosines = [float((z.sum(dim=0).square().sum() - len(z)) / (len(z) * (len(z) - 1))) for z in unit]
    assert cosines[0] > 0.9 > cosines[1]
    assert [verdict(x).state for x in (near, far)] == [COMPLETE, PARTIAL]


@pytest.mark.parametrize(("std", "rank", "beyond"), [(0.3, 1.9, COMPLETE), (0.32, 1.9, PARTIAL), (0.3, 2.1, PARTIAL)])
def test_a_line_is_a_complete_collapse_only_if_the_outputs_are_nearly_equal(std, rank, beyond):
    assert state(feature_std=std, effective_rank=rank) == beyond


def test_the_verdict_is_monotonic_in_each_metric():
    falling = {
        "feature_std": [i / 50 for i in range(50, -1, -1)],
        "effective_rank": [i / 2 for i in range(200, -1, -1)],
        "dead_directions": [i / 100 for i in range(101)],
    }
    for name, values in falling.items():
        severities = [STATES.index(state(**{name: value})) for value in values]
        assert severities == sorted(severities)
        assert severities[0] == 0 < severities[-1]


def test_a_complete_collapse_is_at_least_a_partial_one():
    assert DEFAULT.complete_std <= DEFAULT.partial_std
    assert 0 < DEFAULT.partial_rank < 1
    assert 0 < DEFAULT.partial_dead < 1


def test_parse_changes_only_the_named_thresholds():
    assert Thresholds.parse([]) == DEFAULT
    moved = Thresholds.parse(["partial_rank=0.25", "like_rank=1", "partial_rank=1e-3"])
    assert moved == dataclasses.replace(DEFAULT, partial_rank=1e-3, like_rank=1.0)


@pytest.mark.parametrize("value", ["", "low", "-1", "-1e-9", "nan", "-inf", "0.1=0.2"])
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Thresholds)])
def test_an_invalid_threshold_value_is_refused(name, value):
    with pytest.raises(SSLToolError, match=rf"--threshold {name}={value}: "):
        Thresholds.parse([f"{name}={value}"])


def test_an_unknown_threshold_suggests_similar_names():
    with pytest.raises(SSLToolError, match=r"complete_rnk.* complete_rank"):
        Thresholds.parse(["complete_rnk=1"])


# What a verdict says


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({}, "healthy: "),
        ({"effective_rank": 4.321, "dead_directions": 0.9}, "partial collapse: "),
        ({"feature_std": 0.01234, "auc": 0.777}, "complete collapse: "),
    ],
)
def test_the_line_has_the_state_and_the_three_metrics(changes, starts):
    found = SPREAD | changes
    line = judge(found, n=1000, d=100).line
    assert line.startswith(starts)
    assert "\n" not in line
    assert f"feature_std {found['feature_std']:.3g}" in line
    assert f"effective rank {found['effective_rank']:.3g} of 100" in line
    assert f"{found['dead_directions']:.0%} dead directions" in line


def test_a_collapse_reports_exceeded_thresholds_and_the_auc_of_a_flat_spectrum():
    metrics = SPREAD | {"feature_std": 0.15, "effective_rank": 4.0, "auc": 0.9}
    found = judge(metrics, n=1000, d=100, dead=3, thresholds=MOVED)
    assert found.why == ["feature_std is below 0.31", "4.0% of the dimensions are in use, below 21%"]
    assert all(text in found.line for text in found.why)
    assert "AUC 0.900 (flat spectrum: 0.505)" in found.line
    assert "dead dimensions: 3 of 100" in found.line
    assert found.details["auc_above_flat"] == pytest.approx(0.9 - 0.505)
    assert found.details["dead_dimensions"] == 3


def test_a_complete_collapse_reports_only_complete_thresholds():
    found = judge(SPREAD | {"feature_std": 0.01, "dead_directions": 0.9}, n=1000, d=100)
    assert found.why == [f"feature_std is below {DEFAULT.complete_std:g}"]


@pytest.mark.parametrize("bound", [5, 40])
def test_values_beyond_the_bound_of_a_layer_are_ignored(bound):
    narrow = torch.linalg.qr(gaussian(1000, bound).double())[0] * torch.linspace(1, 0.2, bound)
    wide = narrow @ rotation(100)[:bound].double()
    alone, within = verdict(narrow), verdict(wide, bound=bound)
    assert within.state == alone.state == HEALTHY
    assert within.details == pytest.approx(alone.details | {"dead_dimensions": 0}, rel=1e-6)
    assert verdict(wide).state == PARTIAL


def test_a_bound_above_the_number_of_values_has_no_effect():
    for n, d in ((1000, 100), (50, 100)):
        assert judge(SPREAD, n=n, d=d, bound=500) == judge(SPREAD, n=n, d=d)


def test_complete_rank_does_not_apply_to_two_dimensions():
    assert verdict(gaussian(500, 2)).state == HEALTHY
    assert verdict(gaussian(500, 2) @ rotation(9)[:2], bound=2).state == HEALTHY


# Beside another run


def beside(ours: float, theirs: float, thresholds: Thresholds = DEFAULT, **changes: float) -> tuple[Verdict, Verdict]:
    found = SPREAD | {"effective_rank": ours} | changes
    alone = judge(found, n=1000, d=100, thresholds=thresholds)
    return alone, compare(alone, found, SPREAD | {"effective_rank": theirs}, "other.pt", thresholds)


@pytest.mark.parametrize("t", [DEFAULT, MOVED], ids=["default", "moved"])
def test_a_healthy_run_with_far_fewer_dimensions_than_the_reference_is_a_partial_collapse(t):
    alone, found = beside(math.nextafter(80 * t.like_rank, 0), 80, t)
    assert (alone.state, found.state) == (HEALTHY, PARTIAL)
    assert found.line.startswith("partial collapse: ")
    assert found.line.endswith(found.why[-1])
    assert f"dimensions in use: {80 * t.like_rank:.3g} (other.pt: 80)" in found.why[-1]
    assert found.details == alone.details


@pytest.mark.parametrize("ours", [100 * DEFAULT.like_rank, 90.0, 100.0])
def test_a_run_with_a_similar_number_of_dimensions_keeps_its_verdict(ours):
    alone, found = beside(ours, 100)
    assert found == dataclasses.replace(alone, line=found.line)
    assert found.line == f"{alone.line}; dimensions in use: {ours:.3g} (other.pt: 100)"


@pytest.mark.parametrize("theirs", [0.0, 1.0, 50.0, 100.0])
@pytest.mark.parametrize(
    "changes", [{}, {"effective_rank": 5.0}, {"dead_directions": 0.9}, {"feature_std": 0.0}, {"effective_rank": 0.0}]
)
def test_no_reference_improves_a_verdict(changes, theirs):
    ours = changes.pop("effective_rank", 100.0)
    alone, found = beside(ours, theirs, **changes)
    assert found.severity >= alone.severity
    assert found.severity <= max(alone.severity, 1)
    title = found.state if found.state == HEALTHY else f"{found.state} collapse"
    assert found.line.startswith(f"{title}: ")
    assert found.line.count("collapse:") == (found.state != HEALTHY)


@pytest.mark.parametrize("layer", ["backbone", "projector", "predictor"])
def test_a_head_may_lose_more_directions_than_a_backbone(layer):
    metrics = {"feature_std": 0.9, "auc": 0.8, "effective_rank": 40.0, "dead_directions": 0.3}
    found = judge(metrics, n=10_000, d=128, layer=layer)
    assert found.state == (PARTIAL if layer == "backbone" else HEALTHY)
    few = metrics | {"effective_rank": 128 * 0.07, "dead_directions": 0.0}
    assert judge(few, n=10_000, d=128, layer=layer).state == (PARTIAL if layer == "backbone" else HEALTHY)
    assert judge(few | {"dead_directions": 0.6}, n=10_000, d=128, layer=layer).state == PARTIAL
