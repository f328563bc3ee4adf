"""The probe by mini-batch SGD, at one learning rate or at several at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssltool import seeds
from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig, as_dict, fixed_settings
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.reprs.representation_set import NETWORK_KEYS
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.runs.resume import differences
from ssltool.settings import flag
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.linear_heads import Batches, Heads, Linear, score
from ssltool.stages.lincls.selection import best, note_edge, rates
from ssltool.training.classification import linear_classifier
from ssltool.training.loop import TrainingLoop
from ssltool.training.progress import Progress
from ssltool.training.schedule import learning_rates, scaled_lr
from ssltool.training.signals import StopRequest
from ssltool.training.state import LoopState

DERIVED_SETTINGS = {
    "identity": "the hash of the training rows",
    **{name: name.replace("_", " ") for name in NETWORK_KEYS},
}
"""What a resumed probe must share with its beginning and has no flag, and what errors call it."""

LARGE = 100_000
"""Training images from which the default batch size is SimSiam's 4096; below, it is 256."""

LINES = 20
"""Lines of progress of a quick source where there is no terminal."""

STEPS_A_LINE = 50
"""Steps between lines of progress of a slow source."""


@dataclass
class ProbeState(LoopState):
    """The state of the training of a probe: the classifiers, and the number of the best one so far."""

    heads: Heads
    chosen: int = 0

    def status(self) -> str:
        """The epoch, because one display shows them all."""
        return f"epoch {self.epoch + 1}"


