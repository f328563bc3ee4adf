"""What metrics take is built once, on demand, of as many rows as it may have; what the rows lack is named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import AT, METRICS, Input
from ssltool.diagnosis.metrics.of_classes import Classes, class_rank, nc1
from ssltool.diagnosis.metrics.of_clusters import Clusters, cluster_usage
from ssltool.diagnosis.metrics.of_neighbours import Neighbours
from ssltool.diagnosis.metrics.of_trees import persistence
from ssltool.diagnosis.row_blocks import Rows
from ssltool.errors import SSLToolError

OF_CLASSES = tuple(name for name, metric in METRICS.items() if metric.at == "classes")


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def labels(n: int, count: int = 4) -> Tensor:
    return torch.arange(n) % count


def test_every_input_has_a_builder_and_every_metric_an_input():
    assert all(callable(AT.load(at)) and AT[at].description for at in AT)
    assert {metric.at for metric in METRICS.values()} <= set(AT)


def test_metrics_of_one_input_share_it(monkeypatch):
    calls = []
    of = Neighbours.of.__func__
    monkeypatch.setattr(Neighbours, "of", classmethod(lambda cls, x, *k: calls.append(type(x)) or of(cls, x, *k)))
    measure(gaussian(50, 4), ("twonn", "local_dimension", "hubness", "auc"))
    assert calls.count(Tensor) == 1 and calls.count(Neighbours) == 3


def test_labels_make_classes_also_of_rows_in_several_tensors():
    x, column = gaussian(200, 6), labels(200)
    wanted = Classes.of(x, column)
    for parts in ([200], [30, 0, 170], [50] * 4):
        found = measure(Rows(x.split(parts), labels=column.split(parts)), OF_CLASSES)
        assert found.metrics == pytest.approx({name: float(METRICS.load(name)(wanted)) for name in OF_CLASSES})
        assert found.details["class_rank_fewest"] == 50


def test_views_of_an_image_have_its_label_and_rows_left_out_have_none():
    views, column = gaussian(80, 6).reshape(20, 4, 6), labels(20, 3)
    each = column.repeat_interleave(4)
    assert measure(Rows([views], labels=[column]), ("nc1",)).metrics["nc1"] == nc1(
        Classes.of(views.flatten(0, 1), each)
    )
    views[2, 1, 3] = math.nan
    kept = torch.arange(80) != 9
    found = measure(Rows([views], labels=[column], skip_nonfinite=True), ("nc1",)).metrics["nc1"]
    assert found == pytest.approx(nc1(Classes.of(views.flatten(0, 1)[kept], each[kept])))


def test_labels_of_another_number_than_the_images_are_refused():
    with pytest.raises(SSLToolError, match="labels"):
        Rows([gaussian(20, 3)], labels=[labels(19)])


@pytest.mark.parametrize("column", [None, torch.full((60,), -1)])
def test_metrics_of_classes_are_refused_by_name_without_labels(column):
    rows = Rows([gaussian(60, 4)], labels=None if column is None else [column])
    for name in OF_CLASSES:
        with pytest.raises(SSLToolError, match=f"{name} .*labels.*--pseudo-labels"):
            measure(rows, ("auc", name))


def test_pseudo_labels_are_clusters_and_are_noted():
    x = gaussian(100, 5)
    found = measure(Rows([x], labels=[labels(100)]), ("nc1", "class_rank"), pseudo_labels=7, seed=3)
    clusters = Classes.of(x, Clusters.of(x, 7, 3).assigned)
    assert found.metrics == pytest.approx({"nc1": nc1(clusters), "class_rank": float(class_rank(clusters))})
    assert len([note for note in found.notes if "--pseudo-labels" in note and "7" in note]) == 1


def test_rows_without_a_label_single_rows_and_small_classes_are_noted():
    column = torch.tensor([0] * 40 + [1] * 3 + [-1] * 6 + [2])
    notes = " ".join(measure(Rows([gaussian(50, 4)], labels=[column]), ("nc1",)).notes)
    assert all(text in notes for text in ("6 rows without a label", "1 with a single row", "3 rows of width 4"))


def test_the_number_of_clusters_is_the_one_that_is_given():
    x = gaussian(100, 5)
    found = measure(x, ("cluster_usage", "empty_clusters"), clusters=8)
    assert found.metrics["cluster_usage"] == float(cluster_usage(Clusters.of(x, 8)))
    assert found.details["cluster_usage_clusters"] == 8
    assert measure(x, ("cluster_usage",)).details["cluster_usage_clusters"] == 10


def test_trees_are_of_fewer_rows_than_other_inputs_and_a_note_says_of_how_many(monkeypatch):
    few = Input("..metric_inputs:trees", "-", sampled=True, most=64)
    monkeypatch.setitem(AT._entries, "trees", few)
    x = gaussian(200, 5)
    found = measure(x, ("persistence", "mst_dimension", "twonn"), pair_rows=100)
    texts = [note for note in found.notes if "drawn at random" in note]
    assert len(texts) == 2
    assert any("persistence and mst_dimension" in text and "64 of 200" in text for text in texts)
    assert any(text.startswith("twonn:") and "100 of 200" in text for text in texts)
    assert measure(x[:64], ("persistence", "twonn")).notes == []
    assert found.metrics["persistence"] != float(persistence(x))
