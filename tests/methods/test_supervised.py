"""Training with labels: cross-entropy of a linear classifier on the backbone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import WIDTH, build, defaults, facts, layers, negative_log_share, noisy_batch
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError

LABELS = torch.arange(16) % 4


def by_hand(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> float:
    """Cross-entropy with labels of which a share is spread over all classes, row by row."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for k in range(len(row)):
            share = smoothing / len(row) + (1 - smoothing) * (k == label)
            total += share * negative_log_share(row, k)
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_the_loss_is_the_cross_entropy_of_a_linear_classifier(smoothing):
    model, batch = build("supervised", label_smoothing=smoothing), noisy_batch(sizes=(8,), labels=LABELS)
    logits = model.projector(model.backbone(batch.views[0]))
    assert model(batch).loss.item() == pytest.approx(by_hand(logits, LABELS, smoothing), rel=1e-5)


def test_equal_logits_have_the_loss_ln_of_the_classes():
    model = build("supervised", facts(classes=10))
    nn.init.zeros_(model.projector.weight)
    nn.init.zeros_(model.projector.bias)
    assert model(noisy_batch(sizes=(8,), labels=LABELS)).loss.item() == pytest.approx(math.log(10), rel=1e-6)


def test_the_loss_depends_on_the_labels():
    model = build("supervised")
    assert model.uses_labels
    first = model(noisy_batch(sizes=(8,), labels=LABELS)).loss.item()
    assert model(noisy_batch(sizes=(8,), labels=LABELS.roll(1))).loss.item() != first


@pytest.mark.parametrize("classes", [2, 10])
def test_the_classifier_has_an_output_for_each_class(classes):
    assert layers(build("supervised", facts(classes=classes)).projector) == [f"linear {WIDTH}-{classes}+bias"]


def test_only_the_backbone_is_monitored_for_collapse():
    model, batch = build("supervised"), noisy_batch(sizes=(8,), labels=LABELS)
    assert torch.equal(model(batch).projection, model.backbone(batch.views[0]))


def test_one_view_is_made_by_the_runs_recipe():
    assert build("supervised").view_recipes(PAPER) == [PAPER]


def test_labels_are_not_smoothed_by_default():
    assert defaults("supervised") == {"label_smoothing": 0.0}


def test_label_smoothing_above_1_is_refused():
    with pytest.raises(SSLToolError, match=r"--set label_smoothing .*1\.1"):
        build("supervised", label_smoothing=1.1)
