"""The collapse monitor: measures the outputs for a fixed sample of training images during training.

The sample depends on the seed of the run only. A check embeds it in eval mode with the validation transform, in float32
at any training precision, because bf16 rounding noise would count as dimensions in use. It does not change weights,
running statistics or random numbers. Its metrics are part of the record of the epoch. Compared with earlier records,
they show whether the run collapses; settings and loss may show the cause.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool import seeds
from ssltool.config.fields import STATES, reaches
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader, Shard
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.views import to_pixels
from ssltool.diagnosis.caveats import dead_dimensions
from ssltool.diagnosis.measure import needs_gram
from ssltool.diagnosis.metric_inputs import value_of
from ssltool.diagnosis.metrics import MAIN
from ssltool.diagnosis.metrics.of_rows import Directions
from ssltool.diagnosis.verdict import NEEDED, Verdict, judge
from ssltool.files.writing import finite
from ssltool.methods.base import Method
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import predicted_classes
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.device import worker_count
from ssltool.training.setup import TrainingSetup

MEASURED = tuple(dict.fromkeys((*MAIN, *NEEDED)))
"""The metrics of each layer."""

MAX_TIME_SHARE = 0.05
"""Fraction of the training time above which the monitor suggests cheaper settings."""

BATCH_SIZE = 256
"""Images per forward pass."""

KNN_NEIGHBOURS = 20
"""Maximum number of neighbours that vote on the class of an image."""

OVERSAMPLING = 8
"""Number of rows, in addition to the bound on the rank, that determine the span of all rows."""

SPAN_TOLERANCE = 1e-10
"""Largest fraction of the variance of the rows outside that span."""

DEAD_KEY = "dead_dimensions"
"""Key of the number of dead dimensions in a record."""

CAUSE_UNKNOWN = (
    "unknown; try a lower --lr, or a wider network, because networks that are small for their data collapse partially "
    "(arXiv:2209.15007)"
)


@dataclass(frozen=True)
class MonitorResult:
    """The result of a check: ``values`` for the record of the epoch, ``timing``, and ``warnings``, one per problem."""

    values: Record = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layer:
    """The ``values`` (metrics) and ``width`` of a layer's output, and the ``verdict``, None if it is not finite."""

    values: dict[str, float]
    width: int
    verdict: Verdict | None


