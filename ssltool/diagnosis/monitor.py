"""The collapse monitor: measures the outputs of layers for a fixed sample of images during any training.

A look embeds the sample in eval mode and in float32 at any training precision, because bf16 rounding noise would count
as dimensions in use. It does not change weights, running statistics or random numbers. The metrics are those of
``measure``, of the exact spectrum. Compared with earlier looks, they show whether the network collapses; the loss may
show the cause.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssltool.diagnosis.alarms import (
    Measurement,
    alarms,
    constant_output_causes,
    judge_look,
    kind_alarms,
    names_of_kinds,
    uniform_losses,
    uniform_numbers,
    worst_layer,
)
from ssltool.diagnosis.isolation import isolated
from ssltool.diagnosis.kinds import Shown, metrics_of, ratios, shown
from ssltool.diagnosis.layer_metrics import MEASURED, knn_accuracy, measured_layer, prototype_usage
from ssltool.diagnosis.layer_outputs import Layer, LayerOutputs
from ssltool.diagnosis.limits import Limit
from ssltool.diagnosis.monitor_time import cheaper
from ssltool.diagnosis.phases import phases_of_records
from ssltool.diagnosis.probe_images import KeptImages, Probe, process_group
from ssltool.diagnosis.teacher_moves import TeacherMoves, TeacherNetworks
from ssltool.diagnosis.verdict import NEEDED, Verdict
from ssltool.errors import UsageError, unknown
from ssltool.files.writing import FilePath, finite
from ssltool.settings import Record

UNKNOWN_CAUSE = (
    "unknown; try {}, or a wider network, because networks that are small for their data collapse partially "
    "(arXiv:2209.15007)"
)

NEEDED_BY_MONITOR = {
    "labels": "the classes of at least some images: give labels",
    "networks": "the weights of a teacher and of its student: give teacher=(teacher, student)",
    "loss": "a loss whose value for uniform outputs is known: give constant_losses=[math.log(K)]",
}
"""What a monitor lacks for a kind of collapse."""


@dataclass(frozen=True)
class Check:
    """What a look found.

    Attributes:
        step: the step of the training.
        verdict: the most severe verdict of the layers (``state``, ``line``, ``why``, ``kinds``) with the kinds of
            collapse that the weights and the loss show, or None if an output is not finite.
        layer: the name of the layer with this verdict, or None.
        layers: the metrics of each layer by name, NaN where they are undefined.
        seconds: the time that the look took.
        warnings: one line for each problem that is new: a worse verdict with its probable cause, dimensions that died,
            outputs that are not finite, and what the monitor does with the outputs.
        record: all values in one flat dict for a logger, as in ``metrics.jsonl``: ``backbone_auc``, ..., ``verdict``;
            None where a value is undefined.
        spectra: the singular values of each layer's centred rows, (min(N, d),) float64, descending; without layers
            whose output is not finite.
    """

    step: int
    verdict: Verdict | None
    layer: str | None
    layers: dict[str, dict[str, float]]
    seconds: float
    warnings: list[str]
    record: Record
    spectra: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def kinds(self) -> list[str]:
        """The names of the kinds of collapse in all layers, the main one first."""
        return names_of_kinds(self.record)

    @property
    def state(self) -> str | None:
        """``healthy``, ``partial`` or ``complete``; None if there is no verdict."""
        return None if self.verdict is None else self.verdict.state

    def __str__(self) -> str:
        if self.verdict is None:
            return f"step {self.step}: no verdict: outputs are not finite"
        return f"step {self.step}, {self.layer}: {self.verdict.line}"


class Monitor:
    """Measures collapse in a training loop: ``check = monitor.step(step, loss=loss)`` after each step.

    Args:
        images: a tensor (N, 3, S, S) that the network can take, or an iterable of batches, such as a DataLoader. A
            batch is a tensor, a tuple (images, labels, ...) or a dict with ``image``, ``images`` or ``pixel_values``.
            Up to ``size`` images are kept in memory; take a loader without random augmentation.
        layers: each layer by name: a module, a function, or (module, key of its output). Without ``forward`` they are a
            chain: the first is called with the images, each next one with the output before. Outputs are (N, d);
            (N, C, H, W) are averaged over positions, (N, T, d) over tokens. ``projector`` and ``predictor`` are judged
            as heads, other names as representations.
        every: number of steps between two looks.
        forward: the network, or a function that is called with a batch of images; the layers are modules in it.
        out: a folder for ``metrics.jsonl`` and spectra, which ``ssltool rank``, ``plot`` and ``report`` read. A folder
            with earlier looks is continued.
        labels: the classes (N,) of the images, for the kNN accuracy of the first layer; -1 where unknown. By default
            those of the batches, if they have any.
        size: maximum number of images.
        bounds: the largest possible rank of a layer's output by name, such as the width before a wide linear layer; by
            default that of a module that is a linear layer or a Sequential that ends in one.
        constant_losses: values of the loss if all outputs are the same, such as -1 for SimSiam, to name the cause; a
            value ln K also shows the kind ``uniform-output``.
        teacher: a teacher and its student, two networks with the same parameters, to show the kinds ``stale-teacher``
            and ``identical-teacher``.
        kinds: further kinds of collapse to look for, which take longer, such as ``("local", "cluster")``.

    A look at step 0 is one at the untrained network: later ones are compared with it, which shows the kind ``scale``.
    With an initialised process group, all ranks must look at the same steps; each embeds its share of the images, and
    all get the same ``Check``.

    Raises:
        SSLToolError: for images, layers, labels or a folder that cannot be used.
    """

    def __init__(
        self,
        images: Tensor | Iterable[Any] | Probe,
        layers: Mapping[str, Layer] | LayerOutputs,
        *,
        every: int = 500,
        forward: Callable[[Tensor], Any] | nn.Module | None = None,
        out: FilePath | None = None,
        labels: Tensor | Sequence[int] | None = None,
        size: int = 1024,
        bounds: Mapping[str, int] | None = None,
        constant_losses: Sequence[float] = (),
        teacher: tuple[nn.Module, nn.Module] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        for name, value, least in (("every", every, 1), ("size", size, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} is {value!r}; it must be a whole number of at least {least}")
        self.outputs = layers if isinstance(layers, LayerOutputs) else LayerOutputs(layers, forward)
        names = list(self.outputs.parts)
        for name in bounds or {}:
            if name not in names:
                raise unknown("layer in bounds", name, names)
        self.bounds = {name: (bounds or {}).get(name, self.outputs.bound(name)) for name in names}
        self.every, self.constant_losses = every, tuple(constant_losses)
        self.networks: TeacherNetworks | None = None if teacher is None else ([teacher[1]], [teacher[0]])
        self.moves = None if self.networks is None else TeacherMoves.since(*self.networks)
        self.measured = tuple(dict.fromkeys((*MEASURED, *metrics_of(kinds))))
        self.untrained: dict[str, dict[str, float]] = {}
        self.prototypes: dict[str, Tensor] = {}
        self.history: list[Record] = []
        self._folder: Any = None
        if out is not None:
            from ssltool.runs.monitor_folder import MonitorFolder

            self._folder = MonitorFolder(Path(out), names)
            self.history = self._folder.records
        self.probe = images if isinstance(images, Probe) else KeptImages.of(images, labels, size)
        Limit(kinds=tuple(kinds)).require(self.needs(), "kind", NEEDED_BY_MONITOR)
        self._last: int | None = None
        self._said: set[str] = set()
        self._started: float | None = None
        self._spent = 0.0

    def step(self, step: int, loss: Tensor | float | None = None) -> Check | None:
        """Looks if ``every`` divides ``step`` and this step was not looked at before; otherwise returns None.

        ``loss`` is the loss of the step or a mean; it is only read in a look.
        """
        if step % self.every or step == self._last:
            return None
        start = time.perf_counter()
        check = self.look(step, loss)
        check.warnings.extend(self._slow(start, check.seconds))
        return check

    def look(self, step: int, loss: Tensor | float | None = None) -> Check:
        """Embeds the images and measures each layer.

        Raises:
            SSLToolError: for outputs that are not rows, or a folder that cannot be written.
        """
        start = time.perf_counter()
        layers, spectra = self._measured(step)
        loss = None if loss is None else self._mean(_number(loss))
        numbers = self._numbers(loss)
        verdicts = [of.verdict for of in layers.values()]
        worst = None if None in verdicts else worst_layer(layers)
        name, verdict = worst or (None, None)
        whole = shown(numbers) if step != 0 else []
        if verdict is not None:
            verdict = verdict.with_kinds(whole)
        record: Record = {"step": step} | ({} if loss is None else {"loss": loss})
        record |= {f"{name}_{key}": value for name, of in layers.items() for key, value in of.values.items()} | numbers
        found = [kind for of in verdicts if of is not None for kind in of.kinds]
        found += [] if verdict is None else verdict.kinds
        phase = next((p.name for p in reversed(phases_of_records([*self.history, record], next(iter(layers))))), "")
        causes = functools.partial(self.probable_cause, loss)
        warnings = alarms(layers, self.history, causes, untrained=step == 0, phase=phase)
        warnings += kind_alarms(whole, self.history)
        warnings += self._once(self.outputs.said.values())
        seconds = time.perf_counter() - start
        record |= {"verdict": verdict and verdict.state, "kinds": _names(found), "monitor_seconds": round(seconds, 3)}
        record = finite(record)
        values = {name: of.values for name, of in layers.items()}
        widths = {name: of.width for name, of in layers.items()}
        warnings += self._keep(record, spectra, widths)
        return Check(step, verdict, name, values, seconds, warnings, record, spectra)

    def needs(self) -> set[str]:
        """What it has of what kinds of collapse need, keys of ``kinds.NEEDS``."""
        labels = self.probe.labels[self.probe.labels >= 0].unique()
        given = {"labels": len(labels) > 1, "networks": self.moves is not None}
        given["loss"] = bool(uniform_losses(self.constant_losses))
        return {"rows", "reference", *(name for name, present in given.items() if present)}

    def probable_cause(self, loss: float | None, dead: list[str]) -> str:
        """The probable causes of a collapse, from the loss and the clauses on dead dimensions; a subclass may know
        more."""
        known = [] if loss is None else constant_output_causes(loss, self.constant_losses)
        return "; ".join([*known, *dead]) or UNKNOWN_CAUSE.format("a lower learning rate")

    def embed(self) -> dict[str, Tensor]:
        """The outputs (N, d) of each layer for all images, float32, identical on all ranks."""
        like, device = self.outputs.first_parameter(), self._device
        parts: dict[str, list[Tensor]] = {name: [] for name in self.outputs.parts}
        with self._together(device), isolated(self.outputs.modules, device):
            for batch in self.probe.batches(like):
                for name, rows in self.outputs(batch).items():
                    parts[name].append(rows)
        return {name: self.probe.gathered(torch.cat(rows)) for name, rows in parts.items()}

    def _numbers(self, loss: float | None) -> dict[str, float]:
        """The numbers of the kinds that the weights and the loss show."""
        moves = {} if self.moves is None or self.networks is None else self.moves.numbers(*self.networks)
        return moves | uniform_numbers(loss, self.constant_losses, self.history)

    def metrics(self) -> tuple[dict[str, dict[str, float]], dict[str, Tensor], dict[str, torch.Size]]:
        """The metrics of each layer, the singular values of those whose output is finite, and the shapes (N, d)."""
        rows = self.embed()
        found = {
            name: measured_layer(x, self.bounds[name], self.measured, self.probe.labels) for name, x in rows.items()
        }
        values = {name: of for name, (of, _) in found.items()}
        first = next(iter(rows))
        values[first] |= knn_accuracy(rows[first], self.probe.labels)
        for name, prototypes in self.prototypes.items():
            values[name] |= prototype_usage(rows[name], prototypes)
        values = _agreed(values, rows[first].device)
        spectra = {name: s for name, (_, s) in found.items() if s is not None}
        return values, spectra, {name: x.shape for name, x in rows.items()}

    def _measured(self, step: int) -> tuple[dict[str, Measurement], dict[str, Tensor]]:
        values, spectra, shapes = self.metrics()
        layers = {name: self._judged(name, of, shapes[name], step) for name, of in values.items()}
        return layers, spectra

    def _judged(self, name: str, of: dict[str, float], shape: torch.Size, step: int) -> Measurement:
        n, d = shape
        if not all(math.isfinite(of[needed]) for needed in NEEDED):
            return Measurement(of, d, None)
        of |= ratios(of, self._untrained(name)) if step != 0 else {}
        return Measurement(of, d, judge_look(name, of, n=n, d=d, bound=self.bounds[name], untrained=step == 0))

    def _untrained(self, layer: str) -> Mapping[str, float]:
        """The metrics of a layer of the untrained network, of the look at step 0 if there was one."""
        if layer not in self.untrained and self.history and self.history[0].get("step") == 0:
            first, start = self.history[0], f"{layer}_"
            known = {key.removeprefix(start): value for key, value in first.items() if key.startswith(start)}
            self.untrained[layer] = {key: value for key, value in known.items() if value is not None}
        return self.untrained.get(layer, {})

    def _together(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """An error on one rank is raised on all."""
        group = process_group()
        return contextlib.nullcontext() if group is None else group.raise_on_all_ranks(device)

    def _mean(self, loss: float) -> float:
        """The mean of the ranks' losses."""
        group = process_group()
        return loss if group is None else float(group.gather(torch.tensor([loss], device=self._device)).double().mean())

    @property
    def _device(self) -> torch.device:
        like = self.outputs.first_parameter()
        return torch.device("cpu") if like is None else like.device

    def _keep(self, record: Record, spectra: dict[str, Tensor], widths: dict[str, int]) -> list[str]:
        """Remembers a look, and writes it to the folder on rank 0; returns what is to be said of the folder."""
        self._last = record["step"]
        if self._folder is None:
            self.history.append(record)
            return []
        self._folder.remember(record)
        group, said = process_group(), []
        with self._together(self._device):
            if group is None or group.group_shard().rank == 0:
                settings = {
                    "layers": list(widths),
                    "widths": widths,
                    "bounds": self.bounds,
                    "every": self.every,
                    "n_images": len(self.probe.labels),
                    "fingerprint": self.probe.fingerprint,
                    "constant_losses": list(self.constant_losses),
                }
                said = self._folder.add(record, spectra, settings)
        return said

    def _once(self, lines: Iterable[str]) -> list[str]:
        new = [line for line in lines if line not in self._said]
        self._said.update(new)
        return new

    def _slow(self, now: float, seconds: float) -> list[str]:
        """Suggests cheaper settings, once, if the looks take much of the time of the training. The first look, which
        may be slower, does not count."""
        if self._started is None:
            self._started = now + seconds
            return []
        spent, trained = self._spent, now - self._started - self._spent
        self._spent += seconds
        said = [] if "slow" in self._said else cheaper(spent / max(trained, 1e-9), self.every, ("every=", ""))
        self._said.update(["slow"] if said else [])
        return said


def _number(loss: Tensor | float) -> float:
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise UsageError(f"loss is a tensor {tuple(loss.shape)}; give one number, such as loss.mean()")
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _names(found: Iterable[Shown]) -> str:
    return ", ".join(dict.fromkeys(kind.kind for kind in sorted(found, key=Shown.order)))


def _agreed(values: dict[str, dict[str, float]], device: torch.device) -> dict[str, dict[str, float]]:
    """The ``values`` of rank 0, so that all ranks take the same decisions."""
    group = process_group()
    if group is None:
        return values
    flat = torch.tensor([value for of in values.values() for value in of.values()], dtype=torch.float64, device=device)
    numbers = iter(group.broadcast(flat).tolist())
    return {name: {key: type(value)(next(numbers)) for key, value in of.items()} for name, of in values.items()}
