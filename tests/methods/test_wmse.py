"""W-MSE: properties of whitening, the loss against all splits of a batch, wiring against the paper."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, facts, layers, noisy_batch, rows
from ssltool.errors import SSLToolError
from ssltool.methods.base import Now
from ssltool.methods.wmse import whiten, wmse_loss


def whitened_by_hand(v: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """Rows minus their mean, times the inverse of the covariance's Cholesky factor."""
    covariance = (1 - eps) * np.cov(v, rowvar=False).reshape(v.shape[1], -1) + eps * np.eye(v.shape[1])
    return (v - v.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(covariance)).T


def by_hand(views: list[Tensor], parts: list[list[int]], eps: float = 0.0) -> float:
    """Eq. 4 of arXiv:2007.06346 for a batch dealt into ``parts``: mean squared distance of whitened rows of length 1,
    over images and pairs of views."""
    total, terms = 0.0, 0
    for part in parts:
        white = [whitened_by_hand(view.double().numpy()[part], eps) for view in views]
        for a, b in combinations(white, 2):
            for x, y in zip(a, b, strict=True):
                total += float(((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2).sum())
                terms += 1
    return total / terms


def deals(images: tuple[int, ...], size: int) -> Iterator[list[list[int]]]:
    """Every choice of parts of ``size`` among the images, as many as there are whole ones."""
    if len(images) < size:
        yield []
        return
    for part in combinations(images, size):
        for others in deals(tuple(i for i in images if i not in part), size):
            yield [list(part), *others]


@pytest.mark.parametrize(("n", "d"), [(3, 2), (20, 5), (200, 30)])
def test_whitened_rows_have_mean_0_and_covariance_the_identity(n, d):
    (v,) = rows(1, n=n, d=d)
    white = whiten(5.0 + v @ rows(1, n=d, d=d, seed=1)[0]).numpy()
    assert white.mean(axis=0) == pytest.approx(np.zeros(d), abs=1e-12)
    assert np.cov(white, rowvar=False) == pytest.approx(np.eye(d), abs=1e-9)


@pytest.mark.parametrize("eps", [0.0, 0.1, 1.0])
def test_whitening_is_by_the_inverse_cholesky_factor(eps):
    (v,) = rows(1, n=20)
    assert whiten(v, eps).numpy() == pytest.approx(whitened_by_hand(v.numpy(), eps), rel=1e-10, abs=1e-12)


def test_whitening_three_hand_worked_numbers():
    # Mean 2, variance (4 + 0 + 4) / 2 = 4.
    assert whiten(torch.tensor([[0.0], [2.0], [4.0]])).flatten().tolist() == pytest.approx([-1.0, 0.0, 1.0])


def test_white_rows_do_not_change():
    white = whiten(rows(1, n=20)[0])
    torch.testing.assert_close(whiten(white), white, rtol=1e-10, atol=1e-10)


def test_with_eps_fewer_rows_than_dimensions_can_be_whitened():
    (v,) = rows(1, n=3, d=5)
    assert whiten(v, 0.01).numpy() == pytest.approx(whitened_by_hand(v.numpy(), 0.01), rel=1e-9, abs=1e-10)


def test_whitening_happens_in_float64_and_gives_back_the_dtype():
    # A condition number of 1e10 of the covariance is beyond float32.
    v = (rows(1, n=50, d=3)[0] * torch.tensor([1.0, 1e-2, 1e-5])).float()
    v -= v.mean(dim=0)
    white = whiten(v)
    assert white.dtype == torch.float32
    torch.testing.assert_close(white.double(), whiten(v.double()), rtol=1e-5, atol=1e-5)
    assert whiten(v.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6,), (2, 3, 4)])
def test_invalid_shapes_are_not_whitened(shape):
    with pytest.raises(SSLToolError, match=r"whiten .*; found"):
        whiten(torch.randn(shape), eps=0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 4, 16])
def test_linearly_dependent_dimensions_are_not_whitened(d, dtype, seed):
    v = torch.randn(64, d, generator=torch.Generator().manual_seed(seed)).to(dtype)
    twin, total = v.clone(), v.clone()
    twin[:, -1] = v[:, 0]
    total[:, -1] = v[:, :-1].sum(dim=1)
    for broken in (twin, total):
        with pytest.raises(SSLToolError, match="cannot be whitened"):
            whiten(broken)
    whiten(v)


def test_whitening_centres_in_float64():
    far = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 1000
    assert float(whiten(far).mean(dim=0).abs().max()) < 1e-6


@pytest.mark.parametrize(("views", "w_size", "iterations"), [(0, 4, 1), (1, 4, 1), (2, 0, 1), (2, 1, 1), (2, 4, 0)])
def test_too_few_views_rows_or_iterations_are_refused(views, w_size, iterations):
    with pytest.raises(SSLToolError, match=r"wmse_loss .*found"):
        wmse_loss([torch.randn(8, 2) for _ in range(views)], w_size, iterations=iterations)


@pytest.mark.parametrize(("n", "d"), [(5, 5), (2, 2), (4, 6)])
def test_too_few_rows_are_refused(n, d):
    with pytest.raises(SSLToolError) as caught:
        whiten(rows(1, n=n, d=d)[0])
    assert f"{n} rows and {d} dimensions" in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "state"),
    [
        (lambda v: v * 0, "variances from 0 to 0"),
        (lambda v: v * torch.tensor([0.0, 2.0]), "variances from 0 to 4"),
        (lambda v: v + torch.tensor([[0.0, torch.nan]]), "non-finite"),
        (lambda v: v + torch.tensor([[torch.inf, 0.0]]), "non-finite"),
    ],
    ids=["all rows equal", "a dead dimension", "NaN", "infinity"],
)
def test_embeddings_that_cannot_be_whitened_are_refused(spoil, state):
    v = whiten(rows(1, n=10, d=2)[0])
    with pytest.raises(SSLToolError) as caught:
        whiten(spoil(v))
    message = str(caught.value)
    assert state in message and "2 x 2" in message
    assert all(name in message for name in ("--lr", "--warmup-epochs", "--set eps=0.01", "--set dim"))