class ProbeLoop(TrainingLoop[ProbeState, tuple[Tensor, Tensor]]):
    """The training of a probe on the features of ``source``, resumed from the probe file ``resumed_from`` if given."""

    def __init__(
        self, source: FeatureSource, folder: RunFolder, device: torch.device, resumed_from: Path | None
    ) -> None:
        c = source.config
        self.source, self.folder, self.config = source, folder, c
        self.rates = rates(c)
        self.train_size = source.sizes["train_size"]
        self.batch_size = c.batch_size or (4096 if self.train_size >= LARGE else 256)
        self.optimizer = c.optimizer_name
        self.saved = as_dict(c) | {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "origin": source.origin,
            "identity": source.identity,
        }
        start = linear_classifier(source.width, len(source.classes), seeds.generator(c.seed))
        options = {"momentum": c.momentum, "weight_decay": c.weight_decay}
        state = ProbeState(Heads(start, len(self.rates), self.optimizer, device=device, **options))
        steps = -(-self.train_size // self.batch_size)
        super().__init__(state, folder.path / PROBE, epochs=c.epochs, steps=steps)
        if resumed_from is not None:
            self._restore(Probe.load(resumed_from), resumed_from)
        folder.claim(self.saved, state.history, resumed_from=resumed_from)
        total, done = c.epochs * steps, state.epoch * steps + state.epoch_step
        self.display = Progress("probe", total, done=done, every=STEPS_A_LINE if source.slow else -(-total // LINES))

    def train(self) -> Record:
        """Trains to the last epoch and returns the result, which the probe then holds.

        Raises:
            SSLToolError: if a loss is not finite, or the features changed.
            Interrupted: after a signal, with the state saved.
        """
        with StopRequest() as stop, contextlib.closing(self.display):
            self.run(stop, self.folder.log)
        return self._finish()

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """One display for all epochs, which are short."""
        yield self.display

    def start_epoch(self) -> None:
        self.state.heads.set_rates(self._rates_now())

    def batches(self, epoch: int, first_step: int) -> Batches:
        return self.source.train(epoch, self.batch_size, first_step)

    def images_in(self, batch: tuple[Tensor, Tensor]) -> int:
        return len(batch[0])

    def step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        self.state.heads.update(*batch)
        return ()  # the heads sum their losses themselves

    def _rates_now(self) -> list[float]:
        epoch, epochs = self.state.epoch, self.epochs
        return [learning_rates(epoch, epochs=epochs, lr=scaled_lr(rate, self.batch_size))[0] for rate in self.rates]

    def finish_epoch(self) -> Record:
        state = self.state
        tried = self._tried()
        if self.config.chooses:
            state.chosen = best(self.rates, [one["held_acc1"] for one in tried])
        chosen, rate = tried[state.chosen], self._rates_now()[state.chosen]
        (accuracies,) = score(self.source.val(), [self._linear()[state.chosen]], self.source.counted)
        self.source.check()
        record: Record = {"epoch": state.epoch} | chosen | {"lr": rate} | accuracies
        if self.config.chooses:
            record |= {"base_lr": chosen["lr"], "tried": tried}
        state.finish_epoch()
        return record

    def _tried(self) -> list[Record]:
        """The results of each rate in this epoch, also on the held-out rows if there are any; None where it
        diverged."""
        heads = self.state.heads
        losses, hits = heads.finish_epoch(self.train_size)
        weights = [weight for weight, _ in heads.classifiers()]
        finite = [math.isfinite(loss) and bool(w.isfinite().all()) for loss, w in zip(losses, weights, strict=True)]
        if not any(finite):
            given = f"--lr (it is {self.rates[0]:g})" if len(self.rates) == 1 else "--lr-sweep"
            raise SSLToolError(f"the probe's loss is not finite in epoch {self.state.epoch + 1}; lower {given}")
        columns: dict[str, Sequence[float]] = {"lr": self.rates, "loss": losses, "train_acc1": hits}
        if self.config.chooses:
            held = score(self.source.held(), self._linear(), self.source.counted)
            columns["held_acc1"] = [one["acc1"] for one in held]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [
            row if good else {name: value if name == "lr" else None for name, value in row.items()}
            for row, good in zip(rows, finite, strict=True)
        ]

    def _linear(self) -> list[Linear]:
        return [self.source.of_features(one) for one in self.state.heads.classifiers()]

    def _finish(self) -> Record:
        """The result, which is also written into the probe."""
        c, state, last = self.config, self.state, self.state.history[-1]
        kept = ("acc1", "acc5", "class_acc1", "loss", "held_acc1", "tried")
        result = {name: last[name] for name in kept if name in last} | {
            "epochs": c.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.rates[state.chosen],
        }
        if c.chooses:
            note_edge("--lr-sweep", self.rates, state.chosen)
        result |= self.source.facts() | self.source.check() | {"run": str(self.folder.path)} | self.source.origin
        self._write(result)
        return result

    def save(self) -> None:
        history = self.state.history
        self._write(history[-1] if history else {})

    def _write(self, metrics: Record) -> None:
        state = self.state
        weight, bias = (tensor.cpu() for tensor in self._linear()[state.chosen])
        training = state.heads.state() | {
            "epoch": state.epoch,
            "step": state.epoch_step,
            "chosen": state.chosen,
            "history": state.history,
        }
        labels = torch.from_numpy(self.source.classes)
        Probe(weight, bias, self.saved, metrics, labels, training).save(self.path)

    def _restore(self, probe: Probe, path: Path) -> None:
        names = [*fixed_settings(LinclsConfig), *DERIVED_SETTINGS]
        old, new = ({**saved, **saved.get("origin", {})} for saved in (probe.config, self.saved))
        found = differences(names, old, new, lambda name: DERIVED_SETTINGS.get(name) or flag(name))
        if found:
            raise SSLToolError(f"cannot resume {path}: {'; '.join(found)}. Give the probe's own values")
        if not probe.state:
            raise SSLToolError(f"cannot resume {path}: it holds no state of its training; train it again")
        state = self.state
        state.heads.restore(probe.state)
        state.epoch, state.epoch_step, state.chosen = (int(probe.state[key]) for key in ("epoch", "step", "chosen"))
        state.history = list(probe.state["history"])
