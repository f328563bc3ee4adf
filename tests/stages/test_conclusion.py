"""The first sentence of a report."""

from __future__ import annotations

import pytest
import torch

from ssltool.diagnosis.verdict import judge
from ssltool.stages.report.conclusion import plain_sentence
from ssltool.stages.report.contents import Layer, ReportedRun

TERMS = ("feature_std", "AUC", "rank", "backbone", "singular", "spectrum")
VALUES = {"healthy": 30.0, "partial": 2.0, "complete": 1.0}


def run(
    name: str, backbone: str, projector: str = "healthy", knn: float | None = None, images: str = "a"
) -> ReportedRun:
    layers = []
    for layer, state in (("backbone", backbone), ("projector", projector)):
        metrics = {"auc": 0.6, "effective_rank": VALUES[state], "dead_directions": 0.0, "feature_std": 0.9}
        verdict = judge(metrics, n=100, d=64, layer=layer)
        assert verdict.state == state
        layers.append(Layer(layer, metrics, torch.ones(64), 64, [], verdict))
    settings = {"fingerprint": images}
    return ReportedRun(name, "", settings, [], {}, "", None, 100, layers, None, knn)


@pytest.mark.parametrize("backbone", VALUES)
@pytest.mark.parametrize("projector", VALUES)
def test_the_sentence_about_one_run_has_no_technical_term(backbone, projector):
    sentence = plain_sentence([run("a", backbone, projector)])
    assert not any(term in sentence for term in TERMS)
    assert sentence.count(".") == 1 and sentence.endswith(".")


def test_it_says_whether_the_run_collapsed():
    texts = {state: plain_sentence([run("a", state)]) for state in VALUES}
    assert texts["healthy"].startswith("This run is healthy")
    assert texts["partial"].startswith("This run has partly collapsed")
    assert texts["complete"].startswith("This run has collapsed")


def test_a_collapse_of_the_projector_alone_is_told_from_one_of_the_network():
    sentence = plain_sentence([run("a", "healthy", "complete")])
    assert sentence.startswith("This run is healthy") and "its projector" in sentence and "completely" in sentence


def test_of_several_runs_it_says_which_collapsed_and_which_to_keep():
    sentence = plain_sentence([run("a", "healthy"), run("b", "partial"), run("c", "healthy", "complete")])
    assert "b (partly), c (completely, only the projector) have collapsed; keep a" in sentence
    assert sentence.startswith("Of 3 runs")
    assert "keep one of a, b" in plain_sentence([run("a", "healthy"), run("b", "healthy")])
    assert "All 2 runs have collapsed" in plain_sentence([run("a", "partial"), run("b", "complete")])


def test_accuracies_decide_between_healthy_runs_of_the_same_images_only():
    pair = [run("a", "healthy", knn=0.5), run("b", "healthy", knn=0.7)]
    assert "keep b, whose" in plain_sentence(pair) and "70.0%" in plain_sentence(pair)
    others = [pair[0], run("b", "healthy", knn=0.7, images="b")]
    assert "keep one of a, b" in plain_sentence(others)
