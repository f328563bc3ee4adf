"""LeJEPA: its loss against the integral of the paper and against three public versions, and its wiring."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, facts, layers, noisy_batch, rows
from ssltool import seeds
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Now
from ssltool.methods.lejepa import lejepa_loss
from ssltool.methods.parts.sigreg import sigreg, unit_directions

KNOTS = np.linspace(-3, 3, 33)
"""The 17 knots on [0, 3] and their mirror images."""

N, D, K, GLOBAL = 12, 5, 7, 2


def array(x: Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def directions(seed: int = 0) -> Tensor:
    return unit_directions(D, K, torch.Generator().manual_seed(seed)).double()


def views(count: int = 5, n: int = N) -> list[Tensor]:
    """Embeddings of global, then of local views, which are further apart."""
    common, *own = rows(1 + count, n=n, d=D, seed=3)
    return [0.8 * common + (0.2 + 0.2 * v) * z + 0.1 * v for v, z in enumerate(own)]


def statistic(z: np.ndarray, a: np.ndarray) -> float:
    """Algorithm 1 of arXiv:2511.08544: N times the integral of the squared distance of the characteristic functions,
    weighted by that of N(0, 1), for each direction."""
    target = np.exp(-(KNOTS**2) / 2)
    found = [np.exp(1j * np.outer(z @ direction, KNOTS)).mean(axis=0) for direction in a.T]
    return float(np.mean([len(z) * np.trapezoid(np.abs(phi - target) ** 2 * target, KNOTS) for phi in found]))


def distance(of: list[np.ndarray], centre: list[np.ndarray]) -> float:
    """Mean squared difference of the views from the mean of ``centre``, number by number."""
    mu = sum(centre) / len(centre)
    return float(np.mean([(z[i, j] - mu[i, j]) ** 2 for z in of for i in range(z.shape[0]) for j in range(z.shape[1])]))


def paper(z: list[np.ndarray], a: np.ndarray, lambd: float) -> float:
    """Algorithm 2 of arXiv:2511.08544."""
    return (1 - lambd) * distance(z, z[:GLOBAL]) + lambd * float(np.mean([statistic(view, a) for view in z]))


def minimal(z: list[np.ndarray], a: np.ndarray, lambd: float) -> float:
    """MINIMAL.md of the released code: it has no local views, and the centre is the mean of all."""
    return (1 - lambd) * distance(z, z) + lambd * float(np.mean([statistic(view, a) for view in z]))


def lightly(z: list[np.ndarray], a: np.ndarray, lambd: float) -> float:
    """lightly before August 2026: both terms of the local views only."""
    local = z[GLOBAL:]
    return (1 - lambd) * distance(local, z[:GLOBAL]) + lambd * float(np.mean([statistic(view, a) for view in local]))


def stable_pretraining(z: list[np.ndarray], a: np.ndarray, lambd: float) -> float:
    """stable-pretraining 0.1.8: the invariance has the weight 1, and SIGReg is of the rows of all views together."""
    return distance(z, z[:GLOBAL]) + lambd * statistic(np.concatenate(z), a)


@pytest.mark.parametrize("lambd", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(("count", "n"), [(2, 2), (2, 30), (5, 12)])
def test_the_loss_equals_algorithm_2_by_loops(count, n, lambd):
    z, a = views(count, n), directions()
    wanted = paper([array(view) for view in z], array(a), lambd)
    assert lejepa_loss(z, a, GLOBAL, lambd).item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_public_versions_of_the_loss_differ_from_the_papers_and_from_one_another():
    z, a, lambd = [array(view) for view in views()], array(directions()), 0.3
    found = [version(z, a, lambd) for version in (paper, minimal, lightly, stable_pretraining)]
    assert min(abs(x - y) for i, x in enumerate(found) for y in found[:i]) > 0.02
    ours = lejepa_loss([torch.from_numpy(view) for view in z], torch.from_numpy(a), GLOBAL, lambd).item()
    assert ours == pytest.approx(found[0], rel=1e-10)


def test_without_local_views_the_loss_is_that_of_the_released_minimal_code():
    z, a = views(3), directions()
    wanted = minimal([array(view) for view in z], array(a), 0.3)
    assert lejepa_loss(z, a, 3, 0.3).item() == pytest.approx(wanted, rel=1e-10)


def test_equal_views_have_the_loss_of_one_views_sigreg():
    (z,), a = views(1), directions()
    assert lejepa_loss([z] * 4, a, 2, 0.3).item() == pytest.approx(0.3 * sigreg(z, a).item(), rel=1e-12)


def test_local_views_at_a_distance_of_1_in_all_dimensions_have_their_share_as_loss():
    (z,) = views(1)
    assert lejepa_loss([z, z, z + 1, z - 1], directions(), 2, 0.0).item() == pytest.approx(0.5, rel=1e-12)


def test_without_sigreg_equal_embeddings_have_the_least_loss():
    z = torch.full((8, D), 0.7, dtype=torch.float64)
    assert lejepa_loss([z, z, z], directions(), 2, 0.0).item() == 0.0


@pytest.mark.parametrize("n", [2, 64])
def test_of_equal_embeddings_zeros_have_the_least_sigreg(n):
    phi = np.exp(-(KNOTS**2) / 2)
    least = n * np.trapezoid((1 - phi) ** 2 * phi, KNOTS)
    assert sigreg(torch.zeros(n, D, dtype=torch.float64), directions()).item() == pytest.approx(least, rel=1e-12)
    assert least == pytest.approx(0.4 * n, rel=0.02)
    for value in (-0.2, 0.1, 3.0):
        assert sigreg(torch.full((n, D), value, dtype=torch.float64), directions()).item() > least


def test_sigreg_is_invariant_to_the_order_of_rows_and_a_common_rotation_of_rows_and_directions():
    (z,), a = views(1), directions()
    turn = torch.linalg.qr(rows(1, n=D, d=D)[0]).Q
    assert sigreg((z @ turn).flip(0), turn.mT @ a).item() == pytest.approx(sigreg(z, a).item(), rel=1e-12)


def test_the_gradient_is_that_of_differences():
    z, a = [view.requires_grad_() for view in views(3, 4)], directions()
    assert torch.autograd.gradcheck(lambda *of: lejepa_loss(list(of), a, 2, 0.3), z)


def test_all_views_receive_gradients():
    z = [view.requires_grad_() for view in views()]
    lejepa_loss(z, directions(), 2, 0.05).backward()
    assert all(float(view.grad.norm()) > 1e-6 for view in z)


def test_directions_have_length_1_and_depend_on_the_generator_only():
    a, again, other = directions(), directions(), directions(1)
    assert a.norm(dim=0).numpy() == pytest.approx(1, rel=1e-6)
    assert torch.equal(a, again) and not torch.equal(a, other)


@pytest.mark.parametrize(
    ("shapes", "of_directions", "n_global"),
    [
        ([(4, D)], (D, K), 1),
        ([(4, D)] * 2, (D, K), 0),
        ([(4, D)] * 2, (D, K), 3),
        ([(4, D), (3, D)], (D, K), 1),
        ([(1, D)] * 2, (D, K), 1),
        ([(4, D)] * 2, (K, D), 1),
        ([(4, D)] * 2, (D,), 1),
    ],
)
def test_wrong_shapes_are_refused(shapes, of_directions, n_global):
    with pytest.raises(SSLToolError, match=r"lejepa_loss .*found"):
        lejepa_loss([torch.zeros(shape) for shape in shapes], torch.zeros(of_directions), n_global)


def test_the_defaults_are_the_released_ones():
    assert defaults("lejepa") == {
        "dim": 512, "hidden": 2048, "lambd": 0.05, "slices": 1024, "global_views": 2, "local_crops": 6,
        "local_size": None,
    }  # fmt: skip


def test_the_projector_is_three_layers_the_first_two_with_bn():
    assert layers(build("lejepa").projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        "linear 10-6+bias",
    ]


def test_views_are_large_ones_and_small_crops():
    model = build("lejepa", global_views=3, local_crops=2, local_size=4)
    small = dataclasses.replace(PAPER, crop_scale=(0.05, PAPER.crop_scale[0]), size=4)
    assert model.view_recipes(PAPER) == [PAPER] * 3 + [small] * 2


def drawn(model: Method) -> np.ndarray:
    """The directions of the model's step."""
    generator = seeds.generator(model.run.seed, *model.now, seeds.Stream.SLICES)
    return array(unit_directions(model.options.dim, model.options.slices, generator))


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
def test_a_forward_pass_is_the_loss_of_all_views_and_views_of_a_size_share_batch_statistics(sizes):
    model, batch = build("lejepa", lambd=0.3), noisy_batch(sizes=sizes)
    large = model.projector(model.backbone(torch.cat(batch.views[:2]))).chunk(2)
    small = model.projector(model.backbone(torch.cat(batch.views[2:]))).chunk(2) if len(sizes) == 4 else ()
    wanted = paper([array(z) for z in (*large, *small)], drawn(model), 0.3)
    out = model(batch)
    assert out.loss.item() == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(out.projection, large[0].detach())


def test_directions_differ_between_steps_and_seeds_and_are_reproducible():
    batch = noisy_batch()

    def loss_at(epoch: int, step: int, seed: int = 0) -> float:
        model = build("lejepa", facts(seed=seed), slices=3)
        model.now = Now(epoch, step)
        return model(batch).loss.item()

    assert loss_at(0, 0) == loss_at(0, 0)
    assert len({loss_at(0, 0), loss_at(0, 1), loss_at(1, 4), loss_at(0, 0, seed=1)}) == 4


def test_a_loss_without_invariance_gives_a_warning():
    assert build("lejepa").warnings() == []
    (warning,) = build("lejepa", lambd=1).warnings()
    assert warning.startswith("lambd=1 ")


def test_outputs_of_0_have_the_loss_that_shows_constant_outputs():
    model, batch = build("lejepa", lambd=0.3), noisy_batch(sizes=(8, 8, 4))
    for parameter in model.projector[-1].parameters():
        torch.nn.init.zeros_(parameter)
    loss = model(batch).loss.item()
    assert model.constant_output_losses == (pytest.approx(loss, rel=1e-5),)
    assert len(model.probable_causes(loss)) == 1
