"""The second and third steps: training a classifier to put neighbours into one cluster, and then on its own labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.checkpoints.saved_run import SavedRun
from ssltool.data import views
from ssltool.data.loader import Batch, Loader
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.methods.base import Method
from ssltool.stages.scan.losses import confidence_loss, scan_loss
from ssltool.stages.scan.mining import Table
from ssltool.training.classifier_setup import ClassifierLoop, training_state
from ssltool.training.device import autocast
from ssltool.training.setup import TrainingSetup

WHOLE = dataclasses.replace(views.PLAIN, crop_scale=(1.0, 1.0), flip_p=0.0)
"""The weak view: the image itself."""

ERASED = (0.02, 0.25)
"""Shares of an image that a box to erase takes: up to half of each side, as the cut-out of the authors' code."""

AT_ONCE = 4096
"""Images whose probabilities are compared with their neighbours' at a time."""


class _ClusterLoop(ClassifierLoop):
    """What both steps share: a classifier of ``clusters`` clusters, trained by Adam at a constant rate."""

    def __init__(
        self,
        phase: str,
        method: Method,
        setup: TrainingSetup,
        saved: SavedRun,
        path: Path,
        loader: Loader,
        sums: tuple[str, ...],
    ) -> None:
        self.setup, self.loader, self.device = setup, loader, loader.device
        self.strong = dataclasses.replace(setup.recipe, erase_p=saved.settings["erase_p"], erase_scale=ERASED)
        groups = [{"params": [p for p in method.parameters() if p.requires_grad]}]
        state = training_state(method, groups, setup.config, self.device, sums)
        super().__init__(state, saved, path, epochs=setup.epochs, steps=setup.steps, label={"phase": phase})

    def augmented(
        self, rows: np.ndarray, recipes: list[views.Recipe], size: int, epoch: int, step: int
    ) -> Iterator[Batch]:
        """Augmented views of images, batch after batch."""
        seed = self.setup.config.seed
        batches = self.loader.train(rows, recipes, batch_size=size, seed=seed, epoch=epoch, first_step=step)
        return map(Batch.channels_last, batches)

    def logits(self, view: Tensor) -> Tensor:
        """The classifier's logits (N, clusters of all heads) of a view (N, 3, S, S)."""
        with autocast(self.device, self.setup.config.precision):
            logits = self.state.method.embed(view, "projector")
        return logits.float()


class Clustering(_ClusterLoop):
    """SCAN's second step. The classifier is that of ``heads`` clusterings side by side."""

    def __init__(
        self, method: Method, setup: TrainingSetup, saved: SavedRun, path: Path, loader: Loader, table: Table
    ) -> None:
        super().__init__("cluster", method, setup, saved, path, loader, ("loss", "consistency", "entropy"))
        self.table = table
        self.heads, self.weight = saved.settings["heads"], saved.settings["entropy_weight"]

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Images and a neighbour of each, one after the other."""
        anchors = self.setup.indices(epoch)
        near = self.table.draw(anchors, self.setup.config.seed, epoch)
        pairs = np.stack([rows.reshape(self.steps, -1) for rows in (anchors, near)], axis=1)
        return self.augmented(pairs.ravel(), [self.strong], pairs[0].size, epoch, first_step)

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        anchors, near = self.logits(batch.views[0]).unflatten(1, (self.heads, -1)).chunk(2)
        losses = [scan_loss(anchors[:, h], near[:, h], self.weight) for h in range(self.heads)]
        total, consistency, entropy = (torch.stack(values) for values in zip(*losses, strict=True))
        self.state.update(total.sum())  # each head as if it were alone
        return total.mean(), consistency.mean(), entropy.mean()

    def keep_best_head(self) -> int:
        """Leaves the classifier of the head with the lowest loss on all images and all of their neighbours; returns
        which that is."""
        log_p = predict(self.state.method, self.loader).unflatten(1, (self.heads, -1)).log_softmax(dim=2)
        losses = [table_loss(log_p[:, h], self.table, self.weight) for h in range(self.heads)]
        best = int(np.argmin(losses))
        for parameter in self.state.method.projector.parameters():
            parameter.data = parameter.data.unflatten(0, (self.heads, -1))[best].clone()
        return best


def table_loss(log_p: Tensor, table: Table, entropy_weight: float) -> float:
    """SCAN's loss of log probabilities (N, K) over all images and each of their neighbours, images weighing alike."""
    places, counts = torch.from_numpy(table.places), torch.from_numpy(table.counts)
    consistency = 0.0
    for rows in torch.arange(len(log_p)).split(AT_ONCE):
        near = places[rows].clamp(min=0)
        agreement = torch.stack([(log_p[rows] + log_p[column]).logsumexp(dim=1) for column in near.T], dim=1)
        valid = torch.arange(near.shape[1]) < counts[rows, None]
        consistency -= float((agreement.double() * valid).sum(dim=1).div(counts[rows]).sum())
    mean = log_p.double().exp().mean(dim=0)
    return consistency / len(log_p) + entropy_weight * float(torch.special.xlogy(mean, mean).sum())


class SelfLabelling(_ClusterLoop):
    """SCAN's third step. ``confident`` is the share of images that were trained on."""

    def __init__(self, method: Method, setup: TrainingSetup, saved: SavedRun, path: Path, loader: Loader) -> None:
        super().__init__("selflabel", method, setup, saved, path, loader, ("loss", "confident"))
        self.threshold = saved.settings["threshold"]

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        setup = self.setup
        return self.augmented(setup.indices(epoch), [WHOLE, self.strong], setup.batch_size, epoch, first_step)

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        weak, strong = batch.views
        method = self.state.method.eval()  # labels are assigned as they are when the network is used
        with torch.no_grad():
            labelling = self.logits(weak)
        method.train()
        loss, confident = confidence_loss(labelling, self.logits(strong), self.threshold)
        if confident:
            self.state.update(loss)
        return loss, torch.tensor(confident / len(weak), device=self.device)

    def results(self, means: dict[str, float]) -> Record:
        if means["confident"] == 0:
            raise SSLToolError(
                f"no image had a probability above --threshold {self.threshold} in epoch {self.state.epoch_number} of "
                "self-labelling, so no image was trained on; lower it, or cluster for longer (--epochs)"
            )
        return {}


@torch.inference_mode()
def predict(method: Method, loader: Loader) -> Tensor:
    """The classifier's logits (N, clusters of all heads) of all images of a loader, in eval mode, on the CPU."""
    method.eval()
    logits = [method.embed(b.channels_last().views[0], "projector").float().cpu() for b in loader.evaluate(256)]
    return torch.cat(logits)
