"""The pretrain stage: trains on images and writes a run folder with checkpoints and metrics.

The same code runs every method, strategy and device; the loop is ``ssltool.training.loop``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool import seeds
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.data.found import announce
from ssltool.data.images import open_dataset
from ssltool.data.loader import Batch, Loader
from ssltool.data.prefetch import ahead
from ssltool.data.shard import Shard
from ssltool.data.workers import WorkerKilled, killed_workers
from ssltool.diagnosis.metrics.of_rows import feature_std_tensor
from ssltool.errors import Collapsed, SSLToolError, UsageError, counted
from ssltool.methods.base import EpochImages, Now
from ssltool.runs.folder import RunFolder
from ssltool.runs.progress_file import ProgressFile
from ssltool.runs.resume import find_start, pretrain_folder, pretrain_name, say_if_views_differ
from ssltool.runs.run_paths import with_number
from ssltool.settings import Record
from ssltool.stages.pretrain.epoch_monitor import EpochMonitor, MonitorResult, check_limit, epoch_line, has_collapsed
from ssltool.stages.pretrain.prepare import prepare
from ssltool.stages.pretrain.run_time import EpochTime, Estimate, epochs_within, seconds_per_step
from ssltool.training import distributed
from ssltool.training.accumulation import micro_batches
from ssltool.training.background import copied
from ssltool.training.data_parallel import wrap_ddp
from ssltool.training.device import autocast, pick_device, require_cuda
from ssltool.training.launch import worker_count
from ssltool.training.loggers import Logger, check_loggers, open_loggers
from ssltool.training.loop import TrainingLoop
from ssltool.training.optimizers import build_optimizer
from ssltool.training.precision import native_precision
from ssltool.training.progress import Progress
from ssltool.training.schedule import rates_at
from ssltool.training.setup import TrainingSetup
from ssltool.training.signals import StopRequest
from ssltool.training.state import SUMS, TrainState


@killed_workers()
def run(config: PretrainConfig) -> Path:
    """Trains, and returns the run folder.

    Raises:
        SSLToolError: for every error that the user can fix; no file is left half-written.
        Interrupted: after SIGTERM, SIGINT or SIGUSR1; the state is saved.
        Collapsed: if the collapse is at least as severe as ``stop_on``; the state is saved.
    """
    if config.dist_backend != "auto" and not distributed.under_torchrun():
        raise UsageError(f"--dist-backend {config.dist_backend} does nothing without torchrun; leave it out")
    device = pick_device(config, local_rank=distributed.local_rank())
    try:
        with distributed.process_group(device, config.dist_backend) as shard:
            config.check()
            numbered = with_number(config, pretrain_name(config))
            run_folder = pretrain_folder(numbered)
            run_folder.is_new = numbered is not config
            with run_folder.locked():
                training = Pretraining(numbered, device, shard, run_folder)
                folder = training.train()
    except torch.OutOfMemoryError as error:
        raise SSLToolError(
            f"out of memory on {device}; lower --batch-size, or try --precision bf16, --accumulate "
            "or --checkpoint-activations"
        ) from error
    if training.collapsed:
        raise Collapsed(folder)
    return folder


class Pretraining(TrainingLoop[TrainState, Batch]):
    """One invocation of pretraining: setup, data, state and run folder."""

    def __init__(
        self, config: PretrainConfig, device: torch.device, shard: Shard, folder: RunFolder | None = None
    ) -> None:
        with distributed.raise_on_all_ranks():
            if config.download and distributed.is_main():
                open_dataset(dataclasses.replace(config, cache=None, cache_size=None), "train")
        native = "fp32" if distributed.all_reduce_max(int(native_precision(device) == "fp32")) else "bf16"
        with distributed.raise_on_all_ranks():
            self.setup = prepare(dataclasses.replace(config, download=False), native)
            self.config = self.setup.config
            self.setup.check_divisible(shard)
            self.saved = self.setup.saved_run
            self.folder = folder or pretrain_folder(config)
            start = find_start(config, self.saved, self.folder)
            check_loggers(config)
        self.device, self.shard = device, shard
        self.monitor: EpochMonitor | None = None
        self.monitored, self.epoch_time = MonitorResult(), EpochTime()
        self.collapsed = False
        self.progress_file: ProgressFile | None = None
        super().__init__(
            _build_state(self.setup, device),
            self.folder.newest,
            epochs=self.setup.epochs,
            steps=self.setup.steps,
            steps_per_line=config.print_freq,
        )
        if start.checkpoint is not None and start.path is not None:
            self.state.restore(start.checkpoint, start.path)
            done = f"{counted(self.state.epoch, 'epoch')}, {counted(self.state.step, 'step')}"
            is_over = self.state.epoch >= self.epochs and config.start_epoch is None
            over, on = f"{start.path} is of a complete run: {done}", f"resuming {start.path} after {done}"
            distributed.rank_zero_info(over if is_over else on)
            say_if_views_differ(start.checkpoint, self.setup.images, self.setup.image_size)
            if config.minutes is not None:
                distributed.rank_zero_info(f"--minutes chose {counted(self.epochs, 'epoch')} when the run began")
            if config.start_epoch is not None:
                self.state.restart_at(config.start_epoch, self.steps)
        elif config.resume:
            distributed.rank_zero_info(f"no checkpoint in {self.folder.path}: starting a new run")
        how = (self.setup.preprocessing, device, worker_count(config.workers))
        self.loader = Loader(self.setup.images, *how)
        self.support: Loader | None = None
        if self.setup.support is not None:
            self.support = Loader(self.setup.support.images, *how)
        if config.minutes is not None and start.checkpoint is None:
            self._choose_epochs(config.minutes)
        left = (self.epochs - self.state.epoch) * self.steps - self.state.epoch_step
        self.estimate = Estimate(self.config, left, start.checkpoint is not None, device.type == "cpu")
        self.loggers: list[Logger] = []
        self.folder.claim(self.saved.settings, self.state.history, resumed_from=start.path)
        self.folder.save_images(self.setup.images)
        if self.config.strategy != "iid":
            self.folder.save_order(self.setup.order)
        with distributed.raise_on_all_ranks():
            if distributed.is_main():
                self.loggers = [self._record, *open_loggers(self.config, self.folder.path)]

    def _choose_epochs(self, minutes: float) -> None:
        """Sets the number of epochs that fit into ``minutes``, from trial steps of a network that is then discarded."""
        start = time.perf_counter()
        self.start_epoch()
        epoch_start = time.perf_counter() - start
        twice = itertools.chain.from_iterable(self._loaded(0, 0) for _ in range(2))  # for epochs of a single step
        seconds = seconds_per_step(twice, lambda batch: float(self.step(batch)[0].detach()))
        epoch, used = epoch_start + seconds * self.steps, time.perf_counter() - start
        rounds = self.config.n_rounds
        # The clocks of the ranks differ, and all of them must choose the same.
        epoch, used = (distributed.all_reduce_max(round(1000 * value)) / 1000 for value in (epoch, used))
        self.epochs = epochs_within(minutes, used, epoch, rounds)
        distributed.rank_zero_info(
            f"--minutes {minutes:g}: {counted(self.epochs, 'epoch')} of {counted(self.steps, 'step')} fit, at "
            f"{seconds:.2g} s a step"
        )
        self.setup = self.setup.with_epochs(self.epochs)
        self.config, self.saved = self.setup.config, self.setup.saved_run
        self.state = _build_state(self.setup, self.device)

    def train(self) -> Path:
        """Trains to the end and returns the run folder."""
        c, state = self.config, self.state
        self._announce()
        if c.monitor_every and state.epoch < self.epochs:
            with distributed.raise_on_all_ranks():
                self.monitor = EpochMonitor(self.setup, self.device, self.shard)
        with contextlib.ExitStack() as stack:
            stop = stack.enter_context(StopRequest())
            for loader in filter(None, (self.loader, self.support)):
                stack.enter_context(contextlib.closing(loader))
            if distributed.is_main():
                self.progress_file = stack.enter_context(self.folder.progress_file())
            try:
                with killed_workers():
                    records = self.run(stop, self._log)
            except WorkerKilled as error:
                kept = f"{self.path} is kept, and --resume auto continues with it"
                raise WorkerKilled(
                    f"{error}; {kept if self.path.exists() else 'no checkpoint was saved yet'}"
                ) from error
        if self.collapsed:
            named = records[-1].get("kinds")
            why = f"{records[-1]['verdict']} collapse{f' ({named})' if named else ''}, and --stop-on {c.stop_on}"
            distributed.rank_zero_info(f"stopped after epoch {state.epoch}: {why}; saved {self.path}")
        return self.folder.path

    def _announce(self) -> None:
        c = self.config
        announce(self.setup.images)
        if self.setup.images.name == "bundled":
            distributed.rank_zero_info("no DATA given: training on the bundled images")
        distributed.rank_zero_info(
            f"{c.method} {c.arch} (stem {c.stem}, {c.image_size} px), {c.strategy}, {counted(self.epochs, 'epoch')} of "
            f"{counted(self.steps, 'step')} of {c.batch_size}, {c.precision} on {self.device} x {self.shard.world}; "
            f"writing {self.folder.path}"
        )
        for note in self.setup.notes(self.state.method):
            distributed.rank_zero_info(note)
        for warning in self.setup.warnings(self.state.method):
            distributed.rank_zero_info(f"warning: {warning}")

    def is_done(self) -> bool:
        return self.collapsed or super().is_done()

    def note_progress(self, progress: Progress) -> None:
        if self.progress_file is not None:
            self.progress_file.write(progress, self.state.epoch, self.state.latest)

    def must_save(self) -> bool:
        every = self.config.save_steps
        return every is not None and self.state.step % every == 0

    def images_in(self, batch: Batch) -> int:
        return self.setup.batch_size

    def start_epoch(self) -> None:
        """Calls the method's ``start_epoch``, except when a run is resumed within an epoch: the checkpoint has its
        result."""
        c, state = self.config, self.state
        state.model.train()
        self.epoch_time = EpochTime()
        state.method.now = Now(state.epoch, state.step)
        if state.epoch_step:
            return
        torch.manual_seed(seeds.derive(c.seed, state.epoch, seeds.Stream.EPOCH_START))
        rows = torch.from_numpy(np.unique(self.setup.subset(state.epoch))).to(self.device)
        with autocast(self.device, c.precision):
            state.method.start_epoch(EpochImages(rows, self._views_of))

    def _views_of(self, rows: torch.Tensor) -> Iterator[Batch]:
        """This rank's views of the images ``rows``, for ``start_epoch``; the first rows pad the last batch."""
        indices, world = rows.cpu().numpy(), self.shard.world
        size = min(self.setup.batch_size, -(-len(indices) // world) * world)
        padded = np.resize(indices, -(-len(indices) // size) * size)
        recipes = self.state.method.view_recipes(self.setup.recipe)
        seed, epoch = seeds.derive(self.config.seed, seeds.Stream.EPOCH_START), self.state.epoch
        batches = self.loader.train(padded, recipes, batch_size=size, seed=seed, epoch=epoch, shard=self.shard)
        while True:
            with torch.autocast(self.device.type, enabled=False):  # views are made without the caller's autocast
                batch = next(batches, None)
            if batch is None:
                return
            yield self._prepared(batch)

    def _prepared(self, batch: Batch) -> Batch:
        """The batch for the method: without labels unless it uses them, in the memory format of the settings, and with
        its place in the batch over all ranks."""
        batch.first = self.shard.rank * len(batch.labels)
        if not self.state.method.uses_labels:
            batch.labels = torch.full_like(batch.labels, -1)
        return batch.channels_last() if self.config.channels_last else batch

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch from ``first_step`` on, with labelled support images if the method uses them. Times
        the waiting."""
        self.estimate.start_epoch()
        batches, start = ahead(self._loaded(epoch, first_step), self.device), time.perf_counter()
        while True:
            waited_from = time.perf_counter()
            try:
                with distributed.raise_on_all_ranks():
                    batch = next(batches, None)
            except SSLToolError:  # an unreadable image: save the progress
                if self.state.epoch_step:
                    self.save()
                raise
            self.epoch_time.waiting += time.perf_counter() - waited_from
            if batch is None:
                break
            yield batch
            for line in self.estimate.step():
                distributed.rank_zero_info(line)
        self.epoch_time.seconds = time.perf_counter() - start

    def _loaded(self, epoch: int, first_step: int) -> Iterator[Batch]:
        setup, seed = self.setup, self.config.seed
        recipes = self.state.method.view_recipes(setup.recipe)
        batches = self.loader.train(
            setup.indices(epoch),
            recipes,
            batch_size=setup.batch_size,
            seed=seed,
            epoch=epoch,
            first_step=first_step,
            shard=self.shard,
        )
        if self.support is None or setup.support is None:
            yield from batches
            return
        labelled = self.support.train(
            setup.support.indices(epoch, setup.steps),
            [setup.recipe],
            batch_size=setup.support.batch_size,
            seed=seeds.derive(seed, seeds.Stream.SUPPORT_VIEWS),
            epoch=epoch,
            first_step=first_step,
            shard=self.shard,
        )
        for batch, support in zip(batches, labelled, strict=True):
            batch.support = support
            yield batch

    def seed_step(self) -> None:
        seed, state = self.config.seed, self.state
        torch.manual_seed(seeds.derive(seed, state.epoch, state.epoch_step, seeds.Stream.MODEL, self.shard.rank))

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        """One step of the method; returns the loss, the feature_std of the projections, and the values of the
        regularisers."""
        c, state = self.config, self.state
        state.method.now = Now(state.epoch, state.step)
        self._set_rates()
        parts = micro_batches(self._prepared(batch), c.accumulate)
        output = state.train_on(parts, lambda: autocast(self.device, c.precision))
        self.epoch_time.images += self.setup.batch_size
        values = (value / term.factor for value, term in zip(output.terms, self.setup.terms, strict=True))
        return output.loss, feature_std_tensor(output.projection), *values

    def _set_rates(self) -> None:
        state = self.state
        rates = rates_at(self.config, state.epoch, state.epoch_step / self.steps)
        frozen = state.epoch > 0 and state.epoch_step < self.config.n_warmup_steps
        for group in state.optimizer.param_groups:
            group["lr"] = 0.0 if frozen and group["is_encoder"] else rates.fixed if group["fixed_lr"] else rates.lr
            group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0

    def finish_epoch(self) -> Record:
        c, state = self.config, self.state
        rates = rates_at(c, state.epoch)
        record: Record = {"epoch": state.epoch, "step": state.step, "strategy": c.strategy}
        record |= {**state.finish_epoch(), "lr": rates.lr, "fixed_lr": rates.fixed}
        self.monitored = MonitorResult()
        if self.monitor is not None:
            # Scaled to the whole epoch: another process may have trained its first steps.
            seconds = self.epoch_time.seconds * self.steps * self.setup.batch_size / self.epoch_time.images
            self.monitored = self.monitor.check(state.method, record, state.history, seconds)
        record |= self.monitored.values
        self.collapsed = has_collapsed(record, c.stop_on)
        return record

    def save(self) -> None:
        """Writes ``checkpoint.pt``, and every ``save_every`` epochs and at the end also ``checkpoint_NNNN.pt``, from a
        copy of the state while training goes on; at most one save is under way."""
        state = self.state
        last = state.epoch == self.epochs or self.collapsed
        keep = state.epoch_step == 0 and (state.epoch % self.config.save_every == 0 or last)
        state.flush()
        with distributed.raise_on_all_ranks():
            if distributed.is_main():
                checkpoint = state.checkpoint(self.saved)
                if self.config.strategy == "replay":
                    checkpoint.metrics["replayed"] = self.setup.replayed(state.epoch_number - 1).tolist()
                self.folder.save_counts(self.setup.images, self.setup.rows_read(state.step))
                self.background.wait()
                frozen = Checkpoint(**copied(vars(checkpoint)))
                epoch = state.epoch - 1 if keep else None
                self.background.submit(lambda: self.folder.save(frozen, keep_epoch=epoch, keep=self.config.keep))

    def _record(self, record: Record) -> None:
        """Has the record of an epoch written after its checkpoint: it counts as a result of the run, too."""
        self.background.submit(lambda: self.folder.append(record))

    def _log(self, record: Record) -> None:
        """Logs the record of an epoch with its times, and prints it with the warnings of the method and the monitor."""
        diagnosis = self.state.method.diagnose(record["loss"])
        record = record | self.epoch_time.record() | self.monitored.timing
        with distributed.raise_on_all_ranks():
            for log in self.loggers:
                log(record)
        distributed.rank_zero_info(epoch_line(record, self.epochs, [term.key for term in self.setup.terms]))
        for warning in filter(None, [diagnosis, *self.monitored.warnings]):
            distributed.rank_zero_info(f"warning: epoch {record['epoch'] + 1}: {warning}")


def _build_state(setup: TrainingSetup, device: torch.device) -> TrainState:
    c = setup.config
    method = setup.build_method()
    check_limit(c, method, setup.images)
    if c.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.to(device)
    optimizer = build_optimizer(method.param_groups(), c)
    model = wrap_ddp(setup.regularised(method), device)
    if c.cuda_graphs:
        require_cuda(device, "--cuda-graphs")
    if c.compile:
        model = torch.compile(model, mode="reduce-overhead" if c.cuda_graphs else None)  # type: ignore[assignment]
    torch.backends.cudnn.benchmark = device.type == "cuda"  # shapes are constant, so benchmarking kernels pays off
    scaler = torch.amp.GradScaler(device.type, enabled=c.precision == "fp16")
    sums = dict.fromkeys((*SUMS, *(term.key for term in setup.terms)), 0.0)
    return TrainState(method, model, optimizer, scaler, sums=sums, cuda_graphs=c.cuda_graphs)
