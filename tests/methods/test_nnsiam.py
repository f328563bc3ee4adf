"""NNSiam: SimSiam whose targets are neighbours in a queue."""

from __future__ import annotations

from itertools import combinations

import pytest
from torch import Tensor, nn

from methods_helpers import build, defaults, forward_and_update, layers, nearest, noisy_batch, unit
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.nnsiam import NNSiam


def cosine_loss(p: Tensor, target: Tensor) -> float:
    return -float((unit(p) * unit(target)).sum(axis=1).mean())


def wanted_loss(model: NNSiam, batch: Batch, queue: Tensor) -> float:
    """SimSiam's loss, the mean over pairs of views, with neighbours in ``queue`` for projections."""
    z = [model.projector(model.backbone(view)) for view in batch.views]
    p, targets = [model.predictor(x) for x in z], [nearest(queue, x) for x in z]
    pairs = list(combinations(range(len(z)), 2))
    return sum((cosine_loss(p[i], targets[j]) + cosine_loss(p[j], targets[i])) / 2 for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("views", [2, 3])
def test_a_forward_pass_is_simsiams_loss_with_neighbours_in_the_queue_as_it_was(views):
    model, batch = build("nnsiam", n_augs=views), noisy_batch(sizes=[8] * views)
    wanted = wanted_loss(model, batch, model.queue.rows.clone())
    assert forward_and_update(model, batch).loss.item() == pytest.approx(wanted, abs=1e-5)
    after = wanted_loss(model, batch, model.queue.rows.clone())
    assert abs(after - wanted) > 1e-3
    assert model(batch).loss.item() == pytest.approx(after, abs=1e-5)


def test_its_loss_is_not_that_of_simsiam_with_the_same_weights():
    model, simsiam = build("nnsiam"), build("simsiam")
    simsiam.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("queue")})
    assert abs(model(noisy_batch()).loss.item() - simsiam(noisy_batch()).loss.item()) > 0.01


def test_targets_have_no_gradient():
    # With the predictor's last layer at zero slope, only the targets could pass a gradient on.
    model = build("nnsiam")
    nn.init.zeros_(model.predictor[-1].weight)
    nn.init.ones_(model.predictor[-1].bias)
    model(noisy_batch()).loss.backward()
    assert float(model.backbone.layer.weight.grad.norm()) == 0.0
    assert float(model.predictor[-1].bias.grad.norm()) > 0


def test_the_heads_are_simsiams():
    model, simsiam = build("nnsiam"), build("simsiam")
    assert layers(model.projector) == layers(simsiam.projector)
    assert layers(model.predictor) == layers(simsiam.predictor)


def test_the_defaults_are_simsiams_and_the_released_codes_queue():
    assert defaults("nnsiam") == defaults("simsiam") | {"queue": 2 * 12800}


def test_the_option_stop_grad_is_refused():
    with pytest.raises(SSLToolError, match=r"--set stop_grad=False .*nnsiam"):
        build("nnsiam", stop_grad=False)
