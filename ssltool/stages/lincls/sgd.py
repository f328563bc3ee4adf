"""Training of the probe by mini-batch SGD, at one or several learning rates at once."""

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
from ssltool.checkpoints.saved_run import EARLIER
from ssltool.config import LinclsConfig, as_dict, fixed_settings
from ssltool.data import preprocessing as transforms
from ssltool.errors import SSLToolError
from ssltool.files.schema import ANYTHING, conform, integer, listing, mapping, tensor
from ssltool.reprs.representation_set import NETWORK_TITLES
from ssltool.runs.folder import PROBE, RunFolder
from ssltool.runs.resume import check_images, differences
from ssltool.settings import Record, defaults_of, flag
from ssltool.stages.lincls.features import FeatureSource
from ssltool.stages.lincls.linear_heads import Batches, Heads, Linear, is_finite, score
from ssltool.stages.lincls.selection import best, rates, warn_at_boundary
from ssltool.training import distributed
from ssltool.training.classification import linear_classifier
from ssltool.training.loop import TrainingLoop
from ssltool.training.progress import Progress
from ssltool.training.restore import OTHER
from ssltool.training.schedule import learning_rates, scaled_lr
from ssltool.training.signals import StopRequest
from ssltool.training.state import LoopState

FIXED_KEYS = {"identity": "the hash of the training rows", **NETWORK_TITLES}
"""What must stay the same when a probe is resumed, beside settings with flags, and how messages name it."""

CONTENTS = {"train_contents": "the hash of the file to train on", "val_contents": "the hash of the file to evaluate on"}
"""The same of the files of ``--reprs``."""

LARGE = 100_000
"""Number of training images from which the default batch size is SimSiam's 4096; below, it is 256."""

PROGRESS_LINES = 20
"""Progress lines of a fast source without a terminal."""

STEPS_PER_LINE = 50
"""Steps between two progress lines of a slow source."""


@dataclass
class ProbeState(LoopState):
    """The training state of a probe: the classifiers, and the index of the best one so far."""

    heads: Heads
    chosen: int = 0

    def status(self) -> str:
        """The epoch: one progress display covers all of them."""
        return f"epoch {self.epoch + 1}"