@pytest.mark.parametrize("count", [2, 3])
def test_the_loss_of_a_batch_in_one_part_equals_eq_4_by_loops(count):
    views = rows(count, n=12)
    assert wmse_loss(views, 12).item() == pytest.approx(by_hand(views, [list(range(12))]), rel=1e-10)


def test_the_loss_with_eps_equals_that_of_the_shrunk_covariance():
    views = rows(2, n=12)
    assert wmse_loss(views, 12, eps=0.3).item() == pytest.approx(by_hand(views, [list(range(12))], 0.3), rel=1e-10)


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("count", [2, 3])
def test_a_batch_is_split_identically_for_all_views(n, count):
    views, generator = rows(count, n=n, d=2), torch.Generator().manual_seed(0)
    possible = np.array([by_hand(views, deal) for deal in deals(tuple(range(n)), 3)])
    found = [wmse_loss(views, 3, generator).item() for _ in range(5)]
    assert all(np.abs(possible - value).min() < 1e-9 for value in found)
    assert len(set(found)) > 1


def test_the_split_depends_only_on_the_generator():
    views = rows(2, n=12, d=2)

    def loss_with(seed: int) -> float:
        return wmse_loss(views, 3, torch.Generator().manual_seed(seed)).item()

    assert loss_with(1) == loss_with(1) != loss_with(2)


def test_more_iterations_give_the_mean_over_splits():
    views = rows(2, n=12, d=2)
    once, together = (torch.Generator().manual_seed(4) for _ in range(2))
    wanted = sum(wmse_loss(views, 4, once).item() for _ in range(3)) / 3
    assert wmse_loss(views, 4, together, iterations=3).item() == pytest.approx(wanted, rel=1e-12)


def test_equal_views_have_no_loss_and_opposite_ones_4():
    (v,) = rows(1, n=12)
    assert wmse_loss([v, v], 12).item() == pytest.approx(0.0, abs=1e-12)
    assert wmse_loss([v, -v], 12).item() == pytest.approx(4.0, rel=1e-12)


def test_the_loss_of_two_hand_worked_views():
    # Both whiten to +-1, 0: cosines -1, 0 and -1, where that with a row of zeros is 0. 2 - 2 (-2 / 3).
    a, b = torch.tensor([[0.0], [2.0], [4.0]]), torch.tensor([[9.0], [6.0], [3.0]])
    assert wmse_loss([a, b], 3).item() == pytest.approx(10 / 3)


def test_one_view_is_refused():
    with pytest.raises(SSLToolError, match=r"wmse_loss .*; found 1"):
        wmse_loss(rows(1), 6)


@pytest.mark.parametrize(
    ("w_size", "message"),
    [(9, r"batch size \(8\); found 9"), (5, "5 rows and 5 dimensions")],
)
def test_parts_larger_than_the_batch_or_as_small_as_the_width_are_refused(w_size, message):
    with pytest.raises(SSLToolError, match=message):
        wmse_loss(rows(2, n=8, d=5), w_size)


def test_the_defaults_are_the_papers_for_cifar():
    assert defaults("wmse") == {"dim": 64, "hidden": 1024, "w_size": 128, "w_iter": 1, "eps": 0.0, "n_augs": 2}


def test_the_projector_is_a_hidden_layer_with_bn_and_a_linear_one():
    assert layers(build("wmse").projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6+bias"]


@pytest.mark.parametrize("options", [{}, {"eps": 0.2}, {"n_augs": 3}], ids=str)
def test_a_forward_pass_is_the_loss_of_all_projections(options):
    model, batch = build("wmse", **options), noisy_batch(sizes=[8] * options.get("n_augs", 2))
    views = [model.projector(model.backbone(view)).detach() for view in batch.views]
    wanted = by_hand(views, [list(range(16))], options.get("eps", 0.0))
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)


def test_the_split_differs_between_steps_and_is_reproducible():
    model, batch = build("wmse", w_size=8), noisy_batch()

    def loss_at(epoch: int, step: int) -> float:
        model.now = Now(epoch, step)
        return model(batch).loss.item()

    assert loss_at(0, 0) == loss_at(0, 0)
    assert len({loss_at(0, 0), loss_at(0, 1), loss_at(1, 4)}) == 3


def test_w_iter_changes_the_loss():
    batch = noisy_batch()
    assert build("wmse", w_size=8, w_iter=5)(batch).loss.item() != build("wmse", w_size=8)(batch).loss.item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"w_size": 6}, "--set w_size=6 .*dim=6"),
        ({"w_size": 17}, r"--set w_size=17 .*\(16\)"),
        ({"w_size": 1}, "--set w_size is 1; .* at least 2"),
        ({"eps": 1.5}, "--set eps is 1.5; .* from 0 to 1"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(SSLToolError, match=message):
        build("wmse", **options)


def test_min_batch_size_is_w_size():
    assert (build("wmse", w_size=9).min_batch_size, build("wmse", w_size=16).min_batch_size) == (9, 16)


def test_parts_of_less_than_twice_the_width_give_a_warning():
    (warning,) = build("wmse", w_size=11).warnings()
    assert warning.startswith("w_size=11 is less than twice dim=6")
    assert build("wmse", facts(batch_size=256), dim=64, w_size=128).warnings() == []
