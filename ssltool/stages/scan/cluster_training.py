"""The training loops of the second and third step: clustering and self-labelling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.data import views
from ssltool.data.loader import Batch, Loader
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.runs.folder import RunFolder
from ssltool.settings import Record
from ssltool.stages.scan.losses import confidence_loss, scan_loss
from ssltool.stages.scan.mining import NeighbourTable
from ssltool.training import distributed
from ssltool.training.classifier_setup import ClassifierLoop, training_state
from ssltool.training.device import autocast
from ssltool.training.restore import load_weights
from ssltool.training.setup import TrainingSetup

WEAK_VIEW = dataclasses.replace(views.PLAIN, crop_scale=(1.0, 1.0), flip_p=0.0)
"""The weak view: the image without augmentation."""

ERASE_SCALE = (0.02, 0.25)
"""Area of an erased box, as a fraction of the image: up to half of each side, like the authors' cutout."""

BLOCK_ROWS = 4096
"""Images per block in ``table_loss``."""


def training_path(folder: RunFolder, phase: str) -> Path:
    """The checkpoint of an unfinished step."""
    return folder.path / f"training_{phase}.pt"


def best_path(folder: RunFolder) -> Path:
    """The checkpoint of the best epoch of an unfinished clustering."""
    return folder.path / "best_cluster.pt"


class _Logits(nn.Module):
    """The logits (N, heads * clusters) of each of several views, of a forward pass each."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, *views: Tensor) -> list[Tensor]:
        return [self.method.embed(view, "projector") for view in views]


class _ClusterLoop(ClassifierLoop):
    """Base of both steps: a classifier of clusters, trained with Adam at a constant learning rate."""

    def __init__(
        self,
        phase: str,
        method: Method,
        setup: TrainingSetup,
        saved: SavedRun,
        folder: RunFolder,
        loader: Loader,
        sums: tuple[str, ...],
    ) -> None:
        self.setup, self.loader, self.device = setup, loader, loader.device
        self.strong = dataclasses.replace(setup.recipe, erase_p=saved.settings["erase_p"], erase_scale=ERASE_SCALE)
        groups = [{"params": [p for p in method.parameters() if p.requires_grad]}]
        state = training_state(method, groups, setup.config, self.device, sums, _Logits(method))
        path, label = training_path(folder, phase), {"phase": phase}
        super().__init__(state, saved, folder, path, epochs=setup.epochs, steps=setup.steps, label=label)

    def augmented(
        self, rows: np.ndarray, recipes: list[views.Recipe], size: int, epoch: int, step: int, parts: int = 1
    ) -> Iterator[Batch]:
        """Batches of augmented views of the images ``rows``; a rank has its share of each of the ``parts`` of one."""
        schedule = {"batch_size": size, "seed": self.setup.config.seed, "epoch": epoch, "first_step": step}
        batches = self.loader.train(rows, recipes, **schedule, shard=self.shard, parts=parts)
        return map(Batch.channels_last, distributed.together(batches))

    def logits(self, model: nn.Module, *views: Tensor) -> list[Tensor]:
        """Logits (N, heads * clusters) of each view by ``model``, of the images of all ranks; a rank has those of
        (N / ranks, 3, S, S)."""
        with autocast(self.device, self.setup.config.precision):
            logits = model(*views)
        return [distributed.gather(one.float()) for one in logits]


class Clustering(_ClusterLoop):
    """SCAN's second step. The output layer is ``heads`` independent classifiers, concatenated.

    After each epoch the SCAN loss of each head on the images of ``validation`` and all their neighbours in
    ``validation_table`` is computed, with an entropy weight of 1 as in the authors' code. The network of the epoch with
    the lowest loss is kept in the file ``best``.
    """

    def __init__(
        self,
        method: Method,
        setup: TrainingSetup,
        saved: SavedRun,
        folder: RunFolder,
        loader: Loader,
        table: NeighbourTable,
        validation: Loader,
        validation_table: NeighbourTable,
    ) -> None:
        self.head_only = bool(saved.settings.get("head_only"))
        method.backbone.requires_grad_(not self.head_only)
        super().__init__("cluster", method, setup, saved, folder, loader, ("loss", "consistency", "entropy"))
        self.table, self.validation, self.validation_table = table, validation, validation_table.with_self()
        self.heads, self.weight = saved.settings["heads"], saved.settings["entropy_weight"]
        self.best = best_path(folder)

    def start_epoch(self) -> None:
        self.state.method.train(not self.head_only)  # in eval mode batch norms of the backbone stay as they are

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Batches whose first half are images and whose second half is a random neighbour of each."""
        anchors = np.asarray(self.setup.indices(epoch))
        neighbours = self.table.draw(anchors, self.setup.config.seed, epoch)
        pairs = np.stack([rows.reshape(self.steps, -1) for rows in (anchors, neighbours)], axis=1)
        return self.augmented(pairs.ravel(), [self.strong], pairs[0].size, epoch, first_step, parts=2)

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        # Two forward passes, so that batch norm does not mix the statistics of images and neighbours.
        logits = self.logits(self.state.model, *batch.views[0].chunk(2))
        anchors, neighbours = (half.unflatten(1, (self.heads, -1)) for half in logits)
        losses = [scan_loss(anchors[:, h], neighbours[:, h], self.weight) for h in range(self.heads)]
        total, consistency, entropy = (torch.stack(values) for values in zip(*losses, strict=True))
        self.state.update(total.sum())  # the sum: each head gets the gradient of its own loss
        return total.mean(), consistency.mean(), entropy.mean()

    def results(self, means: dict[str, float]) -> Record:
        """The validation loss of the head where it is lowest, and this head; keeps the network if it is the best so
        far."""
        log_p = predict(self.state.method, self.validation).unflatten(1, (self.heads, -1)).log_softmax(dim=2)
        table, heads = self.validation_table, range(self.heads)
        losses = distributed.from_rank_zero(lambda: [table_loss(log_p[:, h], table, 1.0) for h in heads])
        head = int(np.argmin(losses))
        if losses[head] < min((record["val_loss"] for record in self._validated), default=math.inf):
            self.folder.write(self.state.checkpoint(self.saved), self.best)
        return {"val_loss": losses[head], "head": head}

    @property
    def _validated(self) -> list[Record]:
        """The records of the completed epochs, without those of a version that computed no validation loss."""
        return [record for record in self.state.history if "val_loss" in record]

    def keep_best(self) -> Record:
        """Loads the network of the epoch with the lowest validation loss with its best head only, and returns the
        record of the epoch."""
        last = self.state.epoch - 1
        found = self._validated or [{"epoch": last, **self.results({})}]  # all epochs may be of an earlier version
        best = min(found, key=lambda record: record["val_loss"])
        with distributed.raise_on_all_ranks():
            load_weights(self.state.method, Checkpoint.load(self.best).state_dict, self.best)
        for parameter in self.state.method.projector.parameters():
            parameter.data = parameter.data.unflatten(0, (self.heads, -1))[best["head"]].clone()
        return best


