"""The list of metrics and its properties, checked on healthy and collapsed rows."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.metrics import METRICS, QUICK, RENYI, Metric, metric_names
from ssltool.diagnosis.metrics.of_classes import Classes
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError

OF_SPECTRUM = (
    "auc",
    "effective_rank",
    "rankme",
    "renyi_rank_half",
    "matrix_entropy",
    "entropy_rank",
    "participation_ratio",
    "stable_rank",
    "alpha",
    "dead_directions",
    "numerical_rank",
    "condition_number",
    "total_variance",
    "coding_rate",
    "pseudo_condition_number",
)
OF_UNCENTRED = ("rankme", "coding_rate", "pseudo_condition_number")
OF_DIRECTIONS = ("feature_std", "mean_cosine", "self_cluster", "w2_uniformity", "mean_norm")
OF_SLICES = ("sigreg", "sigreg_z", "sliced_w2", "sliced_w2_z")
OF_ROWS = (*OF_DIRECTIONS, *OF_SLICES, "uniformity", "twonn", "coherence")
OF_SCALE = ("total_variance", "coding_rate", "mean_norm", "sigreg", "sigreg_z")
OF_NEIGHBOURS = ("local_dimension", "hubness")
OF_TREES = ("mst_dimension", "persistence")
OF_CLUSTERS = ("cluster_usage", "empty_clusters", "cluster_learnability")
OF_CLASSES = ("nc1", "nc2", "class_cosine", "class_rank")
OF_VIEWS = ("alignment", "lidar")
OF_TOKENS = ("patch_cosine", "patch_rank", "high_norm_tokens", "dse", "cls_patch_cosine", "gram_drift")
OF_ONE_FILE = tuple(
    name for name, metric in METRICS.items() if metric.at not in ("files", "reference") and name not in OF_TOKENS
)

COLLAPSE_DOES_NOT_WORSEN = ("coherence", "cluster_learnability", "hubness", "nc1")
"""Metrics that a collapse onto few directions improves or does not change, as their docstrings say."""


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def views(mixing: Tensor, apart: float) -> Tensor:
    """200 images of 5 views that differ by ``apart``, seen through a matrix (d, d)."""
    d = len(mixing)
    return (gaussian(200, d)[:, None] + apart * gaussian(1000, d, seed=1).reshape(200, 5, d)) @ mixing


def value(name: str, x: Tensor) -> float:
    """A metric of views (N, Q, d); each image is a class."""
    rows, function = x.flatten(0, 1), METRICS.load(name)
    if name in OF_CLASSES:
        return function(Classes.of(rows, torch.arange(len(x)).repeat_interleave(x.shape[1])))
    if name in OF_SPECTRUM:
        sizes = {"total_variance": {"n": len(rows)}, "coding_rate": {"n": len(rows), "d": rows.shape[1]}}.get(name, {})
        return function(singular_values(rows, center=name not in OF_UNCENTRED), **sizes)
    return function(x if name in OF_VIEWS else rows)


def test_the_list_has_all_metrics():
    known = (
        OF_SPECTRUM,
        OF_ROWS,
        OF_NEIGHBOURS,
        OF_TREES,
        OF_CLUSTERS,
        OF_CLASSES,
        OF_VIEWS,
        OF_TOKENS,
        ("clid", "cka"),
    )
    assert sorted(METRICS) == sorted(name for names in known for name in names)
    assert set(QUICK) == {*OF_SPECTRUM, *OF_DIRECTIONS}


@pytest.mark.parametrize("name", METRICS)
def test_each_metric_documents_its_range_and_source(name):
    text = inspect.getdoc(METRICS.load(name))
    assert any(word in text for word in ("Range [", "At least ", "About 1 is"))
    assert METRICS[name].interpretation
    assert METRICS[name].source


@pytest.mark.parametrize(
    "name", [name for name in OF_ONE_FILE if METRICS[name].healthier and name not in COLLAPSE_DOES_NOT_WORSEN]
)
def test_collapsed_rows_are_less_healthy_than_spread_rows(name):
    shrink = torch.diag(torch.logspace(0, -8, 16))
    shift = torch.nn.functional.one_hot(torch.tensor(0), 16) * 3.0
    spread, collapsed = value(name, views(torch.eye(16), 0.5)), value(name, views(shrink, 0.5) + shift)
    if name == "alignment":  # collapse lowers it, as its interpretation says: views that agree less are what raises it
        assert collapsed < spread
        collapsed = value(name, views(torch.eye(16), 2.0))
    assert (collapsed < spread) == (METRICS[name].healthier == "high")


@pytest.mark.parametrize("name", OF_ONE_FILE)
@pytest.mark.parametrize("x", [views(torch.eye(8), 0.5), views(torch.diag(torch.logspace(0, -8, 8)), 0.1) + 3.0])
def test_a_metric_is_within_its_range(name, x):
    low, high = METRICS[name].range
    slack = 1e-5  # rankme adds 1e-7 to each share
    assert low - slack <= value(name, x) <= (8 if high == "d" else high) + slack or math.isnan(value(name, x))


@pytest.mark.parametrize(("at", "healthier"), [("rows", "low"), ("spectrum", "best")])
def test_an_entry_of_no_kind_is_refused(at, healthier):
    with pytest.raises(SSLToolError):
        Metric(".of_spectrum:auc", at, healthier, "an interpretation", "a source")


@pytest.mark.parametrize("name", OF_ONE_FILE)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_metrics_are_computed_in_float64(name, dtype):
    x = views(torch.diag(torch.linspace(1, 0.5, 30)), 0.5).to(dtype)
    found = value(name, x)
    assert isinstance(found, (float, int))
    assert found == pytest.approx(value(name, x.double()), rel=1e-12)


@pytest.mark.parametrize("name", OF_ONE_FILE)
def test_inputs_are_not_modified(name):
    x = views(torch.eye(8), 0.5).double()
    before = x.clone()
    value(name, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", OF_ONE_FILE)
def test_metrics_are_invariant_to_scale_and_order_of_rows(name):
    x = 100 * views(torch.diag(torch.linspace(1, 0.2, 30)), 0.5).double()  # large beside the 1e-4 of lidar
    wanted = value(name, x)
    assert value(name, x[torch.randperm(200, generator=torch.Generator().manual_seed(3))]) == pytest.approx(wanted)
    if name not in OF_SCALE:
        assert value(name, 1000 * x) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", OF_SCALE)
def test_collapse_of_the_scale_is_seen_by_the_metrics_of_scale(name):
    x = views(torch.eye(16), 0.0)  # standard normal rows, each five times
    collapsed, spread = value(name, 0.01 * x), value(name, x)
    assert collapsed > 5 * spread if METRICS[name].healthier == "low" else collapsed < spread / 50


@pytest.mark.parametrize("name", [name for name in OF_ONE_FILE if name not in ("feature_std", *OF_SLICES)])
def test_metrics_are_invariant_to_rotations(name):
    x = views(torch.diag(torch.linspace(1, 0.2, 30)), 0.5).double() + 0.3
    rotation = torch.linalg.qr(gaussian(30, 30, seed=4).double()).Q
    assert value(name, x @ rotation) == pytest.approx(value(name, x), rel=1e-9)


@pytest.mark.parametrize(
    ("wanted", "views", "names"),
    [
        (None, False, tuple(QUICK)),
        (None, True, tuple(QUICK)),
        ("all", False, tuple(name for name in OF_ONE_FILE if name not in OF_VIEWS + OF_CLASSES)),
        ("all", True, tuple(name for name in OF_ONE_FILE if name not in OF_CLASSES)),
        ("auc", False, ("auc",)),
        ("twonn,auc", False, ("twonn", "auc")),
        (" effective-rank , auc,, auc ", False, ("effective_rank", "auc")),
        ("lidar", False, ("lidar",)),
        ("renyi", False, RENYI),
        ("auc,renyi,stable_rank", True, ("auc", *RENYI)),
    ],
)
def test_metric_names_are_comma_separated(wanted, views, names):
    assert metric_names(wanted, views=views) == names


def test_all_metrics_include_those_of_classes_if_there_are_labels():
    assert metric_names("all", labels=True) == tuple(name for name in OF_ONE_FILE if name not in OF_VIEWS)


def test_all_metrics_include_those_of_patches_if_the_file_has_what_they_take():
    alone = {name for name in OF_TOKENS if METRICS[name].at == "patches"}
    assert {*metric_names("all", patches=True)} - {*metric_names("all")} == alone
    assert {*metric_names("all", patches=True, class_tokens=True)} & {*OF_TOKENS} == alone | {"cls_patch_cosine"}
    assert {*metric_names("all", patches=True, reference=True)} & {*OF_TOKENS} == alone | {"gram_drift"}
    assert not {*metric_names("all", class_tokens=True, reference=True)} & {*OF_TOKENS}


def test_an_unknown_metric_suggests_similar_names():
    with pytest.raises(SSLToolError, match=r"efective_rank.* effective_rank"):
        metric_names("auc,efective-rank")
