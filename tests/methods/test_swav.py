"""SwAV: its loss against a plain loop, its wiring against the paper, its queue and its frozen prototypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, facts, forward_and_update, layers, noisy_batch, rows, unit
from ssltool.errors import SSLToolError
from ssltool.methods import method_options
from ssltool.methods.base import Method, Now
from ssltool.methods.parts.sinkhorn import sinkhorn
from ssltool.methods.swav import swav_loss
from target_helpers import array, cross_entropy


def inputs(crops: int = 4, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Scores of several crops, and codes of the first two."""
    scores = [row.tanh() for row in rows(crops, seed=seed)]
    return scores, [row.softmax(dim=1) for row in rows(2, seed=seed + 100)]


def by_hand(scores, codes, temperature: float) -> float:
    """Eq. 6 of arXiv:2006.09882: every crop predicts the codes of every other that has some."""
    losses = []
    for i, code in enumerate(codes):
        for v, logits in enumerate(scores):
            if v != i:
                losses.append(cross_entropy(code, array(logits) / temperature).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("crops", [2, 3, 8])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_equals_eq_6_by_loops(crops, temperature):
    scores, codes = inputs(crops)
    assert swav_loss(scores, codes, temperature).item() == pytest.approx(by_hand(scores, codes, temperature), rel=1e-12)


def test_the_loss_of_a_hand_worked_row():
    # The first crop says (3/4, 1/4), the second (1/2, 1/2): -log 1/2 for the first's code, -log 1/4 for the second's.
    scores = [0.1 * torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)]
    codes = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    assert swav_loss(scores, codes).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


@pytest.mark.parametrize("k", [2, 5, 3000])
def test_where_all_prototypes_score_alike_the_loss_is_ln_k(k):
    codes = [torch.eye(k, dtype=torch.float64)[:3]] * 2 if k > 2 else [torch.eye(2, dtype=torch.float64)] * 2
    scores = [torch.full_like(codes[0], value) for value in (0.3, -1.0)]
    assert swav_loss(scores, codes).item() == pytest.approx(math.log(k), rel=1e-12)


def test_a_crop_does_not_predict_its_own_code():
    scores, codes = inputs(3)
    (other,) = rows(1, seed=5)
    wanted = swav_loss(scores, codes[:1]).item()
    assert swav_loss([other, *scores[1:]], codes[:1]).item() == wanted
    assert swav_loss([scores[0], other, scores[2]], codes[:1]).item() != pytest.approx(wanted)


def test_the_loss_is_invariant_to_image_order_prototype_order_and_row_shifts():
    scores, codes = inputs()
    order, columns = torch.randperm(8), torch.randperm(5)
    wanted = swav_loss(scores, codes).item()
    for change in (lambda x: x[order], lambda x: x[:, columns]):
        assert swav_loss([change(s) for s in scores], [change(c) for c in codes]).item() == pytest.approx(wanted)
    (shift,) = rows(1, d=1)
    assert swav_loss([s + shift for s in scores], codes).item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("scores", "codes", "text"),
    [
        ([], [], "found 0 and 0 of shapes []"),
        ([(4, 3)], [(4, 3)], "found 1 and 1 of shapes [(4, 3)]"),
        ([(4, 3)] * 2, [], "found 2 and 0 of shapes [(4, 3)]"),
        ([(4, 3)] * 2, [(4, 3)] * 3, "found 2 and 3 of shapes [(4, 3)]"),
        ([(4, 3), (4, 2)], [(4, 3)], "found 2 and 1 of shapes [(4, 2), (4, 3)]"),
        ([(4, 3)] * 2, [(5, 3)], "found 2 and 1 of shapes [(4, 3), (5, 3)]"),
    ],
)
def test_mismatched_crops_are_refused(scores, codes, text):
    with pytest.raises(SSLToolError) as caught:
        swav_loss([torch.zeros(shape) for shape in scores], [torch.zeros(shape) for shape in codes])
    assert str(caught.value).startswith("swav_loss ") and str(caught.value).endswith(text)


def swav(run=None, **options) -> Method:
    return build("swav", run, **{"prototypes": 5, "queue": 0, "freeze": 0, **options})


def embedded(model: Method, views: list[Tensor]) -> list[np.ndarray]:
    """The unit embeddings of views, which share batch statistics in the head."""
    h = [model.backbone(view) for view in views]
    return [unit(z) for z in model.projector(torch.cat(h)).split(len(views[0]))]


def expected(model: Method, views: list[Tensor], earlier: list[np.ndarray] | None = None) -> float:
    """The loss of a step by Eq. 3 to 6, with earlier embeddings assigned along."""
    z, weight = embedded(model, views), array(model.prototypes.weight)
    codes = []
    for number in range(2):
        known = np.concatenate([*([earlier[number]] if earlier else []), z[number]])
        codes.append(sinkhorn(torch.from_numpy(known @ weight.T))[-len(z[number]) :])
    return by_hand([row @ weight.T for row in z], codes, 0.1)


def test_the_defaults_are_the_papers():
    o = method_options("swav", {})
    assert (o.dim, o.hidden, o.prototypes, o.temperature, o.epsilon, o.iterations) == (128, 2048, 3000, 0.1, 0.05, 3)
    assert (o.queue, o.queue_start, o.freeze) == (3840, 15, 313)


