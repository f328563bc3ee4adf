"""Batches that are made ahead of the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssltool.data.images import ImageSet
from ssltool.data.loader import Batch, Loader
from ssltool.data.prefetch import ahead
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import PAPER


def test_on_a_cpu_the_batches_are_made_when_they_are_asked_for():
    made = []

    def batches():
        for number in range(3):
            made.append(number)
            yield Batch([torch.full((1,), float(number))], torch.zeros(1), torch.zeros(1))

    found = ahead(batches(), torch.device("cpu"))
    assert next(found).views[0].item() == 0
    assert made == [0]
    assert [batch.views[0].item() for batch in found] == [1, 2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_views_are_those_of_the_loader_while_steps_run():
    device, count = torch.device("cuda"), 256
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet("memory", "train", np.zeros(count, np.int64), np.arange(count), images=pixels)
    loader = Loader(images, IMAGENET.at(32), device)

    def views(batches):
        found, busy = [], torch.randn(2048, 2048, device=device)
        for batch in batches:
            for _ in range(20):
                busy = torch.tanh(busy @ busy)
            found.append([view.clone() for view in batch.views])
        return found

    made = [loader.train(np.arange(count), [PAPER, PAPER], batch_size=64, seed=0, epoch=0) for _ in range(2)]
    for plain, early in zip(views(made[0]), views(ahead(made[1], device)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, early, strict=True))
