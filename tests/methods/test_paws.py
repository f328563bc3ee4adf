"""PAWS: soft neighbours, sharpening and the loss against plain loops, and the labelled support in a step."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, defaults, layers, noisy_batch, rows, unit
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.methods.paws import paws_loss, sharpen, soft_neighbours
from target_helpers import array, softmax

LABELS = torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3]


def inputs(crops: int = 4, seed: int = 0) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor, Tensor]:
    """Anchors, support, targets, the targets' support and labels smoothed by 0.1."""
    support = rows(2, n=6, seed=seed + 20)
    return rows(crops, seed=seed), support[0], rows(2, seed=seed + 10), support[1], 0.9 * LABELS + 0.1 / 3


def neighbours_by_hand(x, support, labels, temperature: float) -> np.ndarray:
    """Eq. 1 of arXiv:2104.13963, row by row."""
    answers = []
    for row in unit(x):
        weights = softmax([row @ other / temperature for other in unit(support)])
        answers.append(sum(w * label for w, label in zip(weights, array(labels), strict=True)))
    return np.array(answers)


def sharp(p: np.ndarray, temperature: float = 0.25) -> np.ndarray:
    return p ** (1 / temperature) / (p ** (1 / temperature)).sum(axis=-1, keepdims=True)


def by_hand(anchors, support, targets, target_support, labels, temperature=0.1, sharpening=0.25, me_max=True) -> float:
    """Eq. 2 with the released code's targets: of a large view the other one, of small ones the mean."""
    answers = [neighbours_by_hand(anchor, support, labels, temperature) for anchor in anchors]
    first, second = (
        sharp(neighbours_by_hand(t, target_support, labels, temperature), sharpening) for t in reversed(targets)
    )
    losses = []
    for number, answer in enumerate(answers):
        wanted = [first, second][number] if number < 2 else (first + second) / 2
        for target, p in zip(wanted, answer, strict=True):
            losses.append(-sum(t * math.log(q) for t, q in zip(target, p, strict=True) if t >= 1e-4))
    mean = sharp(np.concatenate(answers), sharpening).mean(axis=0)
    return float(np.mean(losses)) + (float((mean * np.log(mean)).sum()) if me_max else 0.0)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 1.0])
def test_soft_neighbours_are_eq_1_by_loops(temperature):
    x, support = rows(1)[0], rows(1, n=6, seed=1)[0]
    found = soft_neighbours(x, support, LABELS, temperature)
    assert found.numpy() == pytest.approx(neighbours_by_hand(x, support, LABELS, temperature), rel=1e-12)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(8, dtype=torch.float64))


def test_soft_neighbours_of_a_hand_worked_row():
    # Its cosines with the support are 1, 0 and 0, at a temperature of 1 / ln 2: weights of 1/2, 1/4 and 1/4.
    support = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 9.0]])
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = soft_neighbours(torch.tensor([[0.1, 0.0]]), support, labels, 1 / math.log(2))
    assert found.tolist() == [pytest.approx([0.75, 0.25])]


def test_soft_neighbours_are_invariant_to_norms_and_support_order():
    x, support = rows(1)[0], rows(1, n=6, seed=1)[0]
    wanted, order = soft_neighbours(x, support, LABELS, 0.1), torch.tensor([4, 0, 5, 1, 3, 2])
    torch.testing.assert_close(soft_neighbours(7 * x, 0.2 * support, LABELS, 0.1), wanted)
    torch.testing.assert_close(soft_neighbours(x, support[order], LABELS[order], 0.1), wanted)


def test_soft_neighbours_at_low_and_high_temperature_are_the_nearest_and_the_mean_label():
    x, support = rows(1)[0], rows(1, n=6, seed=1)[0]
    nearest = torch.from_numpy(unit(x) @ unit(support).T).argmax(dim=1)
    torch.testing.assert_close(soft_neighbours(x, support, LABELS, 1e-4), LABELS[nearest])
    torch.testing.assert_close(soft_neighbours(x, support, LABELS, 1e9), torch.full_like(x[:, :3], 1 / 3))


