"""The probe by mini-batch SGD: one rate, or several at once, saved after every epoch, and when a signal asks."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssltool import seeds
from ssltool.checkpoints.probe import Probe
from ssltool.config import LinclsConfig, as_dict, fixed_settings
from ssltool.errors import Interrupted, SSLToolError
from ssltool.reprs.group import ONE_NETWORK
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.runs.resume import differences
from ssltool.settings import flag
from ssltool.stages.lincls.features import Source
from ssltool.stages.lincls.linear_heads import Heads, Linear, score
from ssltool.stages.lincls.selection import best, note_edge, rates
from ssltool.training.classification import linear_classifier
from ssltool.training.progress import Progress
from ssltool.training.schedule import learning_rates, scaled_lr
from ssltool.training.signals import StopRequest

FOUND_OUT = {"identity": "the hash of the training rows", **{name: name.replace("_", " ") for name in ONE_NETWORK}}
"""What a probe's settings hold beside flags and must share with a run that goes on from it."""

MANY = 100_000
"""From so many training images on, batches are SimSiam's 4096 by default, below it 256."""

LINES = 20
"""Lines of progress of a quick source where there is no terminal."""

STEPS_A_LINE = 50
"""Steps between lines of progress of a slow source."""


class Training:
    """One invocation: the classifiers, where they stand, and where they are written."""

    def __init__(self, source: Source, folder: RunFolder, device: torch.device, path: Path | None) -> None:
        c = source.config
        self.source, self.folder, self.config = source, folder, c
        self.rates = rates(c)
        self.n = source.sizes["train_size"]
        self.batch_size = c.batch_size or (4096 if self.n >= MANY else 256)
        self.steps = -(-self.n // self.batch_size)
        self.optimizer = "larc" if c.lars else c.optimizer or "sgd"
        self.saved = as_dict(c) | {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "origin": source.origin,
            "identity": source.identity,
        }
        start = linear_classifier(source.width, len(source.classes), seeds.generator(c.seed))
        options = {"momentum": c.momentum, "weight_decay": c.weight_decay}
        self.heads = Heads(start, len(self.rates), self.optimizer, device=device, **options)
        self.epoch = self.step = self.chosen = 0
        self.history: list[dict[str, Any]] = []
        if path is not None:
            self._restore(Probe.load(path), path)
        folder.claim(self.saved, self.history, resumed_from=path)

    def run(self) -> dict[str, Any]:
        """Trains to the last epoch and returns the result, which the probe then holds.

        Raises:
            SSLToolError: if a loss is not finite, or the features changed.
            Interrupted: after a signal, with the state saved.
        """
        total = self.config.epochs * self.steps
        done = self.epoch * self.steps + self.step
        every = STEPS_A_LINE if self.source.slow else -(-total // LINES)
        progress = Progress("probe", total, done=done, every=every)
        with StopRequest() as stop, contextlib.closing(progress):
            while self.epoch < self.config.epochs:
                self._train_epoch(progress, stop)
                self._finish_epoch()
                if self.epoch < self.config.epochs:
                    self._give_way(stop)
        return self._finish()

    def _train_epoch(self, progress: Progress, stop: StopRequest) -> None:
        self.heads.set_rates(self._rates_now())
        for x, y in self.source.train(self.epoch, self.batch_size, self.step):
            self.heads.learn(x, y)
            self.step += 1
            progress.update(len(x), f"epoch {self.epoch + 1}")
            if self.step < self.steps and stop.number:
                self._save(self.history[-1] if self.history else {})
                self._give_way(stop)

    def _give_way(self, stop: StopRequest) -> None:
        if stop.number:
            raise Interrupted(stop.number, str(self.folder.path / PROBE))

    def _rates_now(self) -> list[float]:
        epochs = self.config.epochs
        return [learning_rates(self.epoch, epochs=epochs, lr=scaled_lr(r, self.batch_size))[0] for r in self.rates]

    def _finish_epoch(self) -> None:
        tried = self._tried()
        if self.config.chooses:
            self.chosen = best(self.rates, [one["held_acc1"] for one in tried])
        mine, rate = tried[self.chosen], self._rates_now()[self.chosen]
        (accuracies,) = score(self.source.val(), [self._linear()[self.chosen]], self.source.counted)
        self.source.check()
        record: dict[str, Any] = {"epoch": self.epoch} | mine | {"lr": rate} | accuracies
        if self.config.chooses:
            record |= {"base_lr": mine["lr"], "tried": tried}
        self.history.append(record)
        self.folder.log(record)
        self.epoch, self.step = self.epoch + 1, 0
        self._save(record)

    def _tried(self) -> list[dict[str, Any]]:
        """What each rate came to in this epoch, and on the held-out rows if there are any; None where it diverged."""
        losses, hits = self.heads.finish_epoch(self.n)
        weights = [weight for weight, _ in self.heads.classifiers()]
        finite = [math.isfinite(loss) and bool(w.isfinite().all()) for loss, w in zip(losses, weights, strict=True)]
        if not any(finite):
            given = f"--lr (it is {self.rates[0]:g})" if len(self.rates) == 1 else "--lr-sweep"
            raise SSLToolError(f"the probe's loss is not finite in epoch {self.epoch}; lower {given}")
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
        return [self.source.of_features(one) for one in self.heads.classifiers()]

    def _finish(self) -> dict[str, Any]:
        c, last = self.config, self.history[-1]
        kept = ("acc1", "acc5", "class_acc1", "loss", "held_acc1", "tried")
        result = {name: last[name] for name in kept if name in last} | {
            "epochs": c.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.rates[self.chosen],
        }
        if c.chooses:
            note_edge("--lr-sweep", self.rates, self.chosen)
        result |= self.source.facts() | self.source.check() | {"run": str(self.folder.path)} | self.source.origin
        self._save(result)
        return result

    def _save(self, metrics: dict[str, Any]) -> None:
        weight, bias = (tensor.cpu() for tensor in self._linear()[self.chosen])
        state = self.heads.state() | {
            "epoch": self.epoch,
            "step": self.step,
            "chosen": self.chosen,
            "history": self.history,
        }
        labels = torch.from_numpy(self.source.classes)
        Probe(weight, bias, self.saved, metrics, labels, state).save(self.folder.path / PROBE)

    def _restore(self, probe: Probe, path: Path) -> None:
        names = [*fixed_settings(LinclsConfig), *FOUND_OUT]
        old, new = ({**saved, **saved.get("origin", {})} for saved in (probe.config, self.saved))
        found = differences(names, old, new, lambda name: FOUND_OUT.get(name) or flag(name))
        if found:
            raise SSLToolError(f"cannot resume {path}: {'; '.join(found)}. Give the probe's own values")
        if not probe.state:
            raise SSLToolError(f"cannot resume {path}: it holds no state to go on from; train it again")
        self.heads.restore(probe.state)
        self.epoch, self.step, self.chosen = (int(probe.state[key]) for key in ("epoch", "step", "chosen"))
        self.history = list(probe.state["history"])
