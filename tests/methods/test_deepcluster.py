"""DeepCluster v2: loss against a plain loop, bank of embeddings, and clustering at the start of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import (
    build,
    defaults,
    facts,
    forward_and_update,
    layers,
    negative_log_share,
    noisy_batch,
    rows,
    unit,
)
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import EpochImages, Method, Now
from ssltool.methods.deepcluster import deepcluster_loss
from target_helpers import array


def by_hand(scores, assignments, temperature: float) -> float:
    """Cross-entropy of every head, crop and image, one by one."""
    terms = []
    for head, clusters in zip(scores, assignments, strict=True):
        for crop in head:
            for row, cluster in zip(array(crop), clusters, strict=True):
                terms.append(negative_log_share(row / temperature, int(cluster)))
    return float(np.mean(terms))


@pytest.mark.parametrize(("heads", "crops"), [(1, 2), (3, 2), (2, 5)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_equals_the_mean_cross_entropy_by_loops(heads, crops, temperature):
    scores = [rows(crops, seed=head) for head in range(heads)]
    assignments = torch.randint(5, (heads, 8), generator=torch.Generator().manual_seed(1))
    found = deepcluster_loss(scores, assignments, temperature).item()
    assert found == pytest.approx(by_hand(scores, assignments, temperature), rel=1e-12)


def test_the_loss_of_two_hand_worked_crops():
    # The crops say (3/4, 1/4) and (1/2, 1/2) of an image of the second cluster.
    crops = [0.1 * torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)]
    assert deepcluster_loss([crops], torch.tensor([[1]])).item() == pytest.approx((math.log(4) + math.log(2)) / 2)


@pytest.mark.parametrize("k", [2, 7, 3000])
def test_equal_scores_have_the_loss_ln_k(k):
    scores = [[torch.full((3, k), 0.4, dtype=torch.float64)] * 2]
    assert deepcluster_loss(scores, torch.tensor([[0, 1, k - 1]])).item() == pytest.approx(math.log(k), rel=1e-12)


def test_the_loss_does_not_depend_on_the_order_of_images_and_clusters():
    scores, assignments = [rows(2)], torch.arange(8)[None] % 5
    wanted = deepcluster_loss(scores, assignments).item()
    order, numbers = torch.arange(8).roll(3), torch.tensor([2, 0, 1, 4, 3])
    assert deepcluster_loss([[s[order] for s in scores[0]]], assignments[:, order]).item() == pytest.approx(wanted)
    renamed = [[torch.empty_like(s).index_copy_(1, numbers, s) for s in scores[0]]]
    assert deepcluster_loss(renamed, numbers[assignments]).item() == pytest.approx(wanted)
    assert deepcluster_loss(renamed, assignments).item() != pytest.approx(wanted)


@pytest.mark.parametrize(("heads", "given"), [(2, 1), (1, 3)])
def test_assignments_of_other_heads_are_refused(heads, given):
    with pytest.raises(SSLToolError) as caught:
        deepcluster_loss([rows(2)] * heads, torch.zeros(given, 8, dtype=torch.int64))
    found = f"found {heads} heads with rows [8], and assignments ({given}, 8)"
    assert str(caught.value).startswith("deepcluster_loss ") and str(caught.value).endswith(found)


@pytest.mark.parametrize(("heads", "n"), [(0, 8), (1, 7)])
def test_no_heads_and_assignments_of_other_images_are_refused(heads, n):
    with pytest.raises(SSLToolError, match="deepcluster_loss "):
        deepcluster_loss([rows(2)] * heads, torch.zeros(heads, n, dtype=torch.int64))


def deepcluster(run=None, **options) -> Method:
    return build("deepcluster", run, **{"prototypes": 5, **options})


class Images:
    """The images of an epoch; records the rows whose views were requested."""

    def __init__(self, *numbers: int) -> None:
        self.asked: list[int] = []
        self.given: list[Batch] = []
        self.epoch = EpochImages(torch.tensor(numbers), self.batches)

    def batches(self, wanted: Tensor) -> Iterator[Batch]:
        self.asked += wanted.tolist()
        for part in wanted.split(8):
            batch = noisy_batch(n=len(part), seed=int(part[0]))
            self.given.append(Batch(batch.views, batch.labels, part))
            yield self.given[-1]


def filled(seed: int = 0, **options) -> Method:
    """A method whose bank holds random embeddings of all images."""
    model = deepcluster(**options)
    model.bank.copy_(torch.stack([torch.from_numpy(unit(x)) for x in rows(2, 64, 6, seed)]))
    model.filled.fill_(True)
    return model


def test_the_defaults_are_the_papers():
    assert defaults("deepcluster") == {
        "dim": 128, "hidden": 2048, "prototypes": 3000, "heads": 3, "temperature": 0.1, "kmeans_iters": 10,
        "local_crops": 6, "local_size": None,
    }  # fmt: skip


def test_the_heads_are_two_layers_and_centroids_that_no_gradient_moves():
    model = deepcluster(heads=2)
    assert layers(model.projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6+bias"]
    assert [head.weight.shape for head in model.heads] == [(5, 6)] * 2
    model(noisy_batch()).loss.backward()
    assert [head.weight.grad for head in model.heads] == [None, None]
    learning = {id(p) for group in model.param_groups() for p in group["params"]}
    assert learning.isdisjoint(id(head.weight) for head in model.heads)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
def test_a_forward_pass_is_the_loss_of_the_batchs_own_clusters(sizes):
    model, batch = deepcluster(heads=2), noisy_batch(sizes=sizes)
    batch.rows = (torch.arange(16) * 7 + 3) % 64
    model.assignments.copy_(torch.randint(5, (2, 64), generator=torch.Generator().manual_seed(2)))
    z = [unit(part) for part in model.projector(torch.cat([model.backbone(v) for v in batch.views])).split(16)]
    scores = [[part @ array(head.weight).T for part in z] for head in model.heads]
    out = model(batch)
    assert out.loss.item() == pytest.approx(by_hand(scores, model.assignments[:, batch.rows], 0.1), rel=1e-5)
    assert out.projection.numpy() == pytest.approx(z[0], abs=1e-5)


def test_training_stores_embeddings_of_the_large_crops_in_the_bank():
    model, batch = deepcluster(), noisy_batch(sizes=(8, 8, 4))
    batch.rows = torch.arange(20, 36)
    z = model.projector(torch.cat([model.backbone(v) for v in batch.views])).split(16)
    forward_and_update(model, batch)
    for crop in range(2):
        assert model.bank[crop, 20:36].numpy() == pytest.approx(unit(z[crop]), abs=1e-5)
    assert model.filled.nonzero().flatten().tolist() == list(range(20, 36))
    assert not model.bank[:, :20].any() and not model.bank[:, 36:].any()


def test_evaluation_does_not_change_the_bank():
    model = deepcluster().eval()
    model(noisy_batch())
    assert not model.filled.any() and not model.bank.any()


def test_start_epoch_embeds_only_images_without_an_embedding():
    model, first, second, third = deepcluster(), Images(*range(20)), Images(*range(12, 30)), Images(5, 25, 15, 29, 0)
    model.start_epoch(first.epoch)
    assert sorted(first.asked) == list(range(20))
    assert model.filled.nonzero().flatten().tolist() == list(range(20))
    before = model.bank.clone()
    model.start_epoch(second.epoch)
    assert sorted(second.asked) == list(range(20, 30))
    assert torch.equal(model.bank[:, :20], before[:, :20])
    model.start_epoch(third.epoch)
    assert third.asked == []


def test_new_images_are_stored_in_the_bank_without_gradient():
    model, images = deepcluster(), Images(*range(10, 26))
    model.start_epoch(images.epoch)
    for batch in images.given:
        z = model.projector(torch.cat([model.backbone(v) for v in batch.views])).split(8)
        for crop in range(2):
            assert model.bank[crop, batch.rows].numpy() == pytest.approx(unit(z[crop]), abs=1e-5)
    assert not model.bank.requires_grad


def test_heads_alternate_between_the_crops():
    model = filled(heads=4)
    model.start_epoch(Images(*range(64)).epoch)
    for number, head in enumerate(model.heads):
        nearest = [(model.bank[crop] @ head.weight.T).argmax(dim=1) for crop in range(2)]
        assert torch.equal(model.assignments[number], nearest[number % 2])
        assert not torch.equal(model.assignments[number], nearest[1 - number % 2])
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(5))


def test_heads_of_the_same_crop_have_different_clusters():
    model = filled(heads=3)
    model.start_epoch(Images(*range(64)).epoch)
    assert not torch.equal(model.heads[0].weight, model.heads[2].weight)


def test_only_images_of_the_epoch_are_clustered():
    model, epoch = filled(), list(range(3, 40, 2))
    model.assignments.fill_(-7)
    model.bank[:, [i for i in range(64) if i not in epoch]] = math.nan
    model.start_epoch(Images(*epoch).epoch)
    assert bool(model.heads[0].weight.isfinite().all())
    assert (model.assignments[0] != -7).nonzero().flatten().tolist() == epoch
    assert set(model.assignments[:, epoch].flatten().tolist()) <= set(range(5))


def test_clusters_are_a_function_of_the_seed_and_the_epoch():
    def centroids(seed: int, epoch: int) -> Tensor:
        model = filled(run=facts(seed=seed))
        model.now = Now(epoch=epoch, step=4 * epoch)
        model.start_epoch(Images(*range(64)).epoch)
        return model.heads[0].weight.clone()

    assert torch.equal(centroids(0, 1), centroids(0, 1))
    assert not torch.equal(centroids(0, 1), centroids(0, 2))
    assert not torch.equal(centroids(0, 1), centroids(5, 1))


def test_an_epoch_of_fewer_images_than_clusters_is_refused():
    assert len(deepcluster(facts(epoch_images=5)).heads[0].weight) == 5
    with pytest.raises(SSLToolError, match=r"--set prototypes=5 .* 4 images"):
        deepcluster(facts(epoch_images=4))


def test_a_loss_of_ln_k_after_the_first_epoch_gives_a_warning():
    model = deepcluster()
    assert model.diagnose(math.log(5)) is None
    model.now = Now(epoch=1, step=4)
    assert "fewer prototypes or a lower lr" in model.diagnose(math.log(5))
    assert model.diagnose(math.log(5) - 0.1) is None
