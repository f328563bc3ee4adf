"""The monitor of a run of pretraining: a look after some epochs at images that depend on the seed of the run only.

The settings and the loss of the run may show why it collapses. The results are part of the record of the epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ssltool.config import PretrainConfig
from ssltool.config.fields import STATES
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.shard import Shard
from ssltool.data.views import to_pixels
from ssltool.diagnosis.alarms import names_of_kinds, uniform_losses
from ssltool.diagnosis.isolation import same_randomness
from ssltool.diagnosis.kinds import KINDS
from ssltool.diagnosis.layer_outputs import LayerOutputs
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.monitor import UNKNOWN_CAUSE, Monitor
from ssltool.diagnosis.monitor_time import cheaper
from ssltool.diagnosis.probe_images import BATCH_SIZE, Probe
from ssltool.diagnosis.teacher_moves import TeacherMoves
from ssltool.methods.base import Method
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.launch import worker_count
from ssltool.training.setup import TrainingSetup


@dataclass(frozen=True)
class MonitorResult:
    """The result of a check: ``values`` for the record of the epoch, ``timing``, and ``warnings``, one per problem."""

    values: Record = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class EpochMonitor:
    """The monitor of a run. Each rank embeds its share of the images; all ranks get the same results."""

    def __init__(self, setup: TrainingSetup, device: torch.device, shard: Shard) -> None:
        """Raises ``SSLToolError`` if an image cannot be decoded."""
        self.setup, self.every = setup, setup.config.monitor_every
        self.images, self.device = RunImages(setup, device, shard), device
        self.kinds = Limit.parse(setup.config.stop_on, "--stop-on").kinds
        self._start: _Start | None = None
        self._spent, self._trained, self._warned = 0.0, 0.0, False

    def check(self, method: Method, record: Record, history: Sequence[Record], epoch_seconds: float) -> MonitorResult:
        """The check after the epoch of ``record``, which took ``epoch_seconds``; ``history`` holds earlier records.

        The result is empty unless ``monitor_every`` divides the number of completed epochs or the epoch is the last.
        """
        self._trained += epoch_seconds
        done = record["epoch"] + 1
        if done % self.every and done != self.setup.epochs:
            return MonitorResult()
        if self._start is None:
            self._start = self._untrained()
        look = _MethodMonitor(self, method, record, history, self._start).look(record["step"], record["loss"])
        self._spent += look.seconds
        values = {key: value for key, value in look.record.items() if key not in ("step", "loss", "monitor_seconds")}
        timing = {"monitor_seconds": round(look.seconds, 3), "monitor_share": round(look.seconds / epoch_seconds, 4)}
        return MonitorResult(values, timing, look.warnings + self._time_warnings())

    def _untrained(self) -> _Start:
        """The metrics and weights of the untrained network, which follow from the seed, so that a resumed run has the
        same."""
        with same_randomness():
            method = self.setup.build_method().to(self.device)
        if self.setup.config.channels_last:
            method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        measured, *_ = Monitor(self.images, _MethodOutputs(method)).metrics()
        pair = method.teacher_pair()
        return _Start(measured, None if pair is None else TeacherMoves.since(*pair))

    def _time_warnings(self) -> list[str]:
        """Suggests cheaper settings, once, if the monitor takes much of the training time."""
        if self._warned:
            return []
        names = ("--monitor-every ", "--monitor-size ")
        total, images = self.setup.epochs, len(self.images.labels)
        said = cheaper(self._spent / self._trained, self.every, names, total=total, images=images)
        self._warned = bool(said)
        return said


@dataclass(frozen=True)
class _Start:
    """The untrained network: the metrics of its layers, and its weights if the method has a teacher."""

    metrics: dict[str, dict[str, float]]
    moves: TeacherMoves | None


class RunImages(Probe):
    """A sample of the training images, with the validation transform of the run, on its device."""

    def __init__(self, setup: TrainingSetup, device: torch.device, shard: Shard) -> None:
        c, images = setup.config, setup.images
        rows = setup.monitored_rows()
        self.labels = torch.from_numpy(images.labels[rows])
        self.loader = in_memory(images.select(rows[shard.padded(len(rows))]), setup.preprocessing, device, c.workers)
        self.channels_last = c.channels_last

    def batches(self, like: Tensor | None) -> Iterator[Tensor]:
        """Batches of this rank's share, on the device of the run."""
        for batch in self.loader.evaluate(BATCH_SIZE):
            yield (batch.channels_last() if self.channels_last else batch).views[0]

    def gathered(self, rows: Tensor) -> Tensor:
        """The rows of all images."""
        return distributed.gather(rows)[: len(self.labels)]


class _MethodOutputs(LayerOutputs):
    """The outputs of the monitored layers of a method."""

    def __init__(self, method: Method) -> None:
        super().__init__({name: getattr(method, name) for name in method.measured_layers})
        self.method = method

    @property
    def modules(self) -> list[nn.Module]:
        return [self.method]

    def bound(self, name: str) -> int | None:
        return self.method.max_rank(name)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        *_, last = self.parts
        found = self.method.outputs(images, last)
        return {name: found[name].float().flatten(1) for name in self.parts}


