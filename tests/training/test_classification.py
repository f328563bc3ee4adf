"""Counting hits against a loop by hand, and what every classifier and epoch starts from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ssltool import seeds
from ssltool.training.classification import Accuracy, epoch_order, linear_classifier
from ssltool.training.classifier_setup import has_unused_parameters

CPU = torch.device("cpu")


def reference(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    ranks = [sorted(range(scores.shape[1]), key=lambda c, row=row: -row[c]) for row in scores.tolist()]
    first = [rank[0] == label for rank, label in zip(ranks, labels.tolist(), strict=True)]
    five = [label in rank[:5] for rank, label in zip(ranks, labels.tolist(), strict=True)]
    classes = [
        np.mean([hit for hit, y in zip(first, labels.tolist(), strict=True) if y == c]) for c in set(labels.tolist())
    ]
    return {"acc1": np.mean(first), "acc5": np.mean(five), "class_acc1": np.mean(classes)}


@pytest.mark.parametrize("classes", [2, 5, 8])
def test_accuracies_in_batches_are_those_of_a_loop_over_all_rows(classes):
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(60, classes, generator=generator)
    labels = torch.randint(classes, (60,), generator=generator).clamp(max=classes - 2 + (classes == 2))
    count = Accuracy(classes, CPU)
    for part in (slice(0, 7), slice(7, 60)):
        count.add(scores[part], labels[part])
    assert count.result() == pytest.approx(reference(scores, labels))


def test_rare_classes_count_as_much_as_frequent_ones_in_the_mean_of_the_classes():
    count = Accuracy(2, CPU)
    count.add(torch.tensor([[1.0, 0.0]] * 10), torch.tensor([0] * 9 + [1]))
    assert count.result() == {"acc1": 0.9, "acc5": 1.0, "class_acc1": 0.5}


def test_a_class_without_a_score_is_never_predicted():
    count = Accuracy(4, CPU)
    count.add(torch.eye(3), torch.tensor([0, 1, 3]))
    assert count.result() == {
        "acc1": pytest.approx(2 / 3),
        "acc5": pytest.approx(2 / 3),
        "class_acc1": pytest.approx(2 / 3),
    }


def test_an_epochs_order_is_a_permutation_and_a_function_of_seed_plus_epoch():
    assert sorted(epoch_order(50, 3, 1)) == list(range(50))
    # As in the paper's code: the seeds of its permutations are epoch + seed.
    assert (
        epoch_order(50, 3, 1).tolist()
        == epoch_order(50, 1, 3).tolist()
        == np.random.RandomState(4).permutation(50).tolist()
    )
    assert epoch_order(50, 3, 1).tolist() != epoch_order(50, 3, 2).tolist()


def test_a_classifier_starts_small_and_without_bias_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    untouched = torch.rand(3)
    torch.manual_seed(0)
    layer = linear_classifier(100, 50, seeds.generator(1))
    assert torch.equal(torch.rand(3), untouched)
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=5 / (2 * 5000) ** 0.5)
    assert layer.bias.tolist() == [0.0] * 50
    assert layer.weight.requires_grad and layer.bias.requires_grad
    assert torch.equal(layer.weight, linear_classifier(100, 50, seeds.generator(1)).weight)


class Network(nn.Module):
    """A linear layer with a mask token, which its output does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mask = nn.Linear(3 * 4 * 4, 2), nn.Parameter(torch.zeros(1))

    def embed(self, view: torch.Tensor, layer: str) -> torch.Tensor:
        return self.layer(view.flatten(1))


def test_trainable_parameters_without_effect_are_found():
    network = Network()
    assert has_unused_parameters(network, 4, torch.device("cpu"))
    network.mask.requires_grad_(False)
    assert not has_unused_parameters(network, 4, torch.device("cpu"))
    assert network.training and network.layer.weight.grad is None
