"""The fine-tuning stage: a whole network trained on labels, from a checkpoint and from scratch by the same budget.

Both arms see the same labelled images in the same batches, order and crops, start from the same classifier, and train
for as many epochs; they differ in the weights that the backbone starts from, and in their rates where those are given.
Each seed is one such pair. The val images are looked at once, after the last epoch: nothing is chosen on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import scipy.stats
import torch
from torch import Tensor

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained, default_run_name, load_pretrained, use_saved_dataset
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import FinetuneConfig, as_dict
from ssltool.data.images import ImageSet
from ssltool.data.labels import open_labelled
from ssltool.data.loader import Batch, Loader
from ssltool.data.support import stratified_sample
from ssltool.diagnosis.metrics.of_rows import feature_std_tensor
from ssltool.errors import SSLToolError
from ssltool.files import Record, Settings, weights_hash
from ssltool.methods.base import Method
from ssltool.models.depth import LayerGroup, layer_groups
from ssltool.runs.folder import RunFolder, run_path
from ssltool.runs.resume import check_compatible
from ssltool.training.classification import Accuracy
from ssltool.training.classifier_setup import ClassifierLoop, build_classifier, classifier_setup, training_state
from ssltool.training.device import autocast, pick_device, worker_count
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest
from ssltool.training.state import SUMS

PRETRAINED, SCRATCH = "pretrained", "scratch"

FIXED = ("crop_min", "layer_decay", "head_lr")
"""Settings that a resumed arm must share with its beginning, besides those of every run."""

ACCURACIES = ("acc1", "acc5", "class_acc1")


def run(config: FinetuneConfig) -> Record:
    """The stage: trains every arm with every seed and returns, by arm, the accuracies (shares of 1) on the val split
    after the last epoch, and the difference between the arms.

    Raises:
        SSLToolError: for unusable files or data, settings that do nothing, or a loss that is not finite.
        Interrupted: after a signal, with the state saved.
    """
    config.check()
    device = pick_device(config)
    network = load_pretrained(config, device)
    config = use_saved_dataset(config, network.run)
    train, val = open_labelled(dataclasses.replace(config, labels_fraction=1.0))
    folder = RunFolder(run_path(config, default_run_name("finetune", config)), "finetune")
    arms = [
        _make_arm(arm, seed, config, network, train, folder.path)
        for seed in range(config.seed, config.seed + config.seeds)
        for arm in _arms(config, network)
    ]
    begun = {arm.path: _begun(arm) for arm in arms if config.resume and arm.path.exists()}
    resumed_from = next(iter(begun), None)
    folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=resumed_from)
    batch_size = arms[0].setup.batch_size
    done = [record for history in begun.values() for record in history]
    settings = as_dict(config) | {"stage": "finetune", "batch_size": batch_size, "network": network.origin}
    folder.claim(settings, done, resumed_from=resumed_from)

    last: dict[tuple[str, int], Record] = {}
    workers = worker_count(config.workers)
    with StopRequest() as stop, contextlib.closing(Loader(val, network.image_size, device, workers)) as validation:
        for arm in arms:
            history = begun.get(arm.path, [])
            if len(history) < config.epochs:
                with contextlib.closing(Loader(arm.setup.images, network.image_size, device, workers)) as training:
                    history = _Finetuning(arm, network, training, validation, device).run(stop, folder.log)
            last[arm.name, arm.seed] = history[-1]

    return _compare(last) | {
        "epochs": config.epochs,
        "batch_size": batch_size,
        "optimizer": config.optimizer,
        "labels_fraction": config.labels_fraction,
        "train_size": len(arms[0].setup.images),
        "val_size": len(val),
        "classes": arms[0].saved.settings["n_classes"],
        "run": str(folder.path),
        **network.origin,
    }


@dataclass(frozen=True)
class _Arm:
    """One training: what it starts from (``name``), with which seed, and the run that it saves."""

    name: str
    seed: int
    setup: TrainingSetup
    saved: SavedRun
    path: Path


def _arms(config: FinetuneConfig, network: Pretrained) -> list[str]:
    if network.origin["random"]:
        return [SCRATCH]
    return [PRETRAINED, SCRATCH] if config.from_scratch else [PRETRAINED]


def _make_arm(name: str, seed: int, config: FinetuneConfig, network: Pretrained, train: ImageSet, folder: Path) -> _Arm:
    """One arm with one seed, which chooses its labelled images where there is a choice."""
    images = train
    if config.labels_fraction < 1:
        images = train.select(stratified_sample(train.labels, config.labels_fraction, seed))
    if len(images) < 2:
        raise SSLToolError(f"{len(images)} labelled image is too few to train on; raise --labels-fraction")
    pretrained = name == PRETRAINED
    lr = config.lr if pretrained else config.scratch_lr or config.lr
    setup = classifier_setup(
        network,
        config,
        images,
        label_smoothing=config.label_smoothing,
        crop_min=config.crop_min,
        jitter_p=0.0,
        gray_p=0.0,
        blur_p=0.0,
        epochs=config.epochs,
        batch_size=min(len(images), config.batch_size or (128 if train.name == "bundled" else 256)),
        optimizer=config.optimizer,
        lr=lr,
        lr_schedule="step",
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        warmup_epochs=config.warmup_epochs,
        seed=seed,
        precision=config.precision,
    )
    saved = setup.saved_run.updated(
        arm=name,
        labels_fraction=config.labels_fraction,
        layer_decay=config.layer_decay if pretrained else 1.0,
        head_lr=(config.head_lr or lr) if pretrained else lr,
        network=network.origin if pretrained else None,
        start_hash=weights_hash(network.method.backbone.state_dict()) if pretrained else None,
    )
    return _Arm(name, seed, setup, saved, folder / f"finetuned_{name}_seed{seed}.pt")


def _begun(arm: _Arm) -> list[Record]:
    """The records of an arm that was stopped, or that ended."""
    checkpoint = Checkpoint.load(arm.path)
    check_compatible(checkpoint, arm.saved, arm.path, more=FIXED)
    history: list[Record] = checkpoint.metrics["epochs"]
    return history


class _Finetuning(ClassifierLoop):
    """The training of one arm."""

    def __init__(self, arm: _Arm, network: Pretrained, training: Loader, validation: Loader, device: torch.device):
        self.setup, self.training, self.validation, self.device = arm.setup, training, validation, device
        c = arm.setup.config
        method = build_classifier(arm.saved, network if arm.name == PRETRAINED else None, device)
        state = training_state(method, _groups(method, arm.saved.settings), c, device, SUMS)
        label = {"arm": arm.name, "seed": arm.seed}
        super().__init__(state, arm.saved, arm.path, epochs=arm.setup.epochs, steps=arm.setup.steps, label=label)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        setup = self.setup
        batches = self.training.train(
            setup.indices(epoch),
            [setup.recipe],
            batch_size=setup.batch_size,
            seed=setup.config.seed,
            epoch=epoch,
            first_step=first_step,
        )
        return map(Batch.channels_last, batches)

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        state, c = self.state, self.setup.config
        rate = rates_at(c, state.epoch, state.epoch_step / self.steps).lr
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        with autocast(self.device, c.precision):
            loss, features = state.method(batch)
        state.update(loss)
        return loss, feature_std_tensor(features)

    def results(self, means: dict[str, float]) -> Record:
        state = self.state
        record = {"lr": rates_at(self.setup.config, state.epoch - 1).lr}
        return record | self._evaluate() if state.epoch == self.epochs else record

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        method = self.state.method.eval()
        accuracy = Accuracy(self.saved.settings["n_classes"], self.device)
        for batch in self.validation.evaluate(256):
            accuracy.add(method.embed(batch.channels_last().views[0], "projector"), batch.labels)
        return accuracy.result()


def _groups(method: Method, saved: Settings) -> list[LayerGroup]:
    head: LayerGroup = {"params": list(method.projector.parameters()), "scale": saved["head_lr"] / saved["lr"]}
    return [*layer_groups(method.backbone, saved["layer_decay"]), head]


def _compare(last: dict[tuple[str, int], Record]) -> Record:
    """The accuracies of each arm over the seeds, and their difference, seed by seed."""
    arms = list(dict.fromkeys(arm for arm, _ in last))
    values = {
        arm: {key: [record[key] for (of, _), record in last.items() if of == arm] for key in ACCURACIES} for arm in arms
    }
    found: Record = {
        "seeds": list(dict.fromkeys(seed for _, seed in last)),
        "arms": {arm: {key: spread(values[arm][key]) for key in ACCURACIES} for arm in arms},
    }
    if len(arms) == 2:
        found["difference"] = {
            key: spread([a - b for a, b in zip(*(values[arm][key] for arm in arms), strict=True)]) for key in ACCURACIES
        }
    return found


def spread(values: Sequence[float]) -> Record:
    """``mean``, ``sd`` (of a sample) and the 95 % interval ``low`` to ``high`` of the mean by Student's t, which are
    None for one value; and the ``values``."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": list(values)}
    sd = statistics.stdev(values)
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": list(values)}
