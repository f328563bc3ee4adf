"""VISReg: its loss against sorted slices by numpy and against two public versions, its terms, and its wiring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from methods_helpers import build, defaults, noisy_batch, rows
from ssltool import seeds
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods.parts.sigreg import unit_directions
from ssltool.methods.visreg import visreg_loss, visreg_regularisation

N, D, K, GLOBAL = 12, 5, 7, 2
WEIGHTS = {"scale": 0.7, "shape": 1.3, "center": 0.4}


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def directions() -> Tensor:
    return unit_directions(D, K, torch.Generator().manual_seed(0)).double()


def views(count: int = 5, n: int = N) -> list[Tensor]:
    common, *own = rows(1 + count, n=n, d=D, seed=3)
    return [0.8 * common + 0.3 * z + 0.1 * v for v, z in enumerate(own)]


def shape(standard: np.ndarray, a: np.ndarray) -> float:
    """The mean squared distance of sorted slices to the quantiles of a standard normal."""
    quantiles = norm.ppf(np.arange(1, len(standard) + 1) / (len(standard) + 1))
    return float(np.mean([np.mean((np.sort(standard @ direction) - quantiles) ** 2) for direction in a.T]))


def terms(z: np.ndarray, a: np.ndarray, eps: float = 1e-6, eps_of_scale: float = 1e-6) -> dict[str, float]:
    """Eq. 1, 5 and 6 of arXiv:2606.02572, dimension by dimension and slice by slice."""
    deviations = [z[:, j].std() for j in range(z.shape[1])]
    standard = np.stack([(z[:, j] - z[:, j].mean()) / (sd + eps) for j, sd in enumerate(deviations)], axis=1)
    return {
        "scale": np.mean([(1 - sd - eps_of_scale) ** 2 for sd in deviations]),
        "shape": shape(standard, a),
        "center": np.mean([z[:, j].mean() ** 2 for j in range(z.shape[1])]),
    }


def total(z: list[np.ndarray], a: np.ndarray, lambd: float, weights: dict[str, float], **eps: float) -> float:
    """Algorithm 1 of arXiv:2606.02572."""
    mu = np.mean(z[:GLOBAL], axis=0)
    regularisation = np.mean([sum(weights[name] * x for name, x in terms(view, a, **eps).items()) for view in z])
    return (1 - lambd) * np.mean([np.mean((view - mu) ** 2) for view in z]) + lambd * regularisation


@pytest.mark.parametrize("weights", [WEIGHTS, *(dict.fromkeys(WEIGHTS, 0.0) | {name: 1.0} for name in WEIGHTS)])
@pytest.mark.parametrize(("count", "n", "lambd"), [(2, 2, 0.9), (2, 30, 0.6), (5, 12, 0.0), (5, 12, 1.0)])
def test_the_loss_equals_algorithm_1_by_loops(count, n, lambd, weights):
    z, a = views(count, n), directions()
    wanted = total([array(view) for view in z], array(a), lambd, weights)
    assert visreg_loss(z, a, GLOBAL, lambd, **weights).item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_small_scales_show_which_public_version_the_loss_is():
    """The released code adds 1e-6 to the standard deviations, lightly 1e-4 and in the shape term only."""
    z, a, weights = [1e-4 * view for view in views()], directions(), dict.fromkeys(WEIGHTS, 1.0)
    arrays = [array(view) for view in z]
    found = visreg_loss(z, a, GLOBAL, 0.9).item()
    assert found == pytest.approx(total(arrays, array(a), 0.9, weights), rel=1e-10)
    assert abs(found - total(arrays, array(a), 0.9, weights, eps=1e-4, eps_of_scale=0.0)) > 0.01


def test_the_gradient_of_the_shape_term_does_not_reach_the_scale():
    """Else the shape term would not change along the rows themselves."""
    z, a = views(1)[0].requires_grad_(), directions()
    (gradient,) = torch.autograd.grad(visreg_regularisation(z, a, scale=0.0, center=0.0), z)
    x, fixed = array(z), array(z).std(axis=0) + 1e-6

    def changed(step: float) -> float:
        moved = x + step * np.eye(N)[3][:, None]
        return shape((moved - moved.mean(axis=0)) / fixed, array(a))

    assert float(gradient[3].sum()) == pytest.approx((changed(1e-6) - changed(-1e-6)) / 2e-6, rel=1e-5)
    assert abs(float((gradient * z.detach()).sum())) > 1e-3


def test_the_shape_term_does_not_see_scale_and_mean_of_dimensions():
    (z,), a = views(1), directions()
    moved = z * torch.linspace(0.5, 4, D, dtype=torch.float64) + torch.arange(D)
    found = [visreg_regularisation(x, a, scale=0.0, center=0.0).item() for x in (z, moved)]
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.parametrize("n", [2, 64])
def test_equal_rows_have_the_largest_scale_term_and_the_shape_term_of_the_quantiles(n):
    z, a = torch.full((n, D), 0.3, dtype=torch.float64), directions()
    quantiles = norm.ppf(np.arange(1, n + 1) / (n + 1))
    assert visreg_regularisation(z, a, 1.0, 0.0, 0.0).item() == pytest.approx((1 - 1e-6) ** 2, rel=1e-9)
    assert visreg_regularisation(z, a, 0.0, 1.0, 0.0).item() == pytest.approx(np.mean(quantiles**2), rel=1e-9)
    assert visreg_regularisation(z, a, 0.0, 0.0, 1.0).item() == pytest.approx(0.09, rel=1e-12)


def test_normal_quantiles_in_one_dimension_have_only_the_distance_of_their_scales():
    q = norm.ppf(np.arange(1, 51) / 51)
    z = torch.from_numpy(q / q.std())[:, None]
    found = visreg_regularisation(z, torch.ones(1, 1, dtype=torch.float64)).item()
    assert found == pytest.approx(np.mean((q / q.std() - q) ** 2), abs=1e-6)


def test_without_regularisation_equal_embeddings_have_the_least_loss():
    z = torch.full((8, D), 0.7, dtype=torch.float64)
    assert visreg_loss([z, z, z], directions(), 2, 0.0).item() == 0.0


def test_equal_rows_have_finite_gradients():
    z = [torch.full((8, D), 0.7, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    visreg_loss(z, directions(), 2, 0.9).backward()
    assert all(bool(view.grad.isfinite().all()) for view in z)


@pytest.mark.parametrize("shapes", [[(4, D)], [(4, D), (3, D)], [(1, D)] * 2, [(4, D + 1)] * 2])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"visreg_loss .*found"):
        visreg_loss([torch.zeros(shape) for shape in shapes], torch.zeros(D, K), 1)


def test_the_defaults_are_those_of_the_released_code_for_imagenet():
    assert defaults("visreg") == {
        "dim": 256, "hidden": 2048, "lambd": 0.9, "scale": 1.0, "shape": 1.0, "center": 1.0, "slices": 4096,
        "global_views": 4, "local_crops": 6, "local_size": None,
    }  # fmt: skip
    assert len(build("visreg").view_recipes(PAPER)) == 10


@pytest.mark.parametrize("options", [{"lambd": 0, "scale": 0.5}, {"shape": 0, "slices": 7}])
def test_options_without_effect_are_refused(options):
    with pytest.raises(SSLToolError, match="does nothing with"):
        build("visreg", **options)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
def test_a_forward_pass_is_the_weighted_loss_of_all_views(sizes):
    model = build("visreg", lambd=0.3, global_views=2, slices=50, **WEIGHTS)
    batch = noisy_batch(sizes=sizes)
    large = model.projector(model.backbone(torch.cat(batch.views[:2]))).chunk(2)
    small = model.projector(model.backbone(torch.cat(batch.views[2:]))).chunk(2) if len(sizes) == 4 else ()
    generator = seeds.generator(0, 0, 0, seeds.Stream.SLICES)
    a = array(unit_directions(6, 50, generator))
    wanted = total([array(z) for z in (*large, *small)], a, 0.3, WEIGHTS)
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)


def test_outputs_of_0_have_the_loss_that_shows_constant_outputs():
    model, batch = build("visreg", lambd=0.6, global_views=2, **WEIGHTS), noisy_batch()
    for parameter in model.projector[-1].parameters():
        torch.nn.init.zeros_(parameter)
    loss = model(batch).loss.item()
    assert model.constant_output_losses == (pytest.approx(loss, rel=1e-5),)
    assert len(model.probable_causes(loss)) == 1
