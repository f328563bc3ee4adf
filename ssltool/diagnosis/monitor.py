"""The collapse monitor: what the network makes of some of its training images, looked at while it trains.

The images are always the same, drawn by the run's seed. A look embeds them in eval mode by the validation transform, in
float32 at any training precision, because the rounding of bf16 would pass for directions in use. It changes nothing: no
weight, no running statistic, no random number. Its numbers belong to the epoch's record, and with those before them say
whether the run is collapsing and, as far as settings and loss show it, why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool import seeds
from ssltool.config.common import STATES, reaches
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader, Shard
from ssltool.data.views import MEAN, STD
from ssltool.diagnosis.caveats import dead_dimensions
from ssltool.diagnosis.measure import OF_DIRECTIONS, OF_SPECTRUM
from ssltool.diagnosis.metrics import MAIN, Directions, rankme_of_spectrum
from ssltool.diagnosis.verdict import NEEDED, Verdict, judge
from ssltool.files import finite
from ssltool.methods.base import Method
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import votes
from ssltool.training import distributed
from ssltool.training.device import worker_count
from ssltool.training.setup import TrainingSetup

METRICS = tuple(dict.fromkeys((*MAIN, *NEEDED)))
"""What is measured of a layer."""

MAX_TIME_SHARE = 0.05
"""Share of the training time above which the monitor says how it would take less."""

BATCH_SIZE = 256
"""Images that are embedded at a time."""

KNN_NEIGHBOURS = 20
"""Neighbours that vote on an image's class, where there are so many."""

OVERSAMPLING = 8
"""Rows beyond the bound of the rank that the span of all rows is made from."""

SPAN_TOLERANCE = 1e-10
"""Share of the rows' variance that may lie outside that span."""

DEAD_KEY = "dead_dimensions"
"""How the number of dimensions that hardly change is called in a record."""

CAUSE_UNKNOWN = (
    "no usual cause is there; try a lower --lr, or a wider network, since one that is small for its data collapses in "
    "part (arXiv:2209.15007)"
)


@dataclass(frozen=True)
class MonitorResult:
    """What one look found: ``values`` for the epoch's record, its ``timing``, and ``warnings``, a sentence each."""

    values: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layer:
    """The ``values`` of one layer's outputs, their ``width``, and the ``verdict``, None if they are not finite."""

    values: dict[str, float]
    width: int
    verdict: Verdict | None