class Monitor:
    """The monitor of a run. Each rank embeds its share of the images; all ranks get the same results."""

    def __init__(self, setup: TrainingSetup, device: torch.device, shard: Shard) -> None:
        """Raises ``SSLToolError`` if an image cannot be decoded."""
        c, images = setup.config, setup.images
        self.setup, self.every = setup, c.monitor_every
        drawn = torch.randperm(len(images), generator=seeds.generator(c.seed, seeds.Stream.MONITOR))
        rows = drawn[: c.monitor_size].sort().values.numpy()
        share = -(-len(rows) // shard.world)  # equal on all ranks, as gather requires
        local = np.resize(rows, share * shard.world)[share * shard.rank : share * (shard.rank + 1)]
        self.labels = torch.from_numpy(images.labels[rows])
        self.loader = in_memory(images.select(local), setup.preprocessing, device, c.workers)
        self._spent, self._trained, self._warned = 0.0, 0.0, False

    def check(self, method: Method, record: Record, history: Sequence[Record], epoch_seconds: float) -> MonitorResult:
        """The check after the epoch of ``record``, which took ``epoch_seconds``; ``history`` holds earlier records.

        The result is empty unless ``monitor_every`` divides the number of completed epochs or the epoch is the last.
        """
        self._trained += epoch_seconds
        done = record["epoch"] + 1
        if done % self.every and done != self.setup.epochs:
            return MonitorResult()
        start = time.perf_counter()
        layers = self._layers(method)
        seconds = time.perf_counter() - start
        self._spent += seconds
        values = {f"{name}_{key}": value for name, layer in layers.items() for key, value in layer.values.items()}
        known = [layer.verdict.severity for layer in layers.values() if layer.verdict is not None]
        verdict = STATES[max(known)] if len(known) == len(layers) else None
        timing = {"monitor_seconds": round(seconds, 3), "monitor_share": round(seconds / epoch_seconds, 4)}
        warnings = self._warnings(layers, method, record, history) + self._time_warnings()
        return MonitorResult(finite(values) | {"verdict": verdict}, timing, warnings)

    @torch.inference_mode()
    def _layers(self, method: Method) -> dict[str, Layer]:
        rows = self._embed(method)
        values = {name: measure(x, method.max_rank(name)) for name, x in rows.items()}
        values["backbone"] |= knn_accuracy(rows["backbone"], self.labels)
        found = {}
        for name, of in _broadcast_values(values).items():
            (n, d), verdict = rows[name].shape, None
            if all(math.isfinite(of[needed]) for needed in NEEDED):
                verdict = judge(of, n=n, d=d, bound=method.max_rank(name), layer=name, dead=int(of[DEAD_KEY]))
            found[name] = Layer(of, d, verdict)
        return found

    def _embed(self, method: Method) -> dict[str, Tensor]:
        """The outputs (n, d) of each monitored layer for all images, identical on all ranks."""
        parts: dict[str, list[Tensor]] = {}
        training = method.training
        method.eval()
        try:
            for batch in self.loader.evaluate(BATCH_SIZE):
                view = (batch.channels_last() if self.setup.config.channels_last else batch).views[0]
                for name, out in method.outputs(view, method.monitored_layers[-1]).items():
                    parts.setdefault(name, []).append(out.float().flatten(1))
        finally:
            method.train(training)
        n = len(self.labels)
        return {
            name: distributed.gather(torch.cat(parts[name]))[:n] for name in method.monitored_layers if name in parts
        }

    def _warnings(
        self, layers: dict[str, Layer], method: Method, record: Record, history: Sequence[Record]
    ) -> list[str]:
        """Warnings about non-finite outputs, a worse verdict and its probable cause, and dead dimensions."""
        found = [f"the output of the {name} is not finite" for name, of in layers.items() if of.verdict is None]
        dead = {name: _DeadDimensions.of(name, layer, history) for name, layer in layers.items()}
        before = next((r["verdict"] for r in reversed(history) if r.get("verdict")), STATES[0])
        judged = {name: layer.verdict for name, layer in layers.items() if layer.verdict is not None}
        name = max(judged, key=lambda name: judged[name].severity, default=None)
        if name is None or judged[name].severity <= STATES.index(before):
            return found + [str(of) for of in dead.values() if of.increased_sharply()]
        causes = method.probable_causes(record["loss"]) + self.setup.small_batch_causes(method)
        causes += self._decayed_predictor(method, record) + [str(of) for of in dead.values() if of.increased()]
        causes = self.setup.identical_images or causes
        line = judged[name].line
        return [*found, f"the {name} shows {line}. Probable cause: {'; '.join(causes) or CAUSE_UNKNOWN}"]

    def _decayed_predictor(self, method: Method, record: Record) -> list[str]:
        """A predictor whose learning rate decays may not track the projections; ``fix_pred_lr`` keeps it constant."""
        learns = any(not group["is_encoder"] for group in method.param_groups())
        share = record["lr"] / record["fixed_lr"]
        warming_up = record["epoch"] < self.setup.config.warmup_epochs
        if getattr(method.options, "fix_pred_lr", True) or not learns or warming_up or share >= 1:
            return []
        return [f"the learning rate of the predictor has decayed to {share:.0%}; --fix-pred-lr keeps it constant"]

    def _time_warnings(self) -> list[str]:
        """Suggests cheaper settings, once, if the monitor takes more than ``MAX_TIME_SHARE`` of the training time."""
        share = self._spent / self._trained
        if self._warned or share <= MAX_TIME_SHARE:
            return []
        self._warned = True
        every = math.ceil(self.every * share / MAX_TIME_SHARE)
        size = max(2, int(len(self.labels) * MAX_TIME_SHARE / share))
        return [
            f"the collapse monitor takes {share:.0%} of the training time; --monitor-every {every} or --monitor-size "
            f"{size} reduces it to {MAX_TIME_SHARE:.0%}"
        ]


@dataclass(frozen=True)
class _DeadDimensions:
    """Number of dead dimensions of a layer: ``now``, in the ``first`` check, and the maximum (``most``) before."""

    layer: str
    width: int
    now: float
    first: float
    most: float

    @classmethod
    def of(cls, name: str, layer: Layer, history: Sequence[Record]) -> _DeadDimensions:
        now = layer.values[DEAD_KEY]
        earlier = [r[key] for r in history if r.get(key := f"{name}_{DEAD_KEY}") is not None] or [now]
        return cls(name, layer.width, now, earlier[0], max(earlier))

    def increased(self) -> bool:
        """Whether there are more than in the first check."""
        return self.now > self.first

    def increased_sharply(self) -> bool:
        """Whether at least 1 % of the width died since the first check, and the number doubled since the maximum."""
        return self.now - self.first >= max(1.0, self.width / 100) and self.now >= 2 * self.most

    def __str__(self) -> str:
        return f"dead dimensions of the {self.layer}: {self.now:.0f} of {self.width}, initially {self.first:.0f}"


def has_collapsed(record: Record, state: str | None) -> bool:
    """Whether the verdict of ``record`` is at least as severe as ``state``; False if ``state`` is None."""
    return reaches(record.get("verdict"), state)


def summary(record: Record) -> str:
    """A summary of the monitor's results in ``record``, empty if there are none."""
    if record.get("verdict") is None:
        return "; no verdict: outputs are not finite" if "verdict" in record else ""
    text = f"; backbone AUC {record['backbone_auc']:.3f}, effective rank {record['backbone_effective_rank']:.1f}"
    if "backbone_knn" in record:
        text += f", kNN {record['backbone_knn']:.1%}"
    return f"{text}; {record['verdict']}" + (" collapse" if record["verdict"] != STATES[0] else "")


def measure(x: Tensor, bound: int) -> dict[str, float]:
    """``MEASURED`` and the number of dead dimensions of outputs (N, d) whose rank is at most ``bound``; NaN if they are
    not finite."""
    if not bool(torch.isfinite(x).all()):
        return dict.fromkeys((*MEASURED, DEAD_KEY), math.nan)
    x = (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64
    s, uncentred = spectra(x, bound)
    directions = Directions.of(x, gram=needs_gram(MEASURED))
    given = {"spectrum": s, "uncentred spectrum": uncentred, "directions": directions}
    values = {name: float(value_of(name, given, x.shape[1])) for name in MEASURED}
    return values | {DEAD_KEY: len(dead_dimensions(x.std(dim=0)))}


def spectra(x: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Singular values of ``x`` (N, d) float64, with and without centring, (min(N, d),) each, descending; fast.

    They are square roots of the eigenvalues of the smaller Gram matrix, with an error of about eps lambda_1, eps that
    of float64. Values below about 1e-7 s_1 are lost. This is the size of float32 rounding noise, and changes the
    metrics by less than 0.1 %. ``ssltool collapse`` computes exact values.

    Outputs of rank r lie in the span of any r + 1 rows in general position. If ``bound`` is small, the rows are first
    projected onto a basis of that span, unless they do not lie in it.
    """
    count = min(x.shape)
    origin = x[0].clone()
    x = x - origin  # equal rows become exactly 0
    some = bound + OVERSAMPLING
    if 2 * some < count:
        basis = torch.linalg.qr(torch.cat([origin[None], x[1:some]]).T).Q
        inside = x @ basis
        if x.square().sum() - inside.square().sum() <= SPAN_TOLERANCE * (x - x.mean(dim=0)).square().sum():
            x, origin = inside, origin @ basis
    centred, uncentred = (_roots(rows, count) for rows in (x - x.mean(dim=0), x + origin))
    return centred, uncentred


def _roots(x: Tensor, count: int) -> Tensor:
    """``count`` singular values of ``x``, padded with zeros."""
    gram = x @ x.mT if len(x) < x.shape[1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt().flip(0)
    return F.pad(values, (0, max(0, count - len(values))))


def knn_accuracy(x: Tensor, labels: Tensor) -> dict[str, float]:
    """``knn``: leave-one-out kNN accuracy of the labelled rows (N, d). Empty for fewer than two classes, NaN if rows
    are not finite."""
    labelled = labels >= 0
    known, classes = labels[labelled].unique(return_inverse=True)
    if len(known) < 2:
        return {}
    rows, ids = x[labelled.to(x.device)], torch.arange(len(classes))
    if not bool(torch.isfinite(rows).all()):
        return {"knn": math.nan}
    k = min(KNN_NEIGHBOURS, len(rows) - 1)
    similarity, nearest = neighbours(rows, rows, k=k, skip=(ids, ids), device=x.device)
    predicted = predicted_classes(similarity, classes[nearest], len(known))[:, -1]
    return {"knn": float((predicted == classes).double().mean())}


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


def _broadcast_values(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Broadcasts the ``values`` of rank 0, so that all ranks take the same decisions."""
    flat = torch.tensor([value for of in values.values() for value in of.values()], dtype=torch.float64)
    numbers = iter(distributed.broadcast(flat).tolist())
    return {name: {key: type(value)(next(numbers)) for key, value in of.items()} for name, of in values.items()}
