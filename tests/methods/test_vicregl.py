"""VICRegL: its matching and its loss against plain loops and closed forms, its wiring against the paper."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, random_boxes
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.vicreg import vicreg_loss
from ssltool.methods.vicregl import best_pairs, matched_loss, positions_in_image

WEIGHTS = [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]


def maps(n: int = 6, p: int = 9, q: int = 4, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings (n, p, d) and (n, q, d) of the positions of two views, float64."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (0.7 * torch.randn(n, count, d, generator=generator, dtype=torch.float64) for count in (p, q))
    return x, y


def pairs_by_loops(a: np.ndarray, b: np.ndarray, count: int) -> list[tuple[int, int]]:
    """The ``count`` positions of one image in ``a`` (P, K) that are nearest to their neighbour in ``b`` (Q, K)."""
    found = []
    for i, one in enumerate(a):
        apart = [math.dist(one, other) for other in b]
        j = apart.index(min(apart))
        found.append((apart[j], i, j))
    return sorted((i, j) for _, i, j in sorted(found)[:count])


def loss_by_loops(x: Tensor, y: Tensor, a: Tensor, b: Tensor, counts: list[int], weights: tuple[float, ...]) -> float:
    """The mean of VICReg's loss, with averaged covariance terms, over k-th pairs, directions and counts."""
    sim, std, cov = weights
    losses = []
    for one, other, key, key2 in ((x, y, a, b), (y, x, b, a)):
        one, other, key, key2 = (t.numpy() for t in (one, other, key, key2))
        for count in counts:
            pairs = [pairs_by_loops(key[n], key2[n], count) for n in range(len(one))]
            each = []
            for k in range(len(pairs[0])):
                u = np.array([one[n][image[k][0]] for n, image in enumerate(pairs)])
                v = np.array([other[n][image[k][1]] for n, image in enumerate(pairs)])
                loss = sim * np.square(u - v).mean()
                for z in (u, v):
                    c = np.cov(z, rowvar=False, ddof=1)
                    loss += std * np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)).mean() / 2
                    loss += cov * (np.square(c).sum() - np.square(np.diag(c)).sum()) / len(c) / 2
                each.append(loss)
            losses.append(np.mean(each))
    return float(np.mean(losses))


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_the_best_pairs_are_those_by_loops(count):
    a, b = maps(q=7)
    chosen, partners = best_pairs(a, b, count)
    for n in range(len(a)):
        found = list(zip(chosen[n].tolist(), partners[n].tolist(), strict=True))
        assert found == pairs_by_loops(a[n].numpy(), b[n].numpy(), count)


def test_a_map_is_paired_with_its_permutation_position_by_position():
    a, _ = maps()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    chosen, partners = best_pairs(a, a[:, order], 9)
    assert chosen.tolist() == [list(range(9))] * 6
    assert torch.equal(order[partners], chosen)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("counts", [[9], [3, 2], [20, 4]])
def test_the_loss_equals_loops(counts, weights):
    (x, y), (a, b) = maps(), maps(d=2, seed=1)
    for keys in ((a, b), (x, y)):
        expected = loss_by_loops(x, y, *keys, counts, weights)
        assert matched_loss(x, y, *keys, counts, *weights).item() == pytest.approx(expected, rel=1e-10)


def test_the_loss_of_one_position_is_vicregs_with_half_the_covariance_term():
    x, y = maps(p=1, q=1)
    assert matched_loss(x, y, x, y, [20, 4]).item() == pytest.approx(vicreg_loss(x[:, 0], y[:, 0], 25, 25, 0.5).item())


def test_a_permuted_map_has_no_invariance_loss():
    x, _ = maps()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    y = x[:, order]
    assert matched_loss(x, y, x, y, [9], 1.0, 0.0, 0.0).item() == 0.0


def test_the_loss_does_not_change_if_the_views_are_exchanged():
    (x, y), (a, b) = maps(), maps(d=2, seed=1)
    exchanged = matched_loss(y, x, b, a, [3, 2]).item()
    assert matched_loss(x, y, a, b, [3, 2]).item() == pytest.approx(exchanged, rel=1e-12)


