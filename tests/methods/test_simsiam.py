"""SimSiam: its loss against a plain loop, its wiring against the paper, and the collapse without a stop-gradient."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import Flat, build, defaults, facts, layers, noisy_batch, rows
from ssltool.data.loader import Batch
from ssltool.diagnosis.metrics.of_rows import feature_std
from ssltool.errors import SSLToolError
from ssltool.methods import method_options
from ssltool.methods.simsiam import SimSiam, simsiam_loss


def one_way(p: Tensor, z: Tensor) -> float:
    """Eq. 1 of arXiv:2011.10566, row by row."""
    total = 0.0
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        total -= sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return total / len(p)


def by_hand(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> float:
    """Eq. 4."""
    return one_way(p1, z2) / 2 + one_way(p2, z1) / 2


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_eq_4_by_loops(seed):
    inputs = rows(4, seed=seed)
    assert simsiam_loss(*inputs).item() == pytest.approx(by_hand(*inputs), rel=1e-12)


def test_the_loss_of_two_hand_worked_rows():
    # cos(p1, z2) is 0.6 and 0.8, cos(p2, z1) is 1 and 0: -(0.7 / 2 + 0.5 / 2).
    p1, z2 = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    p2, z1 = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[2.0, 2.0], [0.0, 5.0]])
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(-0.6)


def test_the_loss_of_identical_opposite_and_orthogonal_rows_is_minus_1_1_and_0():
    (a,) = rows(1)
    assert simsiam_loss(a, a, a, a).item() == pytest.approx(-1.0)
    assert simsiam_loss(a, a, -a, -a).item() == pytest.approx(1.0)
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert simsiam_loss(x, x, y, y).item() == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_lies_between_minus_1_and_1(seed):
    assert -1 <= simsiam_loss(*rows(4, n=2, d=2, seed=seed)).item() <= 1


def test_without_stop_grad_the_gradient_reaches_projections_and_the_value_is_the_same():
    inputs = rows(4)
    p1, p2, z1, z2 = (x.clone().requires_grad_() for x in inputs)
    loss = simsiam_loss(p1, p2, z1, z2, stop_grad=False)
    loss.backward()
    assert float(z1.grad.norm()) > 0
    assert float(z2.grad.norm()) > 0
    assert loss.item() == simsiam_loss(*inputs).item()


def test_the_gradient_without_stop_grad_is_that_of_finite_differences():
    inputs = [x.requires_grad_() for x in rows(4, n=3, d=4)]
    assert torch.autograd.gradcheck(lambda *x: simsiam_loss(*x, stop_grad=False), inputs)


def test_the_defaults_are_the_papers():
    assert defaults("simsiam") == {
        "dim": 2048,
        "pred_dim": 512,
        "fix_pred_lr": False,
        "n_augs": 2,
        "stop_grad": True,
        "predictor": "mlp",
        "symmetric": True,
        "bn": "default",
        "similarity": "cosine",
    }


def test_the_projector_has_three_layers_and_a_last_bn_without_affine_parameters():
    # No layer has a bias: each is followed by a BN, which takes it away.
    assert layers(build("simsiam").projector) == [
        *("linear 8-8", "bn+affine", "relu"),
        *("linear 8-8", "bn+affine", "relu"),
        *("linear 8-6", "bn"),
    ]


def test_the_predictor_is_a_bottleneck_without_bn_at_its_end():
    assert layers(build("simsiam").predictor) == ["linear 6-4", "bn+affine", "relu", "linear 4-6+bias"]


def test_a_forward_pass_is_the_loss_of_its_two_views():
    model, batch = build("simsiam"), noisy_batch()
    z1, z2 = (model.projector(model.backbone(x)) for x in batch.views)
    p1, p2 = model.predictor(z1), model.predictor(z2)
    assert model(batch).loss.item() == pytest.approx(by_hand(p1, p2, z1, z2), abs=1e-6)


def pair(batch: Batch, i: int, j: int) -> Batch:
    return Batch([batch.views[i], batch.views[j]], batch.labels, batch.rows)


@pytest.mark.parametrize("n_augs", [3, 4])
def test_more_views_give_the_mean_over_their_pairs(n_augs):
    model, batch = build("simsiam", n_augs=n_augs), noisy_batch(sizes=[8] * n_augs, noise=1.0)
    pairs = [model(pair(batch, i, j)).loss.item() for i, j in combinations(range(n_augs), 2)]
    assert max(pairs) - min(pairs) > 1e-3
    assert model(batch).loss.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


def test_the_module_stops_the_gradient_where_the_loss_does():
    # With the predictor's last layer at zero slope for z, what reaches the backbone comes through the targets alone.
    def backbone_gradient(**options) -> float:
        model = build("simsiam", **options)
        nn.init.zeros_(model.predictor[-1].weight)
        nn.init.ones_(model.predictor[-1].bias)
        model(noisy_batch()).loss.backward()
        return float(model.backbone.layer.weight.grad.norm())

    assert backbone_gradient() == 0.0
    assert backbone_gradient(stop_grad=False) > 0.0


@pytest.mark.parametrize("seed", range(3))
def test_without_stop_gradient_projections_collapse(seed):
    def spread_after(steps: int, *, stop_grad: bool) -> float:
        torch.manual_seed(seed)
        options = method_options("simsiam", {"dim": 32, "pred_dim": 8, "stop_grad": stop_grad})
        model = SimSiam(Flat(dim=32), 32, options, facts())
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
        for step in range(steps):
            optimizer.zero_grad()
            model(noisy_batch(n=64, sizes=(2, 2), noise=1.0, seed=step)).loss.backward()
            optimizer.step()
        return feature_std(model(noisy_batch(n=64, sizes=(2, 2), noise=1.0, seed=99)).projection)

    assert spread_after(0, stop_grad=False) == spread_after(0, stop_grad=True) > 0.9
    assert spread_after(60, stop_grad=False) < 0.8 * spread_after(60, stop_grad=True)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("dim", "0", "--set dim is 0; it must be at least 1"),
        ("pred_dim", "-1", "--set pred_dim is -1; it must be at least 1"),
        ("n_augs", "1", "--set n_augs is 1; it must be at least 2 and at most 100"),
        ("predictor", "linear", "--set predictor is 'linear'; it must be one of mlp, none, fixed"),
        ("bn", "first", "--set bn is 'first'; it must be one of default, none, hidden, all"),
        ("similarity", "dot", "--set similarity is 'dot'; it must be one of cosine, cross_entropy"),
    ],
)
def test_options_out_of_range_are_refused(name, value, text):
    with pytest.raises(SSLToolError) as caught:
        method_options("simsiam", {name: value})
    assert str(caught.value) == text