def table_loss(log_p: Tensor, table: NeighbourTable, entropy_weight: float) -> float:
    """SCAN's loss of log probabilities (N, K) over all neighbours of all images; each image has the same weight."""
    indices, counts = torch.from_numpy(table.indices), torch.from_numpy(table.counts)
    consistency = 0.0
    for rows in torch.arange(len(log_p)).split(BLOCK_ROWS):
        neighbours = indices[rows].clamp(min=0)
        agreement = torch.stack([(log_p[rows] + log_p[column]).logsumexp(dim=1) for column in neighbours.T], dim=1)
        valid = torch.arange(neighbours.shape[1]) < counts[rows, None]
        consistency -= float((agreement.double() * valid).sum(dim=1).div(counts[rows]).sum())
    mean = log_p.double().exp().mean(dim=0)
    return consistency / len(log_p) + entropy_weight * float(torch.special.xlogy(mean, mean).sum())


class SelfLabelling(_ClusterLoop):
    """SCAN's third step. ``confident`` is the fraction of images whose prediction was used."""

    def __init__(
        self, method: Method, setup: TrainingSetup, saved: SavedRun, folder: RunFolder, loader: Loader
    ) -> None:
        super().__init__("selflabel", method, setup, saved, folder, loader, ("loss", "confident"))
        self.predicting = _Logits(method)
        self.threshold = saved.settings["threshold"]

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        setup = self.setup
        return self.augmented(
            np.asarray(setup.indices(epoch)), [WEAK_VIEW, self.strong], setup.batch_size, epoch, first_step
        )

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        weak, strong = batch.views
        method = self.state.method.eval()  # predict as in inference
        with torch.no_grad():
            (predictions,) = self.logits(self.predicting, weak)
        method.train()
        (logits,) = self.logits(self.state.model, strong)
        loss, confident = confidence_loss(predictions, logits, self.threshold)
        if confident:
            self.state.update(loss)
        return loss, torch.tensor(confident / len(logits), device=self.device)

    def results(self, means: dict[str, float]) -> Record:
        if means["confident"] == 0:
            raise SSLToolError(
                f"in epoch {self.state.epoch_number} of self-labelling, no image had a probability above --threshold "
                f"({self.threshold}); lower it, or raise --epochs"
            )
        return {}


@torch.inference_mode()
def predict(method: Method, loader: Loader) -> Tensor:
    """Logits (N, heads * clusters) of all images of a loader, in eval mode, on the CPU; each rank computes a share."""
    method.eval()
    batches = distributed.together(loader.evaluate(256, shard=distributed.group_shard()))
    logits = [method.embed(batch.channels_last().views[0], "projector").float().cpu() for batch in batches]
    return distributed.gather(torch.cat(logits))[: len(loader.images)]