class _MethodMonitor(Monitor):
    """The monitor of one epoch of a ``method``: its layers, and what the setup and the ``record`` tell of causes."""

    def __init__(
        self, monitor: EpochMonitor, method: Method, record: Record, history: Sequence[Record], start: _Start
    ) -> None:
        super().__init__(
            monitor.images,
            _MethodOutputs(method),
            constant_losses=method.constant_output_losses,
            kinds=[kind for kind in monitor.kinds if not KINDS[kind].quick],
        )
        self.networks, self.moves = method.teacher_pair(), start.moves
        prototypes = method.prototype_vectors()
        self.prototypes = {} if prototypes is None else {"projector": prototypes}
        self.setup, self.method, self.record = monitor.setup, method, record
        self.history, self.untrained = list(history), start.metrics

    def probable_cause(self, loss: float | None, dead: list[str]) -> str:
        """The probable causes, from the method, its settings and the images; identical images explain any collapse."""
        causes = self.method.probable_causes(self.record["loss"]) + self.setup.small_batch_causes(self.method)
        causes += self._decayed_predictor() + dead
        return "; ".join(self.setup.identical_images or causes) or UNKNOWN_CAUSE.format("a lower --lr")

    def _decayed_predictor(self) -> list[str]:
        """A predictor whose learning rate decays may not track the projections; ``fix_pred_lr`` keeps it constant."""
        method, record = self.method, self.record
        learns = any(not group["is_encoder"] for group in method.param_groups())
        share = record["lr"] / record["fixed_lr"]
        warming_up = record["epoch"] < self.setup.config.warmup_epochs
        if getattr(method.options, "fix_pred_lr", True) or not learns or warming_up or share >= 1:
            return []
        return [f"the learning rate of the predictor has decayed to {share:.0%}; --fix-pred-lr keeps it constant"]


def check_limit(config: PretrainConfig, method: Method, images: ImageSet) -> None:
    """Refuses a kind of collapse in ``--stop-on`` that the run cannot show.

    Raises:
        UsageError: naming what is missing.
    """
    given = {
        "labels": len(np.unique(images.labels[images.labels >= 0])) > 1,
        "networks": method.teacher_pair() is not None,
        "loss": bool(uniform_losses(method.constant_output_losses)),
    }
    needs = {"rows", "reference", *(name for name, present in given.items() if present)}
    lacking = {
        "labels": f"images with labels; {images.name} has none",
        "networks": f"a momentum teacher; {config.method} has none",
        "loss": f"a loss that is ln K for uniform outputs; that of {config.method} is not",
        "tokens": "the tokens of images: ssltool collapse measures those that save-reprs --tokens writes",
    }
    Limit.parse(config.stop_on, "--stop-on").require(needs, "--stop-on", lacking)


def has_collapsed(record: Record, limit: str | None) -> bool:
    """Whether the verdict of ``record`` is at the ``limit``, as in ``--stop-on``; False if it is None."""
    return Limit.parse(limit, "--stop-on").is_reached(record.get("verdict"), names_of_kinds(record))


def summary(record: Record) -> str:
    """A summary of the monitor's results in ``record``, empty if there are none."""
    if record.get("verdict") is None:
        return "; no verdict: outputs are not finite" if "verdict" in record else ""
    text = f"; backbone AUC {record['backbone_auc']:.3f}, effective rank {record['backbone_effective_rank']:.1f}"
    if "backbone_knn" in record:
        text += f", kNN {record['backbone_knn']:.1%}"
    text += f"; {record['verdict']}" + (" collapse" if record["verdict"] != STATES[0] else "")
    return text + (f" ({record['kinds']})" if record.get("kinds") else "")


def in_memory(
    images: ImageSet, preprocessing: Preprocessing, device: torch.device, workers: int | None = None
) -> Loader:
    """A loader of ``images`` with all pixels in memory. Files are decoded, resized and cropped once.

    Raises:
        SSLToolError: if an image cannot be decoded.
    """
    if images.images is not None:
        return Loader(images, preprocessing, device)
    with contextlib.closing(Loader(images, preprocessing, torch.device("cpu"), worker_count(workers))) as loader:
        pixels = [to_pixels(batch.views[0], preprocessing) for batch in loader.evaluate(BATCH_SIZE)]
    cropped = dataclasses.replace(images, images=torch.cat(pixels), paths=None, size=None)
    return Loader(cropped, dataclasses.replace(preprocessing, keeps_size=True), device)


def epoch_line(record: Record, epochs: int, regularisers: Sequence[str]) -> str:
    """What is printed of the record of an epoch."""
    values = "".join(f"{name} {record[name]:.4g}, " for name in regularisers)
    return (
        f"epoch {record['epoch'] + 1}/{epochs}: loss {record['loss']:.4f}, feature_std {record['feature_std']:.3f}, "
        f"{values}lr {record['lr']:.4g}, {record['images_per_second']:,.0f} images/s, "
        f"{record['data_wait']:.1%} data wait{summary(record)}"
    )