class ProbeLoop(TrainingLoop[ProbeState, tuple[Tensor, Tensor]]):
    """Trains a probe on the features of ``source``; continues the probe in the file ``resumed_from`` if given."""

    def __init__(
        self, source: FeatureSource, folder: RunFolder, device: torch.device, resumed_from: Path | None
    ) -> None:
        c = source.config
        self.source, self.folder, self.config = source, folder, c
        self.rates = rates(c)
        self.train_size = source.sizes["train_size"]
        self.batch_size = c.batch_size or (4096 if self.train_size >= LARGE else 256)
        self.rows_in_batch = self.batch_size  # of all ranks
        self.optimizer = c.optimizer_name
        self.saved = as_dict(c) | {
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "origin": source.origin,
            "identity": source.identity,
            **source.contents,
        }
        if source.training_images is not None:
            self.saved["fingerprint"] = source.training_images.fingerprint
        if source.val_images is not None:
            self.saved["val_fingerprint"] = source.val_images.fingerprint
        start = linear_classifier(source.width, len(source.classes), seeds.generator(c.seed))
        options = {"momentum": c.momentum, "weight_decay": c.weight_decay}
        state = ProbeState(Heads(start, len(self.rates), self.optimizer, device=device, **options))
        steps = -(-self.train_size // self.batch_size)
        super().__init__(state, folder.path / PROBE, epochs=c.epochs, steps=steps)
        with distributed.raise_on_all_ranks():
            if resumed_from is not None:
                self._restore(Probe.load(resumed_from), resumed_from)
        folder.claim(self.saved, state.history, resumed_from=resumed_from)
        if source.training_images is not None:
            folder.save_images(source.training_images, source.val_images)
        total, done = c.epochs * steps, state.epoch * steps + state.epoch_step
        every = STEPS_PER_LINE if source.slow else -(-total // PROGRESS_LINES)
        self.display = Progress("probe", total, done=done, every=every, visible=distributed.is_main())

    def train(self) -> Record:
        """Trains to the last epoch and returns the result, which is also saved in the probe.

        Raises:
            SSLToolError: if a loss is not finite, or the features changed.
            Interrupted: after a signal; the state is saved.
        """
        with StopRequest() as stop, contextlib.closing(self.display):
            self.run(stop, self.folder.log)
        return self._finish()

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """One display for all epochs."""
        yield self.display

    def start_epoch(self) -> None:
        self.state.heads.set_rates(self._rates_now())

    def batches(self, epoch: int, first_step: int) -> Batches:
        return self.source.train(epoch, self.batch_size, first_step)

    def images_in(self, batch: tuple[Tensor, Tensor]) -> int:
        return self.rows_in_batch

    def step(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        self.rows_in_batch = min(self.batch_size, self.train_size - self.state.epoch_step * self.batch_size)
        self.state.heads.update(*batch, self.rows_in_batch)
        return ()  # ``heads`` sums the losses

    def _rates_now(self) -> list[float]:
        epoch, epochs = self.state.epoch, self.epochs
        return [learning_rates(epoch, epochs=epochs, lr=scaled_lr(rate, self.batch_size))[0] for rate in self.rates]

    def finish_epoch(self) -> Record:
        state = self.state
        candidates = self._candidates()
        if self.config.chooses:
            state.chosen = best(self.rates, [record["held_acc1"] for record in candidates])
        chosen, rate = candidates[state.chosen], self._rates_now()[state.chosen]
        (accuracies,) = score(self.source.val(), [self._classifiers()[state.chosen]], self.source.total_classes)
        if accuracies is None:
            raise self._diverged("scores of val rows are")
        with distributed.raise_on_all_ranks():
            self.source.check()
        record: Record = {"epoch": state.epoch} | chosen | {"lr": rate} | accuracies
        if self.config.chooses:
            record |= {"base_lr": chosen["lr"], "tried": candidates}
        state.finish_epoch()
        return record

    def _candidates(self) -> list[Record]:
        """The results of each learning rate in this epoch, None if it diverged; with held-out rows, also on these."""
        losses, accuracies = self.state.heads.finish_epoch(self.train_size)
        classifiers = self._classifiers()
        finite = [math.isfinite(loss) and is_finite(one) for loss, one in zip(losses, classifiers, strict=True)]
        columns: dict[str, Sequence[float | None]] = {"lr": self.rates, "loss": losses, "train_acc1": accuracies}
        if self.config.chooses:
            held_out = score(self.source.held_out(), classifiers, self.source.total_classes)
            columns["held_acc1"] = [None if result is None else result["acc1"] for result in held_out]
            finite = [good and result is not None for good, result in zip(finite, held_out, strict=True)]
        if not any(finite):
            raise self._diverged("loss is")
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [
            row if good else {name: value if name == "lr" else None for name, value in row.items()}
            for row, good in zip(rows, finite, strict=True)
        ]

    def _diverged(self, what: str) -> SSLToolError:
        given = f"--lr (it is {self.rates[0]:g})" if len(self.rates) == 1 else "--lr-sweep"
        return SSLToolError(f"the probe's {what} not finite in epoch {self.state.epoch + 1}; lower {given}")

    def _classifiers(self) -> list[Linear]:
        return [self.source.for_raw_features(classifier) for classifier in self.state.heads.classifiers()]

    def _finish(self) -> Record:
        """Returns the result and saves it in the probe."""
        c, state, last = self.config, self.state, self.state.history[-1]
        names = ("acc1", "acc5", "class_acc1", "loss", "held_acc1", "tried")
        result = {name: last[name] for name in names if name in last} | {
            "epochs": c.epochs,
            "batch_size": self.batch_size,
            "optimizer": self.optimizer,
            "lr": self.rates[state.chosen],
        }
        if c.chooses:
            warn_at_boundary("--lr-sweep", self.rates, state.chosen)
        result |= self.source.facts() | self.source.check() | {"run": str(self.folder.path)} | self.source.origin
        self._write(result)
        return result

    def save(self) -> None:
        history = self.state.history
        self._write(history[-1] if history else {})

    def _write(self, metrics: Record) -> None:
        state, classifier = self.state, self._classifiers()[self.state.chosen]
        if not is_finite(classifier):
            raise self._diverged("weights are")
        weight, bias = (tensor.cpu() for tensor in classifier)
        training = state.heads.state() | {
            "epoch": state.epoch,
            "step": state.epoch_step,
            "chosen": state.chosen,
            "history": state.history,
        }
        labels = torch.from_numpy(self.source.classes)
        names = self.source.class_names
        self.folder.write(Probe(weight, bias, self.saved, metrics, labels, training, names), self.path)

    def _restore(self, probe: Probe, path: Path) -> None:
        if self.source.training_images is not None:
            check_images(probe.config, path, self.source.training_images, self.source.val_images)
        names = [*fixed_settings(LinclsConfig), *FIXED_KEYS]
        names += [name for name in CONTENTS if name in probe.config]  # probes of earlier versions lack them
        earlier = defaults_of(LinclsConfig) | ({} if self.source.training_images is None else EARLIER)
        old, new = ({**earlier, **saved, **saved.get("origin", {})} for saved in (probe.config, self.saved))
        differing = differences(names, old, new, lambda name: (FIXED_KEYS | CONTENTS).get(name) or flag(name))
        differing += transforms.differences(old, new) if self.source.training_images is None else []
        if differing:
            raise SSLToolError(f"cannot resume {path}: {'; '.join(differing)}; give the probe's values")
        if not probe.state:
            raise SSLToolError(f"cannot resume {path}: it has no training state; train it again")
        state, count = self.state, len(self.rates)
        saved = {
            "layers": listing(ANYTHING, count),
            "sums": tensor(2, count),
            "chosen": integer(0, count - 1),
            "epoch": integer(0, self.epochs),
            "step": integer(0, self.steps),
            "history": listing(ANYTHING, probe.state.get("epoch")),
            "optimizer": ANYTHING,
        }
        conform({"state": probe.state}, mapping({"state": mapping(saved)}), path, remedy=OTHER)
        state.heads.restore(probe.state, path)
        state.epoch, state.epoch_step, state.chosen = (int(probe.state[key]) for key in ("epoch", "step", "chosen"))
        state.history = list(probe.state["history"])
