"""A linear classifier on a pretrained backbone as a run: its setup, its method, its training loop.

Fine-tuning and SCAN train, save and resume it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.load import Pretrained
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.config import NetworkSettings, PretrainConfig, as_dict
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.methods import CLASSIFIER, method_options
from ssltool.methods.base import Method
from ssltool.models.vit import is_vit
from ssltool.training.loop import TrainingLoop
from ssltool.training.optimizers import build_optimizer
from ssltool.training.setup import TrainingSetup
from ssltool.training.state import TrainState


def classifier_setup(
    network: Pretrained, settings: NetworkSettings, images: ImageSet, *, label_smoothing: float = 0.0, **more: Any
) -> TrainingSetup:
    """The setup of a classifier on a backbone of the network's architecture, all of whose parameters are trained, on
    the ``images`` of ``settings``; ``more`` are settings of pretraining.

    Raises:
        SSLToolError: for a ViT and images of another size than its own.
    """
    backbone = network.run.backbone
    if is_vit(network.method.backbone) and network.image_size != backbone.image_size:
        raise SSLToolError(
            f"--image-size {network.image_size}: the positions of this ViT are those of "
            f"{backbone.image_size} pixels; train it at that size"
        )
    trained = dataclasses.replace(backbone, image_size=network.image_size, stop_grad_conv1=False)
    data = {name: getattr(settings, name) for name in ("data", "dataset_type", "idx_path", "small")}
    config = PretrainConfig(**dataclasses.asdict(trained), **data, method=CLASSIFIER, monitor_every=0, **more)
    options = method_options(CLASSIFIER, {"label_smoothing": label_smoothing})
    return TrainingSetup(config, options, images, np.arange(len(images)), views.recipe_of(as_dict(config)))


def build_classifier(run: SavedRun, network: Pretrained | None, device: torch.device) -> Method:
    """The classifier of a saved run, on its device: fresh weights by the seed, and in the backbone those of
    ``network``, if one is given."""
    method = build_method(run)
    if network is not None:
        method.backbone.load_state_dict(network.method.backbone.state_dict())
    return method.to(memory_format=torch.channels_last).to(device)  # type: ignore[call-overload, no-any-return]


def training_state(
    method: Method, groups: list[dict[str, Any]], config: PretrainConfig, device: torch.device, sums: tuple[str, ...]
) -> TrainState:
    """The initial state of a training of ``method`` whose steps record the values named in ``sums``."""
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    optimizer = build_optimizer(groups, config)
    return TrainState(method, method, optimizer, scaler, sums=dict.fromkeys(sums, 0.0))


class ClassifierLoop(TrainingLoop[TrainState, Batch]):
    """The training of a classifier in one process, which is resumed from the checkpoint ``path`` if there is one.

    ``saved`` is the run in that checkpoint; ``label`` is what tells the records from others in the run folder.
    """

    def __init__(
        self, state: TrainState, saved: SavedRun, path: Path, *, epochs: int, steps: int, label: Record
    ) -> None:
        super().__init__(state, path, epochs=epochs, steps=steps, name=" ".join(map(str, label.values())))
        self.saved, self.label = saved, label
        if path.exists():
            state.restore(Checkpoint.load(path))

    def start_epoch(self) -> None:
        self.state.model.train()

    def images_in(self, batch: Batch) -> int:
        return len(batch.labels)

    def finish_epoch(self) -> Record:
        state = self.state
        means = state.finish_epoch()
        return self.label | {"epoch": state.epoch - 1, "step": state.step, **means, **self.results(means)}

    def results(self, means: dict[str, float]) -> Record:
        """What the record of the epoch that has just ended holds beside the ``means`` over its steps.

        Raises:
            SSLToolError: if training on would be useless.
        """
        return {}

    def save(self) -> None:
        self.state.flush()
        self.state.checkpoint(self.saved).save(self.path)
