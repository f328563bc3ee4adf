"""SimSiam: its loss against a plain loop, its wiring against the paper, and the collapse without a stop-gradient."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from ssltool.collapse.metrics import feature_std
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods import method_options
from ssltool.methods.simsiam import SimSiam, simsiam_loss


def tensors(count: int = 4, n: int = 8, d: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(count)]


def by_hand(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> float:
    """Eq. 4 of arXiv:2011.10566, row by row."""

    def distance(p: Tensor, z: Tensor) -> float:
        total = 0.0
        for a, b in zip(p.tolist(), z.tolist(), strict=True):
            total -= sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
        return total / len(p)

    return distance(p1, z2) / 2 + distance(p2, z1) / 2


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_eq_4_by_loops(seed):
    inputs = tensors(seed=seed)
    assert simsiam_loss(*inputs).item() == pytest.approx(by_hand(*inputs), rel=1e-12)


def test_the_loss_of_two_hand_worked_rows():
    # cos(p1, z2) is 0.6 and 0.8, cos(p2, z1) is 1 and 0: -(0.7 / 2 + 0.5 / 2).
    p1, z2 = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    p2, z1 = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[2.0, 2.0], [0.0, 5.0]])
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(-0.6)


def test_the_loss_of_identical_opposite_and_orthogonal_rows_is_the_end_and_the_middle_of_its_range():
    (a,) = tensors(1)
    assert simsiam_loss(a, a, a, a).item() == pytest.approx(-1.0)
    assert simsiam_loss(a, a, -a, -a).item() == pytest.approx(1.0)
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert simsiam_loss(x, x, y, y).item() == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_lies_between_minus_1_and_1(seed):
    assert -1 <= simsiam_loss(*tensors(n=2, d=2, seed=seed)).item() <= 1


def test_the_loss_does_not_know_which_view_is_first():
    p1, p2, z1, z2 = tensors()
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(simsiam_loss(p2, p1, z2, z1).item(), rel=1e-14)


def test_the_loss_sees_directions_only():
    inputs = tensors()
    scaled = [x * s for x, s in zip(inputs, (0.01, 3.0, 100.0, 0.5), strict=True)]
    assert simsiam_loss(*scaled).item() == pytest.approx(simsiam_loss(*inputs).item(), rel=1e-12)


def test_the_gradient_reaches_predictions_and_stops_at_projections():
    p1, p2, z1, z2 = (x.requires_grad_() for x in tensors())
    simsiam_loss(p1, p2, z1, z2).backward()
    assert float(p1.grad.norm()) > 0
    assert float(p2.grad.norm()) > 0
    assert z1.grad is None
    assert z2.grad is None


def test_without_stop_grad_the_gradient_reaches_projections_and_the_value_is_the_same():
    inputs = tensors()
    p1, p2, z1, z2 = (x.clone().requires_grad_() for x in inputs)
    loss = simsiam_loss(p1, p2, z1, z2, stop_grad=False)
    loss.backward()
    assert float(z1.grad.norm()) > 0
    assert float(z2.grad.norm()) > 0
    assert loss.item() == simsiam_loss(*inputs).item()


def test_the_gradient_is_right():
    p1, p2, z1, z2 = tensors(n=3, d=4)
    inputs = [x.requires_grad_() for x in (p1, p2, z1, z2)]
    assert torch.autograd.gradcheck(lambda *x: simsiam_loss(*x, stop_grad=False), inputs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 0.02)]
)
def test_the_loss_keeps_the_dtype_within_its_precision(dtype, tolerance):
    inputs = tensors()
    loss = simsiam_loss(*(x.to(dtype) for x in inputs))
    assert loss.dtype == dtype
    assert loss.shape == ()
    assert float(loss) == pytest.approx(by_hand(*inputs), abs=tolerance)


def test_a_row_of_zeros_gives_no_nan():
    p1, p2, z1, z2 = tensors()
    p1[0] = 0
    p1.requires_grad_()
    loss = simsiam_loss(p1, p2, z1, z2)
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(p1.grad.isfinite().all())


@pytest.mark.parametrize(
    "shapes", [[(4, 3), (4, 3), (4, 3), (4, 2)], [(4, 3), (5, 3), (4, 3), (4, 3)], [(3,)] * 4, [(2, 3, 4)] * 4]
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"takes four \(N, D\) tensors of one shape; found"):
        simsiam_loss(*(torch.zeros(shape) for shape in shapes))


class Flat(nn.Module):
    """A backbone that a test can follow: pixels through one layer."""

    def __init__(self, pixels: int = 12, dim: int = 8) -> None:
        super().__init__()
        self.layer = nn.Linear(pixels, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).relu()


def method(seed: int = 0, **options) -> SimSiam:
    torch.manual_seed(seed)
    return SimSiam(Flat(), 8, method_options("simsiam", {"dim": 6, "pred_dim": 4, **options}))


def views(count: int = 2, n: int = 16, *, noise: float = 0.3, seed: int = 0) -> list[Tensor]:
    """Noisy copies of one batch of images."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 2, 2, generator=generator)
    return [images + noise * torch.randn(images.shape, generator=generator) for _ in range(count)]


