"""The pretraining stage: images in, a run folder of checkpoints and metrics out.

One loop for every method, strategy and device. A step is a function of (seed, epoch, step) and the state in the
checkpoint, so a run that was stopped after any step goes on to the same bits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssltool import seeds
from ssltool.config import PretrainConfig
from ssltool.data.images import open_dataset
from ssltool.data.loader import Batch, Loader, Shard
from ssltool.diagnosis.metrics import feature_std_tensor
from ssltool.diagnosis.monitor import Monitor, MonitorResult, has_collapsed, summary
from ssltool.errors import Collapsed, Interrupted, SSLToolError
from ssltool.methods.base import EpochImages, Now, Output
from ssltool.runs.resume import find_start
from ssltool.stages.pretrain.prepare import prepare
from ssltool.training import distributed
from ssltool.training.device import autocast, pick_device, worker_count
from ssltool.training.loggers import Logger, check_loggers, open_loggers
from ssltool.training.optimizers import build_optimizer
from ssltool.training.progress import Progress
from ssltool.training.schedule import Rates, rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest
from ssltool.training.state import FLUSH_EVERY, TrainState


def run(config: PretrainConfig) -> Path:
    """Trains, and returns the run folder.

    Raises:
        SSLToolError: for anything the user can mend; nothing is half-written.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1, with the state saved.
        Collapsed: if the run collapsed as far as ``stop_on`` says, with the state saved.
    """
    if config.dist_backend != "auto" and not distributed.under_torchrun():
        raise SSLToolError(f"--dist-backend {config.dist_backend} does nothing without torchrun; leave it out")
    device = pick_device(config, local_rank=distributed.local_rank())
    try:
        with distributed.process_group(device, config.dist_backend) as shard:
            training = _Run(config, device, shard)
            folder = training.train()
    except torch.OutOfMemoryError as error:
        raise SSLToolError(f"out of memory on {device}; lower --batch-size, or try --precision bf16") from error
    if training.collapsed:
        raise Collapsed(folder)
    return folder


@dataclass
class _Epoch:
    """What one epoch's record is made from besides the sums in the state."""

    seconds: float = 0.0
    waiting: float = 0.0
    images: int = 0


