"""MoCo: its loss against plain loops and closed forms, its wiring against the papers."""

from __future__ import annotations

import dataclasses
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
from ssltool.methods import method_options, saved_options
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
        "hidden": None,
        "queue": 65536,
        "temperature": 0.2,
        "negatives": True,
        "momentum": 0.999,
        "momentum_final": None,
        "symmetric": False,
        "queued": "both",
    }


def test_the_hidden_layer_is_as_wide_as_the_backbones_output_by_default():
    assert layers(build("moco", hidden=None).projector)[0] == "linear 8-8+bias"


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


class Notebook:
    """The symmetric steps of the authors' CIFAR notebook, by its rule: the sum of both directions against one queue, to
    which the keys of both views are added."""

    def __init__(self, model: MoCo) -> None:
        self.model, self.stored = model, [*model.queue.rows.clone()]

    def step(self) -> float:
        loss = sum(both_ways(self.model, torch.stack(self.stored)))
        for view in noisy_batch().views:
            self.stored = [*self.stored[16:], *torch.from_numpy(unit(self.model.teacher_forward(view))).float()]
        return loss


class SoloLearn(Notebook):
    """solo-learn's MoCo v2+: the mean of both directions, each against earlier keys of the view that it predicts."""

    def __init__(self, model: MoCo) -> None:
        self.model = model
        self.stored = [[*queue.rows.clone()] for queue in (model.queue, model.queue_of_first)]

    def step(self) -> float:
        loss = sum(both_ways(self.model, torch.stack(rows))[way] for way, rows in enumerate(self.stored)) / 2
        for number, view in enumerate(reversed(noisy_batch().views)):
            keys = torch.from_numpy(unit(self.model.teacher_forward(view))).float()
            self.stored[number] = [*self.stored[number][16:], *keys]
        return loss


@pytest.mark.parametrize(("queued", "released"), [("both", Notebook), ("separate", SoloLearn)])
def test_three_symmetric_steps_have_the_losses_of_the_released_rule(queued, released):
    model = built(symmetric=True, queued=queued)
    reference = released(model)
    wanted = [reference.step() for _ in range(3)]
    found = [forward_and_update(model, noisy_batch()).loss.item() for _ in range(3)]
    assert found == pytest.approx(wanted, rel=1e-5)
    assert len({round(loss, 3) for loss in found}) == 3 - (queued == "both")  # 32 keys fill the queue in one step


def test_with_the_keys_of_the_second_view_the_symmetric_loss_is_the_mean_against_one_queue():
    model = built(symmetric=True, queued="second")
    wanted = sum(both_ways(model, model.queue.rows.clone())) / 2
    assert forward_and_update(model, noisy_batch()).loss.item() == pytest.approx(wanted, rel=1e-5)
    keys = model.teacher_forward(noisy_batch().views[1])
    torch.testing.assert_close(model.queue.rows[:16].double(), torch.from_numpy(unit(keys)), atol=1e-5, rtol=0)
    assert int(model.queue.added) == 16


@pytest.mark.parametrize(("queued", "factor"), [("both", 2), ("separate", 1), ("second", 1)])
def test_the_loss_of_equal_outputs_is_recognised(queued, factor):
    model = built(symmetric=True, queued=queued)
    assert model.constant_output_losses == pytest.approx((factor * math.log(33),))


@pytest.mark.parametrize(
    ("saved", "queued"), [({"symmetric": True}, "second"), ({"symmetric": False}, "both"), ({}, "both")]
)
def test_options_of_earlier_versions_keep_their_meaning(saved, queued):
    options = method_options("moco", saved_options("moco", saved | {"hidden": 2048}))
    assert (options.queued, options.hidden) == (queued, 2048)


def test_saved_options_of_this_version_are_not_changed():
    saved = dataclasses.asdict(method_options("moco", {"symmetric": True}))
    assert saved_options("moco", saved) == saved


def test_queued_without_symmetric_is_refused():
    with pytest.raises(SSLToolError, match=r"queued=separate .*symmetric=false"):
        build("moco", queued="separate")


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