def test_the_defaults_are_the_papers():
    options = method_options("simsiam", {})
    assert (options.dim, options.pred_dim, options.n_augs) == (2048, 512, 2)
    assert options.stop_grad
    assert not options.fix_pred_lr


def test_the_projector_is_three_layers_whose_last_bn_trains_nothing():
    projector = method().projector
    linear = [m for m in projector if isinstance(m, nn.Linear)]
    norms = [m for m in projector if isinstance(m, nn.BatchNorm1d)]
    assert [(m.in_features, m.out_features) for m in linear] == [(8, 8), (8, 8), (8, 6)]
    assert len(norms) == 3
    assert norms[-1] is projector[-1]
    assert list(norms[-1].parameters()) == []
    assert [norm.affine for norm in norms] == [True, True, False]
    assert [m.bias for m in linear] == [None, None, None]  # each is followed by a BN, which takes a bias away
    assert sum(isinstance(m, nn.ReLU) for m in projector) == 2


def test_the_predictor_is_a_bottleneck_without_bn_at_its_end():
    predictor = method().predictor
    linear = [m for m in predictor if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(6, 4), (4, 6)]
    assert predictor[-1] is linear[-1]
    assert [m.bias is not None for m in linear] == [False, True]
    assert [type(m) for m in predictor] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


def test_a_forward_pass_is_the_loss_of_its_two_views_and_the_first_projection():
    model, (x1, x2) = method(), views()
    out = model([x1, x2], torch.arange(16))
    z1, z2 = (model.projector(model.backbone(x)) for x in (x1, x2))
    p1, p2 = model.predictor(z1), model.predictor(z2)
    assert out.loss.item() == pytest.approx(by_hand(p1, p2, z1, z2), abs=1e-6)
    torch.testing.assert_close(out.projection, z1)
    assert not out.projection.requires_grad


@pytest.mark.parametrize("n_augs", [3, 4])
def test_more_views_give_the_mean_over_their_pairs(n_augs):
    model, batch = method(n_augs=n_augs), views(n_augs)
    pairs = [model([batch[i], batch[j]], torch.arange(16)).loss.item() for i, j in combinations(range(n_augs), 2)]
    assert model(batch, torch.arange(16)).loss.item() == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)


@pytest.mark.parametrize("n_augs", [2, 3])
def test_every_view_is_made_by_the_runs_recipe(n_augs):
    assert method(n_augs=n_augs).recipes(PAPER) == [PAPER] * n_augs


def test_the_module_stops_the_gradient_where_the_loss_does():
    # With the predictor's last layer at zero slope for z, what reaches the backbone comes through the targets alone.
    def backbone_gradient(**options) -> float:
        model = method(**options)
        nn.init.zeros_(model.predictor[-1].weight)
        nn.init.ones_(model.predictor[-1].bias)
        model(views(), torch.arange(16)).loss.backward()
        return float(model.backbone.layer.weight.grad.norm())

    assert backbone_gradient() == 0.0
    assert backbone_gradient(stop_grad=False) > 0.0


@pytest.mark.parametrize("fix_pred_lr", [False, True])
def test_the_groups_hold_every_trainable_parameter_once(fix_pred_lr):
    model = method(fix_pred_lr=fix_pred_lr)
    model.backbone.layer.bias.requires_grad_(False)
    encoder, predictor = model.param_groups()
    found = [id(p) for group in (encoder, predictor) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert {id(p) for p in predictor["params"]} == {id(p) for p in model.predictor.parameters()}
    assert (encoder["fixed_lr"], predictor["fixed_lr"]) == (False, fix_pred_lr)
    assert (encoder["is_encoder"], predictor["is_encoder"]) == (True, False)


def test_each_layer_is_read_out_after_the_ones_before_it():
    model, (x, _) = method().eval(), views()
    h = model.backbone(x)
    assert torch.equal(model.embed(x, "backbone"), h)
    assert torch.equal(model.embed(x, "projector"), model.projector(h))
    assert torch.equal(model.embed(x, "predictor"), model.predictor(model.projector(h)))


@pytest.mark.parametrize("seed", range(3))
def test_without_the_stop_gradient_projections_soon_lose_their_spread(seed):
    def spread_after(steps: int, *, stop_grad: bool) -> float:
        torch.manual_seed(seed)
        options = method_options("simsiam", {"dim": 32, "pred_dim": 8, "stop_grad": stop_grad})
        model = SimSiam(Flat(dim=32), 32, options)
        optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
        for step in range(steps):
            optimizer.zero_grad()
            model(views(n=64, noise=1.0, seed=step), torch.arange(64)).loss.backward()
            optimizer.step()
        return feature_std(model(views(n=64, noise=1.0, seed=99), torch.arange(64)).projection)

    assert spread_after(0, stop_grad=False) == spread_after(0, stop_grad=True) > 0.9
    assert spread_after(60, stop_grad=False) < 0.8 * spread_after(60, stop_grad=True)


@pytest.mark.parametrize(("name", "value"), [("dim", "0"), ("pred_dim", "-1"), ("n_augs", "1")])
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(SSLToolError, match=f"--{name.replace('_', '-')} is {value}"):
        method_options("simsiam", {name: value})