class _Run:
    """One invocation: the setup, where it stands, and where it writes."""

    def __init__(self, config: PretrainConfig, device: torch.device, shard: Shard) -> None:
        with distributed.raise_on_all_ranks():
            if config.download and distributed.is_main():
                open_dataset(config, "train")
        with distributed.raise_on_all_ranks():
            self.setup = prepare(dataclasses.replace(config, download=False))
            self.config = self.setup.config
            if self.setup.batch_size % shard.world:
                raise SSLToolError(f"--batch-size {self.setup.batch_size} does not divide among {shard.world} ranks")
            if self.setup.support is not None and self.setup.support.batch_size % shard.world:
                raise SSLToolError(
                    f"{self.setup.support.batch_size} labelled images a step do not divide among {shard.world} ranks; "
                    "change --set support_per_class"
                )
            self.saved = self.setup.saved_config()
            start = find_start(config, self.saved)
            check_loggers(config)
        self.folder = start.folder
        self.device, self.shard = device, shard
        self.monitor: Monitor | None = None
        self.collapsed = False
        self.state = _build_state(self.setup, device)
        if start.checkpoint is not None:
            self.state.restore(start.checkpoint)
            distributed.rank_zero_info(f"resuming {start.path} after epoch {self.state.epoch}, step {self.state.step}")
            _restart_at(self.state, config.start_epoch, self.setup.steps)
        elif config.resume:
            distributed.rank_zero_info(f"no checkpoint in {self.folder.path} yet: starting from scratch")
        workers = worker_count(config.workers)
        self.loader = Loader(self.setup.images, self.setup.image_size, device, workers)
        self.support: Loader | None = None
        if self.setup.support is not None:
            self.support = Loader(self.setup.support.images, self.setup.image_size, device, workers)
        self.loggers: list[Logger] = []
        with distributed.raise_on_all_ranks():
            if distributed.is_main():
                self.folder.claim(self.saved, self.state.history, resumed_from=start.path)
                if self.config.strategy != "iid":
                    self.folder.save_order(self.setup.order)
                self.loggers = [self.folder.log, *open_loggers(self.config, self.folder.path)]

    def train(self) -> Path:
        c, state = self.config, self.state
        distributed.rank_zero_info(self.setup.images.describe())
        if self.setup.images.name == "bundled":
            distributed.rank_zero_info("no DATA was given, so this runs on the images that come with ssltool")
        distributed.rank_zero_info(
            f"{c.method} {c.arch} (stem {c.stem}, {c.image_size} px), {c.strategy}, {c.epochs} epochs of "
            f"{self.setup.steps} steps of {c.batch_size}, {c.precision} on {self.device} x {self.shard.world}; "
            f"writing {self.folder.path}"
        )
        for warning in self.setup.warnings(state.method):
            distributed.rank_zero_info(f"warning: {warning}")
        if c.monitor_every and state.epoch < self.setup.epochs:
            with distributed.raise_on_all_ranks():
                self.monitor = Monitor(self.setup, self.device, self.shard)
        with StopRequest() as stop, contextlib.closing(self.loader), contextlib.closing(self.support or self.loader):
            while state.epoch < self.setup.epochs and not self.collapsed:
                epoch = self._train_epoch(stop)
                record, warnings = self._finish_epoch(epoch)
                with distributed.raise_on_all_ranks():
                    for log in self.loggers:
                        log(record)
                distributed.rank_zero_info(_summary(record, self.setup.epochs))
                for warning in warnings:
                    distributed.rank_zero_info(f"warning: epoch {record['epoch'] + 1}: {warning}")
                number = distributed.all_reduce_max(stop.number)
                if number and state.epoch < self.setup.epochs:
                    raise Interrupted(number, str(self.folder.newest))
                if self.collapsed:
                    why = f"{record['verdict']} collapse, and --stop-on {c.stop_on}"
                    distributed.rank_zero_info(f"stopped after epoch {state.epoch}: {why}; saved {self.folder.newest}")
        return self.folder.path

    def _train_epoch(self, stop: StopRequest) -> _Epoch:
        c, state = self.config, self.state
        epoch = _Epoch()
        progress = Progress(
            f"epoch {state.epoch + 1}/{self.setup.epochs}",
            self.setup.steps,
            done=state.epoch_step,
            every=c.print_freq,
            visible=distributed.is_main(),
        )
        state.model.train()
        self._start_epoch()
        with contextlib.closing(progress):
            for batch in self._timed(self._batches(), epoch):
                self._step(batch)
                epoch.images += self.setup.batch_size
                if state.epoch_step % FLUSH_EVERY == 0:
                    state.flush()
                progress.update(self.setup.batch_size, f"loss {state.latest:.4f}" if state.latest is not None else "")
                self._save_within_epoch(distributed.all_reduce_max(stop.number))
        return epoch

    def _start_epoch(self) -> None:
        """Tells the method; not again where a run goes on within an epoch, because its state knows."""
        c, state = self.config, self.state
        state.method.now = Now(state.epoch, state.step)
        if state.epoch_step:
            return
        torch.manual_seed(seeds.derive(c.seed, state.epoch, seeds.Stream.EPOCH_START))
        rows = torch.from_numpy(np.unique(self.setup.subset(state.epoch))).to(self.device)
        with autocast(self.device, c.precision):
            state.method.start_epoch(EpochImages(rows, self._views_of))

    def _views_of(self, rows: torch.Tensor) -> Iterator[Batch]:
        """This rank's share of views of any rows, outside the steps; the last batch is filled up from the beginning."""
        wanted, world = rows.cpu().numpy(), self.shard.world
        size = min(self.setup.batch_size, -(-len(wanted) // world) * world)
        filled = np.resize(wanted, -(-len(wanted) // size) * size)
        recipes = self.state.method.view_recipes(self.setup.recipe)
        seed, epoch = seeds.derive(self.config.seed, seeds.Stream.EPOCH_START), self.state.epoch
        batches = self.loader.train(filled, recipes, batch_size=size, seed=seed, epoch=epoch, shard=self.shard)
        while True:
            with torch.autocast(self.device.type, enabled=False):  # whoever asks may be under it; views never are
                batch = next(batches, None)
            if batch is None:
                return
            yield self._shown(batch)

    def _shown(self, batch: Batch) -> Batch:
        """What the method may see of a batch, laid out as the settings say."""
        if not self.state.method.uses_labels:
            batch.labels = torch.full_like(batch.labels, -1)
        return batch.channels_last() if self.config.channels_last else batch

    def _batches(self) -> Iterator[Batch]:
        state, setup = self.state, self.setup
        here: dict[str, Any] = {"epoch": state.epoch, "first_step": state.epoch_step, "shard": self.shard}
        recipes = state.method.view_recipes(setup.recipe)
        seed = self.config.seed
        batches = self.loader.train(setup.indices(state.epoch), recipes, batch_size=setup.batch_size, seed=seed, **here)
        if self.support is None or setup.support is None:
            yield from batches
            return
        labelled = self.support.train(
            setup.support.indices(state.epoch, setup.steps),
            [setup.recipe],
            batch_size=setup.support.batch_size,
            seed=seeds.derive(seed, seeds.Stream.SUPPORT_VIEWS),
            **here,
        )
        for batch, support in zip(batches, labelled, strict=True):
            batch.support = support
            yield batch

    def _timed(self, batches: Iterator[Batch], epoch: _Epoch) -> Iterator[Batch]:
        start = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                with distributed.raise_on_all_ranks():
                    batch = next(batches, None)
            except SSLToolError:  # an image that cannot be read: keep what has been learnt
                if self.state.epoch_step:
                    self._save(None)
                raise
            epoch.waiting += time.perf_counter() - asked
            if batch is None:
                break
            yield batch
        epoch.seconds = time.perf_counter() - start

    def _step(self, batch: Batch) -> None:
        c, state = self.config, self.state
        torch.manual_seed(seeds.derive(c.seed, state.epoch, state.epoch_step, seeds.Stream.MODEL, self.shard.rank))
        state.method.now = Now(state.epoch, state.step)
        self._set_rates()
        with autocast(self.device, c.precision):
            output: Output = state.model(self._shown(batch))
        state.learn(output.loss)
        state.note(output.loss, feature_std_tensor(output.projection))

    def _set_rates(self) -> None:
        state = self.state
        rates = self._rates()
        frozen = state.epoch > 0 and state.epoch_step < self.config.n_warmup_steps
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0 if frozen and group["is_encoder"] else rates.fixed if group["fixed_lr"] else rates.lr
            group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0

    def _rates(self) -> Rates:
        return rates_at(self.config, self.state.epoch, self.state.epoch_step / self.setup.steps)

    def _save_within_epoch(self, stop: int) -> None:
        state, every = self.state, self.config.save_steps
        if state.epoch_step == self.setup.steps:
            return  # the end of the epoch saves anyway
        if stop or (every and state.step % every == 0):
            self._save(None)
        if stop:
            raise Interrupted(stop, str(self.folder.newest))

    def _finish_epoch(self, epoch: _Epoch) -> tuple[dict[str, Any], list[str]]:
        """Ends the epoch and saves it; its record, and what is wrong, a sentence each."""
        c, state = self.config, self.state
        rates = rates_at(c, state.epoch)
        record: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "strategy": c.strategy}
        record |= {**state.finish_epoch(), "lr": rates.lr, "fixed_lr": rates.fixed}
        found = MonitorResult()
        if self.monitor is not None:
            whole = (
                epoch.seconds * self.setup.steps * self.setup.batch_size / epoch.images
            )  # it may have begun elsewhere
            found = self.monitor.check(state.method, record, state.history, whole)
        record |= found.values
        self.collapsed = has_collapsed(record, c.stop_on)
        state.history.append(record)
        timing = {
            "images_per_second": round(epoch.images / epoch.seconds, 1),
            "data_wait": round(epoch.waiting / epoch.seconds, 4),
            "seconds": round(epoch.seconds, 2),
        }
        keep = state.epoch % c.save_every == 0 or state.epoch == self.setup.epochs or self.collapsed
        self._save(state.epoch - 1 if keep else None)
        said = [state.method.diagnose(record["loss"]), *found.warnings]
        return record | timing | found.timing, [warning for warning in said if warning]

    def _save(self, keep_epoch: int | None) -> None:
        self.state.flush()
        with distributed.raise_on_all_ranks():
            if distributed.is_main():
                self.folder.save(self.state.checkpoint(self.saved), keep_epoch=keep_epoch)


def _build_state(setup: TrainingSetup, device: torch.device) -> TrainState:
    c = setup.config
    method = setup.build_method()
    if c.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.to(device)
    optimizer = build_optimizer(method.param_groups(), c)
    model = distributed.wrap_ddp(method, device)
    if c.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    torch.backends.cudnn.benchmark = device.type == "cuda"  # shapes are fixed, so the fastest kernels are worth finding
    scaler = torch.amp.GradScaler(device.type, enabled=c.precision == "fp16")
    return TrainState(method, model, optimizer, scaler)


def _restart_at(state: TrainState, epoch: int | None, steps: int) -> None:
    """``--start-epoch``: counts from ``epoch`` instead of where the checkpoint stopped."""
    if epoch is not None:
        state.epoch, state.step, state.epoch_step = epoch, epoch * steps, 0
        state.sums = dict.fromkeys(state.sums, 0.0)
        state.history = [record for record in state.history if record["epoch"] < epoch]


def _summary(record: dict[str, Any], epochs: int) -> str:
    return (
        f"epoch {record['epoch'] + 1}/{epochs}: loss {record['loss']:.4f}, feature_std {record['feature_std']:.3f}, "
        f"lr {record['lr']:.4g}, {record['images_per_second']:,.0f} images/s, {record['data_wait']:.1%} data wait"
        f"{summary(record)}"
    )
