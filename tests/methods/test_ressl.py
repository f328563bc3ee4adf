"""ReSSL: loss against a plain loop, strong and weak views, and the queue of the teacher's embeddings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, facts, forward_and_update, layers, noisy_batch, rows, shake, unit
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods.ressl import ressl_loss
from target_helpers import array, cross_entropy, softmax


def inputs(seed: int = 0) -> list[Tensor]:
    """Embeddings of eight images by student and teacher, and a queue of eleven."""
    return [*rows(2, seed=seed), rows(1, n=11, seed=seed + 50)[0]]


def by_hand(q, k, queue, student_temp: float = 0.1, teacher_temp: float = 0.04) -> float:
    """Eq. 3 to 5 of arXiv:2107.09282, image by image."""
    losses = []
    for student, teacher in zip(unit(q), unit(k), strict=True):
        relation = softmax([teacher @ other / teacher_temp for other in unit(queue)])
        losses.append(cross_entropy(relation, [student @ other / student_temp for other in unit(queue)]))
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 0.2)])
def test_the_loss_equals_eq_5_by_loops(seed, temperatures):
    given = inputs(seed)
    assert ressl_loss(*given, *temperatures).item() == pytest.approx(by_hand(*given, *temperatures), rel=1e-12)


def test_the_loss_of_a_hand_worked_row():
    # Cosines with the queue are (1, 0) for the student and (0, 1) for the teacher; both temperatures are 1 / ln 3.
    q, k = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    found = ressl_loss(q, k, torch.eye(2), 1 / math.log(3), 1 / math.log(3)).item()
    assert found == pytest.approx(0.25 * math.log(4 / 3) + 0.75 * math.log(4))


def test_where_all_rows_are_equal_the_loss_is_the_log_of_the_queues_length():
    row = rows(1, n=1)[0]
    assert ressl_loss(row.expand(8, 5), -row.expand(8, 5), row.expand(11, 5)).item() == pytest.approx(math.log(11))


def test_the_smallest_loss_is_the_entropy_of_the_teachers_distribution():
    _, k, queue = inputs()
    found = ressl_loss(k, k, queue, 0.1, 0.1).item()
    answers = softmax(unit(k) @ unit(queue).T / 0.1)
    assert found == pytest.approx(-(answers * np.log(answers)).sum(axis=1).mean(), rel=1e-12)
    assert all(ressl_loss(rows(1, seed=seed)[0], k, queue, 0.1, 0.1).item() > found for seed in range(5))


def test_the_loss_is_invariant_to_norms_rotations_and_queue_order():
    q, k, queue = inputs()
    wanted, turn = ressl_loss(q, k, queue).item(), torch.linalg.qr(rows(1, 5, 5, 9)[0]).Q
    assert ressl_loss(0.01 * q, 3 * k, 100 * queue).item() == pytest.approx(wanted, rel=1e-10)
    assert ressl_loss(q @ turn, k @ turn, queue @ turn).item() == pytest.approx(wanted, rel=1e-10)
    assert ressl_loss(q, k, queue.flip(0)).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("shapes", [[(4, 3), (4, 2), (7, 3)], [(4, 3), (5, 3), (7, 3)], [(3,), (3,), (3,)]])
def test_embeddings_of_different_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"ressl_loss .*; found"):
        ressl_loss(*(torch.zeros(shape) for shape in shapes))


def test_a_queue_of_another_width_is_refused():
    with pytest.raises(SSLToolError, match=r"ressl_loss .* queue \(K, D\) for rows \(N, D\); found \(7, 2\)"):
        ressl_loss(torch.zeros(4, 3), torch.zeros(4, 3), torch.zeros(7, 2))


def test_the_defaults_are_the_released_codes():
    assert defaults("ressl") == {
        "dim": 512, "hidden": 4096, "queue": 131072, "student_temp": 0.1, "teacher_temp": 0.04, "momentum": 0.999,
        "momentum_final": None,
    }  # fmt: skip


def test_the_head_is_two_layers_without_batch_norm():
    assert layers(build("ressl").projector) == ["linear 8-10+bias", "relu", "linear 10-6+bias"]


def test_a_forward_pass_uses_the_queue_before_the_batch():
    model, batch = build("ressl"), noisy_batch()
    shake(model.teacher)
    before = model.queue.rows.clone()
    strong, weak = batch.views
    q = model.projector(model.backbone(strong))
    k = model.teacher["projector"](model.teacher["backbone"](weak))
    out = forward_and_update(model, batch)
    assert out.loss.item() == pytest.approx(by_hand(q, k, before), rel=1e-4)
    torch.testing.assert_close(out.projection, q)
    assert array(model.queue.rows[:16]) == pytest.approx(unit(k), abs=1e-6)
    assert torch.equal(model.queue.rows[16:], before[16:])


def test_temperatures_are_options():
    model, batch = build("ressl", student_temp=0.5, teacher_temp=0.2), noisy_batch()
    before = model.queue.rows.clone()
    q, k = (model.projector(model.backbone(view)) for view in batch.views)  # the teacher is still a copy
    assert model(batch).loss.item() == pytest.approx(by_hand(q, k, before, 0.5, 0.2), rel=1e-4)


def test_the_queue_does_not_change_in_evaluation():
    model = build("ressl").eval()
    before = model.queue.rows.clone()
    model(noisy_batch())
    assert torch.equal(model.queue.rows, before)


def test_the_student_sees_the_runs_views_and_the_teacher_a_crop_and_a_flip():
    base = dataclasses.replace(PAPER, crop_scale=(0.3, 1.0), flip_p=0.4, solarize_p=0.2)
    strong, weak = build("ressl").view_recipes(base)
    assert strong == base
    assert (weak.crop_scale, weak.flip_p, weak.size) == ((0.3, 1.0), 0.4, None)
    changes = (weak.jitter_p, weak.gray_p, weak.blur_p, weak.solarize_p, weak.rotation, weak.erase_p)
    assert changes == (0.0,) * 6


def test_a_queue_shorter_than_a_batch_is_refused():
    with pytest.raises(SSLToolError, match=r"--set queue=15 .*16"):
        build("ressl", queue=15)


def test_problematic_settings_give_warnings():
    assert build("ressl", queue=64).warnings() == []
    cold, broken, long = build("ressl", facts(images=30), queue=40, teacher_temp=0.01).warnings()
    assert cold.startswith("teacher_temp=0.01 ") and "100" in cold
    assert broken.startswith("queue=40 ") and "multiple" in broken and "16" in broken
    assert long.startswith("queue=40 ") and "images (30)" in long
