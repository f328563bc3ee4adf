"""The linear probe: a classifier trained on a frozen backbone, by the protocol of SimSiam and the collapse paper.

The backbone stays in eval mode, without gradients, and is proved unchanged at the end by a hash of its weights and
buffers. Only the classifier learns: weights from N(0, 0.01), bias 0, SGD (or LARC), a cosine per epoch, random crops
and flips.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import seeds
from ssltool.config import LinclsConfig, as_dict
from ssltool.data import views
from ssltool.data.labelled import open_labelled
from ssltool.data.loader import Loader
from ssltool.errors import SSLToolError
from ssltool.files import Probe, weights_hash
from ssltool.pretrained import Pretrained, load_pretrained, with_saved_data
from ssltool.runs import RunFolder, run_path
from ssltool.training.device import pick_device, worker_count
from ssltool.training.optim import LARC, learning_rates, scaled_lr
from ssltool.training.progress import Progress


def run(config: LinclsConfig) -> dict[str, Any]:
    """The stage: trains the probe and returns ``acc1`` and ``acc5`` (shares of 1) on the val split after the last
    epoch.

    Raises:
        SSLToolError: for unusable files or data, a loss that is not finite, or a backbone that changed.
    """
    device = pick_device(config)
    network = load_pretrained(config, device)
    config = with_saved_data(config, network.config)
    train, val = open_labelled(config)
    count = int(train.labels.max()) + 1
    folder = RunFolder(run_path(config, _default_name(config, network)), "lincls")
    folder.refuse_if_taken(overwrite=config.overwrite)
    batch_size = config.batch_size or (256 if train.name == "bundled" else 4096)
    before = weights_hash(network.method.backbone.state_dict())
    probe = _Probe(network, config, count, batch_size, device)
    folder.claim(as_dict(config) | {"batch_size": batch_size, "origin": network.origin})

    record: dict[str, Any] = {}
    size, workers = network.image_size, worker_count(config.workers)
    with (
        contextlib.closing(Loader(train, size, device, workers)) as training,
        contextlib.closing(Loader(val, size, device, workers)) as validation,
    ):
        for epoch in range(config.epochs):
            record = {"epoch": epoch, **probe.train_epoch(training, epoch), **probe.evaluate(validation)}
            if weights_hash(network.method.backbone.state_dict()) != before:
                raise SSLToolError("the frozen backbone changed while the probe was trained, so its accuracy is void")
            folder.log(record)
            probe.stored(record).save(folder.path / "probe.pt")  # of use even if the rest never happens

    result = {k: record[k] for k in ("acc1", "acc5", "loss")} | {
        "epochs": config.epochs,
        "batch_size": batch_size,
        "optimizer": "larc" if config.lars else "sgd",
        "train_size": len(train),
        "val_size": len(val),
        "classes": count,
        "backbone_unchanged": True,
        "backbone_hash": before,
        "run": str(folder.path),
        **network.origin,
    }
    probe.stored(result).save(folder.path / "probe.pt")
    return result


class _Probe:
    """The classifier and its optimiser."""

    def __init__(
        self, network: Pretrained, config: LinclsConfig, classes: int, batch_size: int, device: torch.device
    ) -> None:
        self.method = network.method.eval().requires_grad_(False)
        self.config, self.batch_size = config, batch_size
        generator = seeds.generator(config.seed)
        self.classifier = nn.Linear(network.method.backbone_dim, classes)
        nn.init.normal_(self.classifier.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.classifier.bias)
        self.classifier.to(device)
        make = LARC if config.lars else torch.optim.SGD
        self.optimizer = make(
            self.classifier.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def _logits(self, view: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.method.embed(view.contiguous(memory_format=torch.channels_last), "backbone")
        return self.classifier(features)

    def stored(self, metrics: dict[str, Any]) -> Probe:
        """The classifier as a file."""
        weight, bias = (p.detach().cpu() for p in self.classifier.parameters())
        return Probe(weight, bias, as_dict(self.config), metrics)

    def train_epoch(self, loader: Loader, epoch: int) -> dict[str, float]:
        """One pass over the training images; returns the mean loss, the training accuracy and the rate."""
        c = self.config
        rate = learning_rates(epoch, epochs=c.epochs, lr=scaled_lr(c.lr, self.batch_size))[0]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        n = len(loader.images)
        order = np.random.RandomState((epoch + c.seed) % 2**32).permutation(n)
        progress = Progress(f"probe epoch {epoch + 1}/{c.epochs}", -(-n // self.batch_size), every=50)
        loss_sum, right = 0.0, 0
        for batch in loader.train(order, [views.PROBE], batch_size=self.batch_size, seed=c.seed, epoch=epoch):
            logits = self._logits(batch.views[0])
            loss = F.cross_entropy(logits, batch.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += float(loss.detach()) * len(batch.labels)
            right += int((logits.argmax(1) == batch.labels).sum())
            progress.update(len(batch.labels))
        progress.close()
        if not np.isfinite(loss_sum):
            raise SSLToolError(f"the probe's loss is not finite in epoch {epoch}; lower --lr (it is {c.lr})")
        return {"lr": rate, "loss": loss_sum / n, "train_acc1": right / n}

    def evaluate(self, loader: Loader) -> dict[str, float]:
        """Shares of the val images whose class is the first, or among the first five."""
        first = five = 0
        with torch.inference_mode():
            for batch in loader.evaluate(256):
                logits = self._logits(batch.views[0])
                hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[:, None]
                first += int(hits[:, 0].sum())
                five += int(hits.any(dim=1).sum())
        return {"acc1": first / len(loader.images), "acc5": five / len(loader.images)}


def _default_name(config: LinclsConfig, network: Pretrained) -> str:
    source = Path(str(config.pretrained)).resolve().parent.name
    return f"lincls-{'untrained' if config.random else source}"
