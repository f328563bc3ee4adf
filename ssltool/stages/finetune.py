"""The finetune stage: trains a whole network on labels, from a checkpoint and optionally from scratch.

The two trainings of a seed are called arms. They use the same labelled images, batches, order and crops, the same
initial classifier and the same number of epochs. They differ in the initial weights of the backbone, and in the
learning rates if these are given per arm. The val images are evaluated once, after the last epoch; nothing is selected
on them.
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
from ssltool.data.found import announce, record_of
from ssltool.data.images import ImageSet
from ssltool.data.labels import compact, open_labelled
from ssltool.data.loader import Batch, Loader
from ssltool.data.shard import Shard
from ssltool.data.support import stratified_sample
from ssltool.data.workers import killed_workers
from ssltool.diagnosis.metrics.of_rows import feature_std_tensor
from ssltool.errors import SSLToolError, counted
from ssltool.files.schema import ANYTHING, conform, listing, mapping, real, sequence
from ssltool.files.stored import weights_hash
from ssltool.methods.base import Method, Output
from ssltool.models.depth import LayerGroup, layer_groups
from ssltool.runs.folder import RunFolder
from ssltool.runs.resume import check_compatible, check_images, note_changed_images
from ssltool.runs.run_paths import run_path, with_number
from ssltool.settings import Record, Settings, flag
from ssltool.training import distributed
from ssltool.training.classification import Accuracy
from ssltool.training.classifier_setup import ClassifierLoop, build_classifier, classifier_setup, training_state
from ssltool.training.device import autocast, pick_device
from ssltool.training.launch import worker_count
from ssltool.training.open_images import open_images
from ssltool.training.restore import OTHER
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest
from ssltool.training.state import SUMS

PRETRAINED, SCRATCH = "pretrained", "scratch"

FIXED = {PRETRAINED: ("crop_min", "layer_decay", "head_lr", "unlabelled"), SCRATCH: ("crop_min", "unlabelled")}
"""Settings that must stay the same when an arm is resumed, besides those of every run."""

ACCURACIES = ("acc1", "acc5", "class_acc1")


@killed_workers("--resume auto continues after the last saved epoch")
def run(config: FinetuneConfig) -> Record:
    """Trains every arm with every seed and returns the result document.

    It has the accuracies of each arm on the val split in [0, 1], after the last epoch, and the difference between the
    arms.

    Raises:
        UsageError: for settings that contradict each other.
        SSLToolError: for unusable files or data, or a loss that is not finite.
        Interrupted: after a signal; the state is saved.
    """
    config.check()
    device = pick_device(config, local_rank=distributed.local_rank())
    with distributed.process_group(device, "auto") as shard:
        with distributed.raise_on_all_ranks():
            config, network, images = _open(config, device)
        name = default_run_name("finetune", config)
        numbered = with_number(config, name)
        folder = RunFolder(run_path(numbered, name), "finetune", is_new=numbered is not config)
        with folder.locked():
            return _train(numbered, network, images, folder, shard, device)


def _open(
    config: FinetuneConfig, device: torch.device
) -> tuple[FinetuneConfig, Pretrained, tuple[ImageSet, ImageSet, int]]:
    """``config`` with the dataset, the network, and the train and val images with the number of their classes."""
    network = load_pretrained(config, device, ranks=True).with_finite_weights()
    given, config = config, use_saved_dataset(config, network.run)
    opened = open_labelled(dataclasses.replace(config, labels_fraction=1.0), open_images)
    note_changed_images(network, given, opened[0])
    images = compact(*opened)
    network.refuse_unused_flags(images[1].image_size, crops=True)
    return config, network, images


def _train(
    config: FinetuneConfig,
    network: Pretrained,
    images: tuple[ImageSet, ImageSet, int],
    folder: RunFolder,
    shard: Shard,
    device: torch.device,
) -> Record:
    """Trains the arms that are not complete, and returns the result document.

    ``images`` are the train and val images, and the number of their classes.
    """
    train, val, classes = images
    with distributed.raise_on_all_ranks():
        arms = [
            _make_arm(arm, seed, config, network, (train, val), folder.path)
            for seed in range(config.seed, config.seed + config.seeds)
            for arm in _arm_names(config, network)
        ]
        for arm in arms:
            arm.setup.check_divisible(shard)
        histories = {arm.path: _load_history(arm, train, val) for arm in arms if config.resume and arm.path.exists()}
        resumed_from = next(iter(histories), None)
        folder.refuse_if_taken(overwrite=config.overwrite, resume=config.resume, resumed_from=resumed_from)
        if resumed_from is not None:
            _refuse_fewer(arms, folder)
    batch_size = arms[0].setup.batch_size
    records = [record for history in histories.values() for record in history]
    settings = as_dict(config) | {"stage": "finetune", "batch_size": batch_size, "network": network.origin}
    folder.claim(settings, records, resumed_from=resumed_from)
    folder.save_images(train, val)
    announce(train, val)

    last: dict[tuple[str, int], Record] = {}
    workers = worker_count(config.workers)
    with StopRequest() as stop, contextlib.closing(Loader(val, network.preprocessing, device, workers)) as validation:
        for arm in arms:
            history = histories.get(arm.path, [])
            if len(history) < config.epochs:
                with contextlib.closing(Loader(arm.setup.images, network.preprocessing, device, workers)) as training:
                    loop = _Finetuning(arm, network, training, validation, classes, folder)
                    history = loop.run(stop, folder.log)
            last[arm.name, arm.seed] = history[-1]

    return _compare(last) | {
        "epochs": config.epochs,
        "batch_size": batch_size,
        "optimizer": config.optimizer,
        "labels_fraction": config.labels_fraction,
        "train_size": len(arms[0].setup.images),
        "val_size": len(val),
        "classes": arms[0].saved.settings["n_classes"],
        "found": [record_of(train), record_of(val)],
        "run": str(folder.path),
        **network.origin,
    }


@dataclass(frozen=True)
class _Arm:
    """One training: its ``name`` (pretrained or scratch), seed, setup, and the saved run with its path."""

    name: str
    seed: int
    setup: TrainingSetup
    saved: SavedRun
    path: Path


def _arm_names(config: FinetuneConfig, network: Pretrained) -> list[str]:
    if network.origin["random"]:
        return [SCRATCH]
    return [PRETRAINED, SCRATCH] if config.from_scratch else [PRETRAINED]


def _refuse_fewer(arms: Sequence[_Arm], folder: RunFolder) -> None:
    """Refuses to resume without arms or seeds that the folder has records of, which would be lost."""
    done = {(record["arm"], record["seed"]) for record in folder.read_metrics()}
    if lost := sorted(done - {(arm.name, arm.seed) for arm in arms}):
        name, seed = lost[0]
        raise SSLToolError(
            f"{folder.path} has results of {counted(len(lost), 'other training')}, such as {name} with seed {seed}; "
            "resume with the same --seed, at least as many --seeds, and --from-scratch if it was given"
        )


def _make_arm(
    name: str, seed: int, config: FinetuneConfig, network: Pretrained, opened: tuple[ImageSet, ImageSet], folder: Path
) -> _Arm:
    """The arm ``name`` with ``seed``, which also draws the labelled images if ``labels_fraction`` is below 1.

    ``opened`` are the train and val images."""
    train, val = opened
    images = train
    if config.labels_fraction < 1:
        images = train.select(stratified_sample(train.labels, config.labels_fraction, seed))
    if len(images) < 2:
        raise SSLToolError(f"training needs at least 2 labelled images, found {len(images)}; raise --labels-fraction")
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
        val_fingerprint=val.fingerprint,
        labels_fraction=config.labels_fraction,
        layer_decay=config.layer_decay if pretrained else 1.0,
        head_lr=(config.head_lr or lr) if pretrained else lr,
        network=network.origin if pretrained else None,
        preprocessing=network.run.settings.get("preprocessing"),
        start_hash=weights_hash(network.method.backbone.state_dict()) if pretrained else None,
    )
    return _Arm(name, seed, setup, saved, folder / f"finetuned_{name}_seed{seed}.pt")


def _load_history(arm: _Arm, train: ImageSet, val: ImageSet) -> list[Record]:
    """The records of an arm that has a checkpoint; each seed draws from the labelled images ``train``.

    Raises:
        SSLToolError: if it was trained with other settings or images.
    """
    checkpoint = Checkpoint.load(arm.path)
    check_images(checkpoint.config, arm.path, train, val)
    own = {"lr": flag("scratch_lr")} if arm.name == SCRATCH else {}
    check_compatible(
        checkpoint, arm.saved, arm.path, more=FIXED[arm.name], flag_name=lambda name: own.get(name, flag(name))
    )
    history: list[Record] = checkpoint.metrics["epochs"]
    schema = listing(ANYTHING, checkpoint.epoch)
    if checkpoint.epoch == arm.setup.epochs:
        evaluated = mapping(dict.fromkeys(ACCURACIES, real(0, 1)), other=ANYTHING)
        schema = sequence([*[ANYTHING] * (checkpoint.epoch - 1), evaluated])
    conform({"metrics.epochs": history}, mapping({"metrics.epochs": schema}), arm.path, remedy=OTHER)
    return history


class _Finetuning(ClassifierLoop):
    """The training of one arm; ``classes`` is the number of classes of the train and val images."""

    def __init__(
        self, arm: _Arm, network: Pretrained, training: Loader, validation: Loader, classes: int, folder: RunFolder
    ) -> None:
        self.setup, self.training, self.validation, self.device = arm.setup, training, validation, training.device
        self.classes = classes
        c = arm.setup.config
        method = build_classifier(arm.saved, network if arm.name == PRETRAINED else None, self.device)
        state = training_state(method, _groups(method, arm.saved.settings), c, self.device, SUMS)
        label = {"arm": arm.name, "seed": arm.seed}
        epochs, steps = arm.setup.epochs, arm.setup.steps
        super().__init__(state, arm.saved, folder, arm.path, epochs=epochs, steps=steps, label=label)

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        setup = self.setup
        batches = self.training.train(
            setup.indices(epoch),
            [setup.recipe],
            batch_size=setup.batch_size,
            seed=setup.config.seed,
            epoch=epoch,
            first_step=first_step,
            shard=self.shard,
        )
        return map(Batch.channels_last, distributed.together(batches))

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        state, c = self.state, self.setup.config
        lr = rates_at(c, state.epoch, state.epoch_step / self.steps).lr
        for group in state.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        with autocast(self.device, c.precision):
            output = Output(*state.model(batch))
        state.update(output.loss)
        return output.loss, feature_std_tensor(distributed.gather(output.projection))

    def results(self, means: dict[str, float]) -> Record:
        state = self.state
        record = {"lr": rates_at(self.setup.config, state.epoch - 1).lr}
        return record | self._evaluate() if state.epoch == self.epochs else record

    @torch.no_grad()
    def _evaluate(self) -> dict[str, float]:
        method = self.state.method.eval()
        accuracy = Accuracy(self.classes, self.device)
        for batch in distributed.together(self.validation.evaluate(256, shard=self.shard)):
            scores = method.embed(batch.channels_last().views[0], "projector")
            accuracy.add(batch.without_padding(scores), batch.without_padding(batch.labels))
        return accuracy.result()


def _groups(method: Method, saved: Settings) -> list[LayerGroup]:
    """Parameter groups with the ``scale`` of their learning rate."""
    head: LayerGroup = {"params": list(method.projector.parameters()), "scale": saved["head_lr"] / saved["lr"]}
    return [*layer_groups(method.backbone, saved["layer_decay"]), head]


def _compare(last: dict[tuple[str, int], Record]) -> Record:
    """The accuracies of each arm over the seeds, and their paired difference."""
    arms = list(dict.fromkeys(arm for arm, _ in last))
    values = {
        arm: {key: [record[key] for (name, _), record in last.items() if name == arm] for key in ACCURACIES}
        for arm in arms
    }
    result: Record = {
        "seeds": list(dict.fromkeys(seed for _, seed in last)),
        "arms": {arm: {key: spread(values[arm][key]) for key in ACCURACIES} for arm in arms},
    }
    if len(arms) == 2:
        result["difference"] = {
            key: spread([a - b for a, b in zip(*(values[arm][key] for arm in arms), strict=True)]) for key in ACCURACIES
        }
    return result


def spread(values: Sequence[float]) -> Record:
    """``mean``, sample standard deviation ``sd``, 95 % interval ``low`` to ``high`` of the mean (Student's t), and the
    ``values``. ``sd``, ``low`` and ``high`` are None for a single value."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "values": list(values)}
    sd = statistics.stdev(values)
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * sd / n**0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "values": list(values)}