def test_the_heads_are_two_layers_and_unit_prototypes():
    model = swav()
    assert layers(model.projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6+bias"]
    assert model.prototypes.weight.shape == (5, 6)
    assert not hasattr(model, "queues")


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4, 4)])
def test_a_forward_pass_is_eq_3_to_6_of_its_views(sizes):
    model, batch = swav(), noisy_batch(sizes=sizes)
    out = model(batch)
    assert out.loss.item() == pytest.approx(expected(model, batch.views), rel=1e-5)
    assert out.projection.numpy() == pytest.approx(embedded(model, batch.views)[0], abs=1e-5)
    assert not out.projection.requires_grad


@pytest.mark.parametrize(("batches", "full"), [(0, False), (1, False), (2, True), (3, True)])
def test_the_queue_is_used_only_when_full(batches, full):
    model, batch = swav(queue=32, queue_start=1), noisy_batch()  # it holds two batches
    for q in model.queues:
        for _ in range(batches):
            q.add(torch.randn(16, q.rows.shape[1]))
    earlier = [array(q.rows) for q in model.queues]
    model.now = Now(epoch=1, step=4)
    without, along = expected(model, batch.views), expected(model, batch.views, earlier)
    assert along != pytest.approx(without, rel=1e-3)
    assert model(batch).loss.item() == pytest.approx(along if full else without, rel=1e-5)


def test_each_large_crop_has_its_own_queue_filled_from_queue_start_on():
    model, batch = swav(queue=32, queue_start=1), noisy_batch(sizes=(8, 8, 4))
    before = [q.rows.clone() for q in model.queues]
    model.now = Now(epoch=0, step=3)
    forward_and_update(model, batch)
    assert all(torch.equal(q.rows, rows) for q, rows in zip(model.queues, before, strict=True))
    model.now = Now(epoch=1, step=4)
    forward_and_update(model, batch)
    wanted = embedded(model, batch.views)
    assert len(model.queues) == 2
    for q, z, rows_before in zip(model.queues, wanted, before, strict=False):
        assert q.rows[:16].numpy() == pytest.approx(z, abs=1e-5)
        assert torch.equal(q.rows[16:], rows_before[16:])


def test_the_queue_does_not_change_in_evaluation():
    model = swav(queue=32, queue_start=0).eval()
    before = [q.rows.clone() for q in model.queues]
    model(noisy_batch())
    assert all(torch.equal(q.rows, rows) for q, rows in zip(model.queues, before, strict=True))


def test_a_queue_shorter_than_a_batch_is_refused():
    with pytest.raises(SSLToolError, match=r"--set queue=8 .*16"):
        swav(queue=8)


@pytest.mark.parametrize(("step", "learns"), [(0, False), (2, False), (3, True)])
def test_prototypes_have_no_gradient_in_the_first_steps(step, learns):
    model = swav(freeze=3)
    model(noisy_batch()).loss.backward()
    model.now = Now(epoch=0, step=step)
    model.before_update()
    assert (model.prototypes.weight.grad is not None) is learns
    assert all(float(p.grad.norm()) > 0 for p in model.backbone.parameters())


def test_prototypes_have_length_1_after_each_step():
    model = swav()
    model(noisy_batch()).loss.backward()
    torch.optim.SGD(model.parameters(), 1.0).step()
    assert model.prototypes.weight.detach().norm(dim=1) != pytest.approx(1.0, abs=1e-4)
    model.after_step()
    torch.testing.assert_close(model.prototypes.weight.detach().norm(dim=1), torch.ones(5))


@pytest.mark.parametrize(
    ("options", "epochs", "batch", "said"),
    [
        ({"prototypes": 17}, 2, 16, ["17 prototypes"]),
        (
            {"prototypes": 17, "queue": 32, "queue_start": 2},
            2,
            16,
            ["17 prototypes"],
        ),
        ({"prototypes": 17, "queue": 32, "queue_start": 1}, 2, 16, []),
        ({"prototypes": 16}, 2, 16, []),
        ({"epsilon": 0.011}, 2, 16, ["epsilon=0.011 "]),
        ({"epsilon": 0.012}, 2, 16, []),
        ({"temperature": 0.01}, 2, 16, ["temperature=0.01 "]),
    ],
)
def test_problematic_settings_give_warnings(options, epochs, batch, said):
    found = swav(facts(epochs=epochs, batch_size=batch), **options).warnings()
    assert [text.startswith(start) for text, start in zip(found, said, strict=True)] == [True] * len(said)


def test_a_loss_of_ln_k_after_the_first_epoch_gives_a_warning():
    model = swav()
    assert model.diagnose(math.log(5)) is None
    model.now = Now(epoch=1, step=4)
    assert "smaller epsilon or lr" in model.diagnose(math.log(5))
    assert model.diagnose(math.log(5) - 0.1) is None


def test_a_queue_that_fits_neither_batch_nor_data_gives_warnings():
    found = swav(queue=100, queue_start=1).warnings()
    assert any("queue=100 is not a multiple" in warning for warning in found)
    assert any("queue=100 " in warning and "images (64)" in warning for warning in found)


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_without_iterations_each_row_is_assigned_by_its_own_softmax(epsilon):
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    wanted = np.exp(scores.numpy() / epsilon)
    np.testing.assert_allclose(sinkhorn(scores, epsilon, 0), wanted / wanted.sum(axis=1, keepdims=True), rtol=1e-12)


def test_without_iterations_all_rows_can_be_assigned_to_one_prototype_and_the_loss_is_then_near_0():
    scores = torch.full((6, 4), -1.0)
    scores[:, 2] = 1.0
    codes = sinkhorn(scores, 0.05, 0)
    assert codes[:, 2].min() > 0.999
    assert swav_loss([scores, scores], [codes, codes]).item() < 1e-6
    assert sinkhorn(scores, 0.05, 3).sum(dim=0).max() < 1.51  # a quarter of the six rows