def test_sharpening_raises_to_a_power_and_scales_to_1():
    p = torch.tensor([[0.8, 0.2], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    assert sharpen(p, 0.5).tolist() == [pytest.approx([16 / 17, 1 / 17]), [0.5, 0.5], [1.0, 0.0]]
    assert sharpen(p, 0.25)[0].tolist() == pytest.approx([256 / 257, 1 / 257])
    torch.testing.assert_close(sharpen(p, 1.0), p)


@pytest.mark.parametrize("crops", [2, 3, 8])
@pytest.mark.parametrize("me_max", [True, False])
@pytest.mark.parametrize("temperatures", [(0.1, 0.25), (0.5, 0.5)])
def test_the_loss_equals_eq_2_by_loops(crops, me_max, temperatures):
    given = inputs(crops)
    found = paws_loss(*given, *temperatures, me_max).item()
    assert found == pytest.approx(by_hand(*given, *temperatures, me_max), rel=1e-11)


def test_by_default_temperatures_and_entropy_are_the_papers():
    assert paws_loss(*inputs()).item() == pytest.approx(by_hand(*inputs(), 0.1, 0.25, True), rel=1e-11)


def test_large_views_predict_each_other():
    support, labels = torch.eye(2), torch.eye(2)
    a, b = support[:1], support[1:]
    agree = paws_loss([b, a], support, [a, b], support, labels, me_max=False).item()
    differ = paws_loss([a, b], support, [a, b], support, labels, me_max=False).item()
    assert agree == pytest.approx(0.0, abs=1e-3)
    assert differ == pytest.approx(10.0, rel=1e-3)  # -log of softmax(0, 10) at the first


def test_a_small_view_predicts_the_mean_of_both_targets():
    support, labels = torch.eye(2), torch.eye(2)
    a, b = support[:1], support[1:]
    large = paws_loss([b, a], support, [a, b], support, labels, me_max=False).item()
    small = paws_loss([b, a, a + b], support, [a, b], support, labels, me_max=False).item()
    assert 3 * small - 2 * large == pytest.approx(math.log(2), rel=1e-3)


def test_target_probabilities_below_1e_4_are_0():
    # The target's share of the second class is 2e-5 after sharpening; the anchor gives it hardly anything.
    support, labels = torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    target = torch.tensor([[math.cos(0.4), math.sin(0.4)]], dtype=torch.float64)
    share = sharp(neighbours_by_hand(target, support, labels, 0.2), 0.25)[0, 1]
    assert 1e-6 < share < 1e-4
    anchor = support[:1]
    found = paws_loss([anchor] * 2, support, [target] * 2, support, labels, 0.2, 0.25, False).item()
    assert found == pytest.approx((1 - share) * math.log1p(math.exp(-5)), rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3])
def test_collapsed_embeddings_have_the_loss_ln_c_or_0_with_the_entropy_term(classes):
    support, labels = torch.ones(6, 5), torch.eye(classes)[torch.arange(6) % classes]
    collapsed = ([torch.ones(8, 5)] * 2, support, [torch.ones(8, 5)] * 2, support, labels)
    assert paws_loss(*collapsed, me_max=False).item() == pytest.approx(math.log(classes))
    assert paws_loss(*collapsed).item() == pytest.approx(0.0, abs=1e-6)


def test_confident_predictions_over_all_classes_have_the_smallest_loss():
    support, labels = torch.eye(3), torch.eye(3)
    views = [support] * 2
    assert paws_loss(views, support, views, support, labels).item() == pytest.approx(-math.log(3), abs=1e-3)


@pytest.mark.parametrize(
    ("anchors", "targets"),
    [
        ([], []),
        ([(4, 3)], [(4, 3)] * 2),
        ([(4, 3)] * 2, [(4, 3)] * 3),
        ([(4, 3)] * 2, [(4, 2)] * 2),
        ([(4, 3), (5, 3)], [(4, 3)] * 2),
    ],
)
def test_mismatched_views_are_refused(anchors, targets):
    support = torch.zeros(6, 3)
    with pytest.raises(SSLToolError) as caught:
        paws_loss([torch.zeros(s) for s in anchors], support, [torch.zeros(s) for s in targets], support, support)
    found = f"found {len(anchors)} and {len(targets)} of shapes {sorted({*anchors, *targets})}"
    assert str(caught.value).startswith("paws_loss ") and str(caught.value).endswith(found)


@pytest.mark.parametrize("lengths", [(6, 5, 6), (5, 6, 6), (6, 6, 5)])
def test_a_support_and_labels_of_different_lengths_are_refused(lengths):
    views = [torch.zeros(4, 3)] * 2
    support, target_support, labels = (torch.zeros(n, 3) for n in lengths)
    found = re.escape(str([(n, 3) for n in lengths]))
    with pytest.raises(SSLToolError, match=f"paws_loss .* support.*; found {found}"):
        paws_loss(views, support, views, target_support, labels)


def test_a_support_and_anchors_of_different_widths_are_refused():
    views, support = [torch.zeros(4, 3)] * 2, torch.zeros(6, 2)
    with pytest.raises(SSLToolError, match=r"paws_loss .* support.*; found \[\(6, 2\), \(6, 2\), \(6, 3\)\]"):
        paws_loss(views, support, views, support, torch.zeros(6, 3))


def test_a_class_with_probability_0_gives_finite_gradients():
    a = torch.tensor([[1.0, 0.0]] * 3, requires_grad=True)
    support = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = paws_loss([a, a], support, [a.detach()] * 2, support, torch.eye(2), 0.005)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(a.grad.isfinite().all())


def labelled_batch(sizes: tuple[int, ...] = (8, 8)) -> Batch:
    """Views, with two images of each of the classes 3, 7 and 8."""
    batch, labels = noisy_batch(sizes=sizes), torch.tensor([7, 3, 8, 7, 8, 3])
    batch.support = noisy_batch(n=6, sizes=(8,), seed=9, labels=labels)
    return batch


def embeddings(model: Method, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Predictions and projections of the support and the views, by the released network's rule: backbone, projector and
    predictor once for all images of one size."""
    images = [batch.support.views[0], *batch.views]
    predictions, projections = [], []
    for size in sorted({image.shape[-1] for image in images}, reverse=True):
        group = [image for image in images if image.shape[-1] == size]
        z = model.projector(model.backbone(torch.cat(group)))
        projections += z.split([len(image) for image in group])
        predictions += model.predictor(z).split([len(image) for image in group])
    return predictions, projections


def test_the_defaults_are_the_released_codes():
    assert defaults("paws") == {
        "labels_fraction": 0.1, "labels_path": None, "support_classes": None, "support_per_class": 7, "dim": 2048,
        "predictor": True, "sharpening": 0.25, "temperature": 0.1, "label_smoothing": 0.1, "me_max": True,
        "local_crops": 6, "local_size": None,
    }  # fmt: skip


def test_the_heads_are_three_layers_and_a_bottleneck_of_a_quarter_after_a_norm():
    model = build("paws", dim=12)
    hidden = ["linear 8-8", "bn+affine", "relu"]
    assert layers(model.projector) == [*hidden, *hidden, "linear 8-12+bias"]
    assert layers(model.predictor) == ["bn+affine", "linear 12-3", "bn+affine", "relu", "linear 3-12+bias"]


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
@pytest.mark.parametrize("options", [{}, {"predictor": False}, {"label_smoothing": 0.4}, {"me_max": False}])
def test_a_forward_pass_is_eq_2_of_the_views_and_the_support_with_smoothed_labels(sizes, options):
    model, batch = build("paws", **options), labelled_batch(sizes)
    smoothing = options.get("label_smoothing", 0.1)
    one_hot = np.eye(3)[[1, 0, 2, 1, 2, 0]]  # the step's classes 3, 7, 8 in order
    labels = (1 - smoothing) * one_hot + smoothing / 3
    (support, *anchors), (target_support, *targets) = embeddings(model, batch)
    wanted = by_hand(anchors, support, targets[:2], target_support, labels, me_max=options.get("me_max", True))
    out = model(batch)
    assert out.loss.item() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(out.projection, anchors[0])


def test_small_crops_do_not_change_the_statistics_of_the_support_and_the_large_crops():
    model, large, batch = build("paws"), labelled_batch(), labelled_batch((8, 8, 4, 4))
    batch.views[2:] = [100 * view for view in batch.views[2:]]
    torch.testing.assert_close(model(batch).projection, model(large).projection)


def test_each_group_of_crops_of_one_size_updates_the_running_statistics_once():
    model = build("paws")
    model(labelled_batch((8, 8, 4, 4)))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [2] * 4


def test_without_a_predictor_projections_are_the_anchors():
    assert type(build("paws", predictor=False).predictor) is nn.Identity


def test_a_step_without_labelled_images_is_refused():
    with pytest.raises(SSLToolError, match="labelled images"):
        build("paws")(noisy_batch())