def test_equal_maps_of_all_images_have_the_variance_loss_of_a_deviation_of_a_hundredth():
    x = torch.ones(6, 9, 5, dtype=torch.float64)
    assert matched_loss(x, x, x, x, [9, 4]).item() == pytest.approx(25 * 0.99, rel=1e-12)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 4, 5), (1, 4, 5), (1, 4, 2), (1, 4, 2)],
        [(6, 4, 5), (6, 4, 6), (6, 4, 2), (6, 4, 2)],
        [(6, 4, 5), (5, 4, 5), (6, 4, 2), (5, 4, 2)],
        [(6, 5), (6, 5), (6, 2), (6, 2)],
    ],
    ids=str,
)
def test_maps_that_do_not_fit_are_refused(shapes):
    with pytest.raises(SSLToolError, match="matched_loss expects"):
        matched_loss(*(torch.zeros(shape) for shape in shapes), [4])


def test_positions_are_the_centres_of_the_cells_of_the_box():
    boxes = torch.tensor([[10.0, 20.0, 14.0, 26.0]])  # 4 high, 6 wide
    expected = [[11.0, 21.0], [11.0, 23.0], [11.0, 25.0], [13.0, 21.0], [13.0, 23.0], [13.0, 25.0]]
    assert positions_in_image(boxes, 2, 3).tolist() == [expected]


def test_a_mirrored_view_has_the_positions_of_each_row_from_right_to_left():
    box, mirrored = torch.tensor([[10.0, 20.0, 14.0, 26.0]]), torch.tensor([[10.0, 26.0, 14.0, 20.0]])
    grid = positions_in_image(box, 2, 3).unflatten(1, (2, 3))
    assert torch.equal(positions_in_image(mirrored, 2, 3).unflatten(1, (2, 3)), grid.flip(2))


def test_pairs_by_place_undo_a_flip():
    box, mirrored = torch.tensor([[0.0, 0.0, 8.0, 8.0]]), torch.tensor([[0.0, 8.0, 8.0, 0.0]])
    _, partners = best_pairs(positions_in_image(box, 4, 4), positions_in_image(mirrored, 4, 4), 16)
    assert partners.tolist() == [torch.arange(16).unflatten(0, (4, 4)).flip(1).flatten().tolist()]


def test_the_defaults_are_the_papers():
    assert defaults("vicregl") == {
        "asymmetric": False,
        "dim": 8192,
        "hidden": 8192,
        "map_dim": 512,
        "map_hidden": 512,
        "alpha": 0.75,
        "matches": 20,
        "matches_back": 4,
        "all_l2": True,
        "sim": 25.0,
        "std": 25.0,
        "cov": 1.0,
    }


def test_both_projectors_are_three_layers_the_first_two_with_bn():
    model = build("vicregl")
    for projector, width in ((model.projector, 6), (model.map_projector, 5)):
        hidden = ("bn+affine", "relu")
        assert layers(projector) == ["linear 64-10", *hidden, "linear 10-10", *hidden, f"linear 10-{width}"]


@pytest.mark.parametrize("all_l2", [True, False])
@pytest.mark.parametrize("alpha", [0.75, 0.0, 1.0])
def test_a_forward_pass_is_the_weighted_loss_of_images_and_of_positions_by_place_and_embedding(alpha, all_l2):
    model, batch = build("vicregl", alpha=alpha, all_l2=all_l2, matches=5, matches_back=3), noisy_batch()
    z, x, places = [], [], []
    for v, view in enumerate(batch.views):
        z.append(model.projector(model.backbone(view)).double())
        patches = model.backbone.tokens(view)[:, 1:]
        x.append(model.map_projector(patches.flatten(0, 1)).unflatten(0, (16, 16)).detach().double())
        cells = [(i + 0.5) / 4 for i in range(4)]
        edges = batch.boxes[:, v].tolist()
        rows = [[(t + f * (b - t), left + g * (r - left)) for f in cells for g in cells] for t, left, b, r in edges]
        places.append(torch.tensor(rows, dtype=torch.float64))
    weights = (25.0, 25.0, 1.0)
    local = loss_by_loops(*x, *places, [5, 3], weights) + loss_by_loops(*x, *x, [16] if all_l2 else [5, 3], weights)
    whole = vicreg_loss(*z, 25.0, 25.0, 0.5).item()
    assert model(batch).loss.item() == pytest.approx(alpha * whole + (1 - alpha) * local, rel=1e-4)


def test_the_boxes_decide_which_positions_are_paired():
    model, batch = build("vicregl", matches=5, matches_back=3), noisy_batch()
    moved = dataclasses.replace(batch, boxes=random_boxes(16, 2, seed=1))
    assert model(batch).loss.item() != model(moved).loss.item()


def test_a_batch_without_boxes_is_refused():
    batch = noisy_batch()
    with pytest.raises(SSLToolError, match="boxes"):
        build("vicregl")(Batch(batch.views, batch.labels, batch.rows))
