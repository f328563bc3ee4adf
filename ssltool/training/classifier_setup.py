"""Training of a classifier with its pretrained backbone, for fine-tuning and SCAN: setup, method and training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssltool import seeds
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import NetworkSettings, PretrainConfig, as_dict
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods import CLASSIFIER, method_options
from ssltool.methods.base import Method
from ssltool.models.backbones import depends_on_size
from ssltool.runs.folder import RunFolder
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.data_parallel import wrap_ddp
from ssltool.training.loop import TrainingLoop
from ssltool.training.optimizers import build_optimizer
from ssltool.training.setup import TrainingSetup
from ssltool.training.state import TrainState


def classifier_setup(
    network: Pretrained, settings: NetworkSettings, images: ImageSet, *, label_smoothing: float = 0.0, **more: Any
) -> TrainingSetup:
    """The setup of training a classifier and all parameters of its backbone, which has the architecture of ``network``.

    Args:
        settings: the settings of the dataset.
        images: the images of that dataset.
        more: settings of pretraining.

    Raises:
        SSLToolError: if parameters of the backbone depend on the image size, and it is not that of its checkpoint.
    """
    backbone = network.run.backbone
    size = network.image_size
    if size != backbone.image_size and depends_on_size(network.method.backbone, size):
        raise SSLToolError(
            f"--image-size {size}: the positional embeddings of this network are for images of {backbone.image_size} "
            "pixels; train it at that size"
        )
    trainable = dataclasses.replace(backbone, image_size=size, stop_grad_conv1=False)
    names = ("data", "dataset_type", "image_column", "label_column", "idx_path", "unlabelled", "small")
    data = {name: getattr(settings, name) for name in names}
    data |= images.rules.settings() | network.preprocessing.settings()
    config = PretrainConfig(**dataclasses.asdict(trainable), **data, method=CLASSIFIER, monitor_every=0, **more)
    options = method_options(CLASSIFIER, {"label_smoothing": label_smoothing})
    return TrainingSetup(config, options, images, np.arange(len(images)), views.recipe_of(as_dict(config)))


def build_classifier(run: SavedRun, network: Pretrained | None, device: torch.device) -> Method:
    """The classifier of a saved run on ``device``, initialised from the run's seed; its backbone has the weights of
    ``network``, if one is given."""
    method = build_method(run)
    if network is not None:
        method.backbone.load_state_dict(network.method.backbone.state_dict())
    return method.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload, no-any-return]


def training_state(
    method: Method,
    groups: Iterable[Mapping[str, Any]],
    config: PretrainConfig,
    device: torch.device,
    sums: tuple[str, ...],
    called: nn.Module | None = None,
) -> TrainState:
    """The initial state of training ``method``; ``sums`` names the values that each step records. A step calls the
    method, or a module ``called`` that contains it, on several ranks wrapped for them."""
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    optimizer = build_optimizer(groups, config)
    several = distributed.group_shard().world > 1
    unused = several and has_unused_parameters(method, config.image_size or 0, device)
    model = wrap_ddp(method if called is None else called, device, some_unused=unused)
    return TrainState(method, model, optimizer, scaler, sums=dict.fromkeys(sums, 0.0))


def has_unused_parameters(method: Method, size: int, device: torch.device) -> bool:
    """Whether the logits, of images of ``size`` pixels, do not depend on some trainable parameter, as on the mask token
    of DINOv2."""
    training = method.training
    logits = method.eval().embed(torch.zeros(1, 3, size, size, device=device), "projector")
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(logits.sum(), trainable, allow_unused=True)
    method.train(training)
    return any(gradient is None for gradient in gradients)


class ClassifierLoop(TrainingLoop[TrainState, Batch]):
    """The training of a classifier, resumed from the checkpoint ``path`` in ``folder`` if it exists.

    ``saved`` is the run as the checkpoint records it; ``label`` is added to each record, to identify it among others
    in the run folder.
    """

    def __init__(
        self,
        state: TrainState,
        saved: SavedRun,
        folder: RunFolder,
        path: Path,
        *,
        epochs: int,
        steps: int,
        label: Record,
    ) -> None:
        super().__init__(state, path, epochs=epochs, steps=steps, name=" ".join(map(str, label.values())))
        self.saved, self.folder, self.label = saved, folder, label
        self.shard = distributed.group_shard()
        with distributed.raise_on_all_ranks():
            if path.exists():
                state.restore(Checkpoint.load(path), path)

    def start_epoch(self) -> None:
        self.state.model.train()

    def seed_step(self) -> None:
        state, rank = self.state, self.shard.rank
        numbers = (state.epoch, state.epoch_step, seeds.Stream.MODEL, *([rank] if rank else []))
        torch.manual_seed(seeds.derive(self.saved.seed, *numbers))

    def images_in(self, batch: Batch) -> int:
        return len(batch.labels) * self.shard.world

    def finish_epoch(self) -> Record:
        state = self.state
        means = state.finish_epoch()
        return self.label | {"epoch": state.epoch - 1, "step": state.step, **means, **self.results(means)}

    def results(self, means: dict[str, float]) -> Record:
        """Further entries of the record of the completed epoch; ``means`` are the means over its steps.

        Raises:
            SSLToolError: if training must stop.
        """
        return {}

    def save(self) -> None:
        self.state.flush()
        with distributed.raise_on_all_ranks():
            checkpoint = self.state.checkpoint(self.saved)
        self.folder.write(checkpoint, self.path)
