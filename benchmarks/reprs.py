"""The overhead of save-reprs: the whole stage compared with forward passes over prepared batches.

    python benchmarks/reprs.py [--arch resnet18_w16 --arch resnet18] [--images 2048] [--repeats 7] [--threads 2]

A network of each architecture, with the small stem, is evaluated on bundled images. ``bare`` is a loop of forward
passes over prepared batches that discards the outputs. ``stage`` is ``ssltool save-reprs`` after opening the checkpoint
and the images, from pixels to the renamed file. Both alternate in one process; seconds are the best of the runs,
``ratio`` is their ratio. ``CPU`` is the ratio of the medians of the processor time, which other programs on the machine
affect less. ``memory`` is the stage's peak above the memory at its start, without the pages of mapped files.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from collapse import Watch

from ssltool.checkpoints.load import Pretrained, load_pretrained
from ssltool.config import DataSettings, PretrainConfig, SaveReprsConfig
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.shard import Shard
from ssltool.reprs.extract import Extraction
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.save_reprs import _save
from ssltool.training.device import autocast
from ssltool.training.signals import StopRequest

CPU = torch.device("cpu")


def network(arch: str, folder: Path) -> Pretrained:
    """A network after one training step; its weights do not matter."""
    schedule = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 8, "monitor_every": 0, "device": "cpu"}
    run = pretrain(PretrainConfig(arch=arch, dim=64, pred_dim=16, out=str(folder / arch), **schedule))
    return load_pretrained(SaveReprsConfig(pretrained=str(run / "checkpoint.pt")), CPU)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time of ``work``."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def measure(one: Pretrained, images: ImageSet, config: SaveReprsConfig, folder: Path, repeats: int) -> str:
    """A row of the table."""
    with contextlib.closing(Loader(images, one.preprocessing, CPU)) as loader:
        batches = [batch.channels_last().views[0] for batch in loader.evaluate(config.batch_size)]

    def bare() -> None:
        with torch.inference_mode(), autocast(CPU, config.precision):
            for batch in batches:
                one.method.backbone(batch)

    def stage() -> None:
        with contextlib.ExitStack() as files, StopRequest() as stop:
            made = Extraction(one, images, config, CPU)
            _save(made, folder / "reprs.pt", Shard(), config, stop, files).remove()

    bare()
    stage()
    runs = [(seconds(bare), seconds(stage)) for _ in range(repeats)]
    clock, processor = ([[one[kind] for one in pair] for pair in runs] for kind in (0, 1))
    watch = Watch()
    watch.start()
    stage()
    watch.stopped.set()
    forward, whole = (min(times) for times in zip(*clock, strict=True))
    own, all_of_it = (statistics.median(times) for times in zip(*processor, strict=True))
    memory = (watch.most - watch.start_at) / 1e6
    numbers = f"{forward:.3f} | {whole:.3f} | {whole / forward:.3f} | {all_of_it / own:.3f} | {memory:.0f}"
    return f"| {config.precision} | {numbers} |"


@click.command(help=__doc__)
@click.option("--arch", "archs", multiple=True, default=("resnet18_w16", "resnet18"))
@click.option("--images", default=2048, help="number of bundled images")
@click.option("--batch-size", "-b", default=256)
@click.option("--precision", "precisions", multiple=True, default=("fp32",))
@click.option("--repeats", default=7)
@click.option("--threads", default=2)
def main(
    archs: tuple[str, ...], images: int, batch_size: int, precisions: tuple[str, ...], repeats: int, threads: int
) -> None:
    """Runs all architectures with all precisions."""
    torch.set_num_threads(threads)
    some = open_dataset(DataSettings(), "train").select(np.arange(images))
    print("| network | precision | bare, s | stage, s | ratio | CPU | memory, MB |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for arch in archs:
            one = network(arch, Path(folder))
            for precision in precisions:
                config = SaveReprsConfig(batch_size=batch_size, precision=precision)
                print(f"| {arch} {measure(one, some, config, Path(folder), repeats)}", flush=True)


if __name__ == "__main__":
    main()
