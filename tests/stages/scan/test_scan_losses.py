"""SCAN's losses against closed forms and plain loops."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from ssltool.errors import SSLToolError
from ssltool.stages.scan.losses import confidence_loss, scan_loss

K = 5


def sure(clusters: list[int], scale: float = 1000.0) -> torch.Tensor:
    """Logits (N, K), float64, with probability about 1 for the given cluster of each row."""
    return scale * F.one_hot(torch.tensor(clusters), K).double()


def random_logits(n: int, seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_uniform_predictions_have_consistency_and_entropy_log_k():
    logits = torch.zeros(7, K, dtype=torch.float64)
    total, consistency, entropy = scan_loss(logits, logits)
    assert float(consistency) == pytest.approx(math.log(K))
    assert float(entropy) == pytest.approx(math.log(K))
    assert float(total) == pytest.approx(-4 * math.log(K))


def test_confident_balanced_and_consistent_predictions_reach_the_minimum():
    total, consistency, entropy = scan_loss(sure([0, 1, 2, 3, 4]), sure([0, 1, 2, 3, 4]))
    assert float(consistency) == pytest.approx(0.0, abs=1e-12)
    assert float(entropy) == pytest.approx(math.log(K))
    assert float(total) == pytest.approx(-5 * math.log(K))


def test_a_single_cluster_is_consistent_and_has_entropy_0():
    total, consistency, entropy = scan_loss(sure([2] * 6), sure([2] * 6))
    assert float(consistency) == pytest.approx(0.0, abs=1e-12)
    # Clusters without images count with the probability 1e-8 each.
    assert float(entropy) == pytest.approx(-(K - 1) * 1e-8 * math.log(1e-8), rel=1e-6)
    assert float(total) == pytest.approx(-5 * float(entropy))


def test_confident_neighbours_in_different_clusters_do_not_underflow():
    a = sure([0, 1], scale=300.0).float().requires_grad_()
    _, consistency, _ = scan_loss(a, sure([1, 0], scale=300.0).float())
    # <p, q> is about 2 exp(-300), far below the smallest float32.
    assert consistency.item() == pytest.approx(300 - math.log(2))
    (gradient,) = torch.autograd.grad(consistency, a)
    assert float(gradient.abs().max()) > 0.1


@pytest.mark.parametrize("weight", [0.0, 1.0, 5.0])
def test_the_loss_is_that_of_plain_loops(weight):
    a, b = random_logits(8, 0), random_logits(8, 1)
    p = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in a.tolist()]
    q = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in b.tolist()]
    agreement = [sum(x * y for x, y in zip(one, other, strict=True)) for one, other in zip(p, q, strict=True)]
    consistency = -sum(math.log(x) for x in agreement) / 8
    mean = [sum(row[k] for row in p) / 8 for k in range(K)]
    entropy = -sum(x * math.log(x) for x in mean)
    found = scan_loss(a, b, weight)
    assert [float(x) for x in found] == pytest.approx([consistency - weight * entropy, consistency, entropy])


def test_the_consistency_is_the_binary_cross_entropy_with_ones_of_the_authors_code():
    a, b = random_logits(9, 2), random_logits(9, 3)
    similarity = (a.softmax(dim=1) * b.softmax(dim=1)).sum(dim=1)
    wanted = F.binary_cross_entropy(similarity, torch.ones_like(similarity))
    assert float(scan_loss(a, b)[1]) == pytest.approx(float(wanted))


def test_the_loss_is_invariant_to_the_numbering_of_clusters_and_the_order_of_images():
    a, b = random_logits(8, 4), random_logits(8, 5)
    columns, rows = torch.tensor([3, 0, 4, 1, 2]), torch.arange(7, -1, -1)
    assert float(scan_loss(a[rows][:, columns], b[rows][:, columns])[0]) == pytest.approx(float(scan_loss(a, b)[0]))


def test_only_images_above_the_threshold_contribute():
    # softmax of (x, 0, 0, 0, 0) is p at x = log(4 p / (1 - p)).
    def at(p: float) -> list[float]:
        return [math.log(4 * p / (1 - p)), 0, 0, 0, 0]

    weak = torch.tensor([at(0.9), at(0.8), at(0.95)], dtype=torch.float64)
    strong = random_logits(3, 6).requires_grad_()
    loss, count = confidence_loss(weak, strong, threshold=0.85)
    assert count == 2
    assert loss.item() == pytest.approx(-strong.log_softmax(dim=1)[[0, 2], 0].mean().item())
    (gradient,) = torch.autograd.grad(loss, strong)
    assert gradient[1].abs().max() == 0 and gradient[0].abs().max() > 0


def test_an_image_exactly_at_the_threshold_does_not_contribute():
    half = torch.zeros(1, 2)  # exactly 0.5 each
    assert confidence_loss(half, half, threshold=0.5)[1] == 0
    assert confidence_loss(half, half, threshold=0.49)[1] == 1


def test_balanced_gives_clusters_of_different_sizes_the_same_weight():
    weak, strong = sure([1, 1, 1, 4]), random_logits(4, 7)
    each = -strong.log_softmax(dim=1)[range(4), [1, 1, 1, 4]]
    loss, count = confidence_loss(weak, strong)
    assert count == 4
    assert float(loss) == pytest.approx(float((each[:3].mean() + each[3]) / 2))
    assert float(confidence_loss(weak, strong, balanced=False)[0]) == pytest.approx(float(each.mean()))


def test_the_weights_are_those_of_the_authors_code():
    """There the weight of a cluster is the number of all confident images over its own."""
    weak, strong = sure([0, 0, 3, 2, 2, 2]), random_logits(6, 8)
    target = weak.argmax(dim=1)
    weights = torch.ones(K, dtype=torch.float64)
    numbers, counts = target.unique(return_counts=True)
    weights[numbers] = 1 / (counts.double() / 6)
    wanted = F.cross_entropy(strong, target, weight=weights)
    assert float(confidence_loss(weak, strong)[0]) == pytest.approx(float(wanted))


def test_without_confident_images_loss_and_gradient_are_0():
    strong = random_logits(4, 9).requires_grad_()
    loss, count = confidence_loss(torch.zeros(4, K), strong)
    (gradient,) = torch.autograd.grad(loss, strong)
    assert (loss.item(), count, gradient.abs().max().item()) == (0.0, 0, 0.0)


def test_no_gradient_flows_into_the_weak_logits():
    weak, strong = sure([0, 1]).requires_grad_(), random_logits(2, 10).requires_grad_()
    loss, _ = confidence_loss(weak, strong)
    assert torch.autograd.grad(loss, weak, allow_unused=True) == (None,)


@pytest.mark.parametrize("loss", [scan_loss, confidence_loss])
@pytest.mark.parametrize("shapes", [((4, K), (3, K)), ((4, K), (4, K + 1)), ((K,), (K,)), ((0, K), (0, K))])
def test_logits_that_do_not_match_are_refused(loss, shapes):
    with pytest.raises(SSLToolError, match=re.escape(f"{shapes[0]} and {shapes[1]}")):
        loss(*(torch.zeros(shape) for shape in shapes))
