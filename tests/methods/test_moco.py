"""MoCo: its loss against plain loops and closed forms, its wiring against the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_helpers import (
    build,
    defaults,
    forward_and_update,
    layers,
    negative_log_share,
    noisy_batch,
    rows,
    shake,
    unit,
)
from ssltool.errors import SSLToolError
from ssltool.methods.moco import MoCo, moco_loss


def by_hand(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> float:
    """Eq. 1 of arXiv:1911.05722, query by query; the key is the first of K + 1."""
    q, k, queue = unit(q), unit(k), unit(queue)
    total = 0.0
    for query, key in zip(q, k, strict=True):
        similarities = [float(query @ key)] + [float(query @ old) for old in queue]
        total += negative_log_share([s / temperature for s in similarities], 0)
    return total / len(q)


def three(n: int = 5, stored: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    (q, k), (queue,) = rows(2, n=n), rows(1, n=stored, seed=1)
    return q, k, queue


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(("n", "stored"), [(1, 1), (5, 11), (6, 2)])
def test_the_loss_equals_eq_1_by_loops(n, stored, temperature):
    inputs = three(n, stored)
    assert moco_loss(*inputs, temperature).item() == pytest.approx(by_hand(*inputs, temperature), rel=1e-11)


@pytest.mark.parametrize("stored", [1, 31, 1000])
def test_equal_rows_have_the_loss_ln_of_k_plus_1(stored):
    q, queue = torch.ones(4, 3, dtype=torch.float64), torch.ones(stored, 3, dtype=torch.float64)
    assert moco_loss(q, q, queue).item() == pytest.approx(math.log(stored + 1), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_matching_key_among_orthogonal_ones_has_a_closed_form(temperature):
    q, queue = torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, -1.0]])
    wanted = math.log(math.exp(1 / temperature) + 3) - 1 / temperature
    assert moco_loss(q, q, queue, temperature).item() == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_a_hand_worked_query():
    # Cosines 1 with the key, 0 and -1 with the queue, temperature 1.
    q, queue = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert moco_loss(q, q, queue, 1.0).item() == pytest.approx(math.log(math.e + 1 + 1 / math.e) - 1, rel=1e-6)


def test_the_order_of_the_queue_does_not_matter():
    q, k, queue = three()
    assert moco_loss(q, k, queue.flip(0)).item() == pytest.approx(moco_loss(q, k, queue).item(), rel=1e-13)


def test_the_temperature_is_0_2_by_default():
    inputs = three()
    assert moco_loss(*inputs).item() == moco_loss(*inputs, 0.2).item() != moco_loss(*inputs, 0.1).item()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(4, 3), (4, 2), (7, 3)], r"moco_loss .* 2 .* found \[\(4, 2\), \(4, 3\)\]"),
        ([(4, 3), (5, 3), (7, 3)], r"moco_loss .* 2 .* found \[\(4, 3\), \(5, 3\)\]"),
        ([(3,), (3,), (7, 3)], r"moco_loss .* 2 .* found \[\(3,\)\]"),
        ([(4, 3), (4, 3), (7, 2)], r"queue \(K, D\) for rows \(N, D\); found \(7, 2\) for \(4, 3\)"),
        ([(4, 3), (4, 3), (3,)], r"queue \(K, D\) for rows \(N, D\); found \(3,\) for \(4, 3\)"),
    ],
)
def test_mismatched_shapes_are_refused(shapes, message):
    with pytest.raises(SSLToolError, match=message):
        moco_loss(*(torch.zeros(shape) for shape in shapes))


def test_the_defaults_are_moco_v2s():
    assert defaults("moco") == {
        "dim": 128,
        "hidden": 2048,
        "queue": 65536,
        "temperature": 0.2,
        "momentum": 0.999,
        "momentum_final": None,
        "symmetric": False,
    }


def test_the_projector_is_a_hidden_layer_and_a_linear_one_without_bn():
    assert layers(build("moco").projector) == ["linear 8-10+bias", "relu", "linear 10-6+bias"]


def built(**options: object) -> MoCo:
    model = build("moco", **options)
    shake(model.teacher)
    return model


def both_ways(model: MoCo, queue: Tensor) -> list[float]:
    """The loss of the first view as query, then of the second, against ``queue``."""
    x1, x2 = noisy_batch().views
    q1, q2 = (model.projector(model.backbone(x)) for x in (x1, x2))
    k1, k2 = (model.teacher["projector"](model.teacher["backbone"](x)) for x in (x1, x2))
    return [by_hand(q1, k2, queue, 0.2), by_hand(q2, k1, queue, 0.2)]


def test_the_first_view_is_query_and_the_teachers_second_the_key():
    model = built()
    first, second = both_ways(model, model.queue.rows.clone())
    assert abs(first - second) > 1e-3
    assert model(noisy_batch()).loss.item() == pytest.approx(first, rel=1e-5)


def test_the_symmetric_loss_is_the_mean_of_both_directions_against_the_same_queue():
    model = built(symmetric=True)
    wanted = sum(both_ways(model, model.queue.rows.clone())) / 2
    assert model(noisy_batch()).loss.item() == pytest.approx(wanted, rel=1e-5)


def test_keys_enter_the_queue_after_the_loss_is_taken():
    model = built()
    before = model.queue.rows.clone()
    first = forward_and_update(model, noisy_batch()).loss.item()
    keys = model.teacher_forward(noisy_batch().views[1])
    torch.testing.assert_close(model.queue.rows[:16].double(), torch.from_numpy(unit(keys)), atol=1e-5, rtol=0)
    assert torch.equal(model.queue.rows[16:], before[16:])
    again = model(noisy_batch()).loss.item()  # its keys are now among the negatives
    assert again == pytest.approx(both_ways(model, torch.cat([keys, before[16:]]))[0], rel=1e-5)
    assert again != pytest.approx(first, abs=1e-3)


def test_the_temperature_option_is_used():
    model = built(temperature=1.0)
    queue = model.queue.rows.clone()
    q1 = model.projector(model.backbone(noisy_batch().views[0]))
    wanted = by_hand(q1, model.teacher_forward(noisy_batch().views[1]), queue, 1.0)
    assert model(noisy_batch()).loss.item() == pytest.approx(wanted, rel=1e-5)