class Monitor:
    """The monitor of one run on this rank, which embeds its share of the images; all ranks find the same numbers."""

    def __init__(self, setup: TrainingSetup, device: torch.device, shard: Shard) -> None:
        """Raises ``SSLToolError`` if an image cannot be read."""
        c, images = setup.config, setup.images
        self.setup, self.every = setup, c.monitor_every
        drawn = torch.randperm(len(images), generator=seeds.generator(c.seed, seeds.Stream.MONITOR))
        rows = drawn[: c.monitor_size].sort().values.numpy()
        share = -(-len(rows) // shard.world)  # equal for all ranks, so that they can be gathered
        mine = np.resize(rows, share * shard.world)[share * shard.rank : share * (shard.rank + 1)]
        self.labels = torch.from_numpy(images.labels[rows])
        self.loader = Loader(in_memory(images.select(mine), setup.image_size, c.workers), setup.image_size, device)
        self._spent, self._trained, self._warned = 0.0, 0.0, False

    def check(
        self, method: Method, record: dict[str, Any], history: Sequence[dict[str, Any]], epoch_seconds: float
    ) -> MonitorResult:
        """What there is to say after the epoch of ``record``, which took ``epoch_seconds``, after those of ``history``.

        Nothing, unless it is the turn of this epoch or it is the last.
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
        """What each watched layer there is makes of all images, (n, d) each, the same on all ranks."""
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
        self, layers: dict[str, Layer], method: Method, record: dict[str, Any], history: Sequence[dict[str, Any]]
    ) -> list[str]:
        """That outputs are not finite, that the verdict is worse than the last one, and why, or that dimensions die."""
        found = [f"what the {name} makes of images is not finite" for name, of in layers.items() if of.verdict is None]
        deaths = {name: _DeadDimensions.of(name, layer, history) for name, layer in layers.items()}
        before = next((r["verdict"] for r in reversed(history) if r.get("verdict")), STATES[0])
        judged = {name: layer.verdict for name, layer in layers.items() if layer.verdict is not None}
        name = max(judged, key=lambda name: judged[name].severity, default=None)
        if name is None or judged[name].severity <= STATES.index(before):
            return found + [str(of) for of in deaths.values() if of.increased_sharply()]
        causes = method.probable_causes(record["loss"]) + self.setup.small_batch_causes(method)
        causes += self._decayed_predictor(method, record) + [str(of) for of in deaths.values() if of.increased()]
        line = judged[name].line
        return [*found, f"the {name} shows {line}. Probable cause: {'; '.join(causes) or CAUSE_UNKNOWN}"]

    def _decayed_predictor(self, method: Method, record: dict[str, Any]) -> list[str]:
        """A predictor has to keep up with what it predicts; its rate falls with the others' unless that is fixed."""
        learns = any(not group["is_encoder"] for group in method.param_groups())
        share = record["lr"] / record["fixed_lr"]
        warming_up = record["epoch"] < self.setup.config.warmup_epochs
        if getattr(method.options, "fix_pred_lr", True) or not learns or warming_up or share >= 1:
            return []
        return [f"the predictor's learning rate has fallen to {share:.0%}, which --fix-pred-lr prevents"]

    def _time_warnings(self) -> list[str]:
        """How to look less, said once, where looking takes more than ``MAX_TIME_SHARE`` of the training."""
        share = self._spent / self._trained
        if self._warned or share <= MAX_TIME_SHARE:
            return []
        self._warned = True
        every = math.ceil(self.every * share / MAX_TIME_SHARE)
        size = max(2, int(len(self.labels) * MAX_TIME_SHARE / share))
        return [
            f"the collapse monitor takes {share:.0%} of the training time; --monitor-every {every} or --monitor-size "
            f"{size} brings it to {MAX_TIME_SHARE:.0%}"
        ]


@dataclass(frozen=True)
class _DeadDimensions:
    """Dimensions of a layer that hardly change any more: how many ``now``, at the ``first`` look, ``most`` before."""

    layer: str
    width: int
    now: float
    first: float
    most: float

    @classmethod
    def of(cls, name: str, layer: Layer, history: Sequence[dict[str, Any]]) -> _DeadDimensions:
        now = layer.values[DEAD_KEY]
        earlier = [r[key] for r in history if r.get(key := f"{name}_{DEAD_KEY}") is not None] or [now]
        return cls(name, layer.width, now, earlier[0], max(earlier))

    def increased(self) -> bool:
        """Whether there are more than at first."""
        return self.now > self.first

    def increased_sharply(self) -> bool:
        """Whether a hundredth of all died since the first look, and as many as ever again since this was last so."""
        return self.now - self.first >= max(1.0, self.width / 100) and self.now >= 2 * self.most

    def __str__(self) -> str:
        return f"{self.now:.0f} of {self.width} dimensions of the {self.layer} hardly change, {self.first:.0f} at first"


def has_collapsed(record: dict[str, Any], state: str | None) -> bool:
    """Whether the epoch of ``record`` was judged at least ``state``; None is none."""
    return reaches(record.get("verdict"), state)


def summary(record: dict[str, Any]) -> str:
    """What the monitor found in an epoch, for people; nothing where it did not look."""
    if record.get("verdict") is None:
        return "; no verdict, outputs are not finite" if "verdict" in record else ""
    text = f"; backbone AUC {record['backbone_auc']:.3f}, effective rank {record['backbone_effective_rank']:.1f}"
    if "backbone_knn" in record:
        text += f", kNN {record['backbone_knn']:.1%}"
    return f"{text}; {record['verdict']}" + (" collapse" if record["verdict"] != STATES[0] else "")


def measure(x: Tensor, bound: int) -> dict[str, float]:
    """``METRICS`` of outputs (N, d) whose rank is at most ``bound``, and how many dimensions hardly change; NaN where
    the outputs are not finite."""
    if not bool(torch.isfinite(x).all()):
        return dict.fromkeys((*METRICS, DEAD_KEY), math.nan)
    x = (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64
    s, uncentred = spectra(x, bound)
    directions = Directions.of(x)
    values = {name: float(function(s, x.shape[1])) for name, function in OF_SPECTRUM.items() if name in METRICS}
    values |= {"rankme": rankme_of_spectrum(uncentred)}
    values |= {name: OF_DIRECTIONS[name](directions) for name in METRICS if name in OF_DIRECTIONS}
    return {name: values[name] for name in METRICS} | {DEAD_KEY: len(dead_dimensions(x.std(dim=0)))}


def spectra(x: Tensor, bound: int) -> tuple[Tensor, Tensor]:
    """Singular values of ``x`` (N, d) float64, centred and as it is, (min(N, d),) each, largest first, in little time.

    They are roots of the eigenvalues of the smaller Gram matrix, which are off by some eps lambda_1, eps that of
    float64. So values below about 1e-7 s_1 are lost; the rounding of float32, in which networks compute, is as large,
    and what is lost changes no metric here by a thousandth. ``ssltool collapse`` takes the exact ones.

    Outputs of rank r lie in the span of any r + 1 rows, so where ``bound`` says that r is small, the rows are first
    written in a basis of that span, unless it turns out that they do not fit into it.
    """
    count = min(x.shape)
    origin = x[0].clone()
    x = x - origin  # rows that are all the same leave exactly nothing
    some = bound + OVERSAMPLING
    if 2 * some < count:
        basis = torch.linalg.qr(torch.cat([origin[None], x[1:some]]).T).Q
        inside = x @ basis
        if x.square().sum() - inside.square().sum() <= SPAN_TOLERANCE * (x - x.mean(dim=0)).square().sum():
            x, origin = inside, origin @ basis
    centred, uncentred = (_roots(rows, count) for rows in (x - x.mean(dim=0), x + origin))
    return centred, uncentred


def _roots(x: Tensor, count: int) -> Tensor:
    """``count`` singular values of ``x``; those that its shape does not have are 0."""
    gram = x @ x.mT if len(x) < x.shape[1] else x.mT @ x
    values = torch.linalg.eigvalsh(gram).clamp(min=0.0).sqrt().flip(0)
    return F.pad(values, (0, max(0, count - len(values))))


def knn_accuracy(x: Tensor, labels: Tensor) -> dict[str, float]:
    """``knn``: how many of the rows (N, d) with ``labels`` (N,) their nearest neighbours among the others classify
    rightly. Nothing without two classes, NaN where rows are not finite."""
    labelled = labels >= 0
    known, classes = labels[labelled].unique(return_inverse=True)
    if len(known) < 2:
        return {}
    rows, ids = x[labelled.to(x.device)], torch.arange(len(classes))
    if not bool(torch.isfinite(rows).all()):
        return {"knn": math.nan}
    k = min(KNN_NEIGHBOURS, len(rows) - 1)
    similarity, nearest = neighbours(rows, rows, k=k, skip=(ids, ids), device=x.device)
    elected = votes(similarity, classes[nearest], len(known))[:, -1]
    return {"knn": float((elected == classes).double().mean())}


def in_memory(images: ImageSet, size: int, workers: int | None) -> ImageSet:
    """``images`` as a set that needs no decoding: files are read once, at the ``size`` that the validation transform
    gives them, which it then leaves as they are.

    Raises:
        SSLToolError: if one cannot be decoded.
    """
    if images.images is not None:
        return images
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    with contextlib.closing(Loader(images, size, torch.device("cpu"), worker_count(workers))) as loader:
        pixels = [
            ((batch.views[0] * std + mean) * 255).round().to(torch.uint8) for batch in loader.evaluate(BATCH_SIZE)
        ]
    return dataclasses.replace(images, images=torch.cat(pixels), paths=None, size=None)


def _broadcast_values(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The first rank's ``values``, lest rounding make ranks decide differently."""
    flat = torch.tensor([value for of in values.values() for value in of.values()], dtype=torch.float64)
    numbers = iter(distributed.broadcast(flat).tolist())
    return {name: {key: type(value)(next(numbers)) for key, value in of.items()} for name, of in values.items()}
