"""Images per second of pretraining, beside other programs, on the same images, network and threads.

    python benchmarks/peers.py [--rows 32-memory 96 ...] [--rounds 3] [--json FILE]

Each row trains SimSiam: two views of each image with SimSiam's recipe, SGD, ImageNet's stem. A program is measured in
three ways: the whole loop, its batches alone, and its steps alone, which repeat one batch. ``lightly`` is the loop of
lightly's documentation: its transform, its dataset and heads, torch's ``DataLoader`` with its workers, channels-first
and in float32. ``torchvision v1``, ``v2`` and ``v2 tensors`` are the same loop with torchvision's transforms, as its
reference scripts use them. ``stable-pretraining`` is its transforms and its module in this loop, without Lightning's
trainer, if it is installed. All have as many threads and workers as the machine has cores.

Every measurement of a program is a process of its own. The programs alternate; the table has the median of the rounds.
The images are varied crops of the two photographs that scikit-learn has, 500 x 375 pixels, as JPEG files of quality
90; for rows from memory, resized to the size of the row.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from file_views import PilBlur, open_pil, open_tensor, steps, write_photographs
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from ssltool.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
FILES = 512
WARM_UP = 2
PARTS = ("whole", "data", "steps")


@dataclass(frozen=True)
class Row:
    """One line of the table: the network, its batch and the images, and the measured steps."""

    arch: str
    size: int
    batch: int
    steps: int
    memory: bool = False


ROWS = {
    "32-memory": Row("resnet18", 32, 256, 10, memory=True),
    "96-memory": Row("resnet18", 96, 128, 4, memory=True),
    "96": Row("resnet18", 96, 128, 4),
    "96-w16": Row("resnet18_w16", 96, 128, 8),
    "224": Row("resnet18", 224, 64, 3),
    "224-w16": Row("resnet18_w16", 224, 64, 8),
}


class Images(Dataset[tuple[list[Tensor], int]]):
    """Two views of each image of files or of memory."""

    def __init__(self, images: list[Any], opened: Callable[[Any], Any], transform: Callable[[Any], Tensor]) -> None:
        self.images, self.opened, self.transform = images, opened, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[list[Tensor], int]:
        image = self.opened(self.images[number])
        return [self.transform(image), self.transform(image)], number


class SimSiam(nn.Module):
    """SimSiam as lightly's documentation writes it."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__()
        self.backbone = backbone
        self.projection_head = SimSiamProjectionHead(width, 2048, 2048)
        self.prediction_head = SimSiamPredictionHead(2048, 512, 2048)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.projection_head(self.backbone(x).flatten(start_dim=1))
        return z.detach(), self.prediction_head(z)


def in_memory(size: int) -> list[Image.Image]:
    """The images of a row from memory."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), FILES)
        return [open_pil(path).resize((size, size), Image.Resampling.BOX) for path in paths]


def memory_file(files: Path, size: int) -> Path:
    """The folder of an array of these images, beside the folder ``files``."""
    folder = files.parent / f"memory{size}"
    if not folder.exists():
        folder.mkdir()
        np.save(folder / "train.npy", np.stack([np.asarray(image) for image in in_memory(size)]))
    return folder


def enough(batches: Callable[[], Iterator[Any]], count: int) -> Iterator[Any]:
    """``count`` batches, of as many passes as it takes."""
    while count > 0:
        for batch in batches():
            yield batch
            count -= 1
            if not count:
                return


def rate(batches: Iterator[Any], step: Callable[[Any], object], row: Row) -> float:
    """Images per second after ``WARM_UP`` steps."""
    start = 0.0
    for number, batch in enumerate(batches):
        if number == WARM_UP:
            start = time.perf_counter()
        step(batch)
    return row.steps * row.batch / (time.perf_counter() - start)


def measured(batches: Callable[[], Iterator[Any]], step: Callable[[Any], object], row: Row) -> dict[str, float]:
    """The rate of each part of a program. The batches alone are more than the workers hold ready at the start."""
    found = {"whole": rate(enough(batches, row.steps + WARM_UP), step, row)}
    more = dataclasses.replace(row, steps=max(row.steps, 8 * CORES))
    found["data"] = rate(enough(batches, more.steps + WARM_UP), lambda batch: None, more)
    batch = next(iter(batches()))
    found["steps"] = rate(iter([batch] * (row.steps + WARM_UP)), step, row)
    return found


def plain_torch(transform: Callable[[Any], Tensor], opened: Callable[[Any], Any], row: Row, files: Path) -> Any:
    """The batches and the step of the loop in lightly's documentation."""
    from lightly.loss import NegativeCosineSimilarity

    from ssltool.models.backbones import build_backbone

    images: list[Any] = in_memory(row.size) if row.memory else sorted(map(str, files.glob("*/*.jpg")))
    data = Images(images, (lambda image: image) if row.memory else opened, transform)
    loader = DataLoader(data, row.batch, shuffle=True, drop_last=True, num_workers=CORES, persistent_workers=True)
    torch.manual_seed(0)
    model = SimSiam(*build_backbone(row.arch, stem="imagenet", image_size=row.size))
    criterion = NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def step(batch: tuple[list[Tensor], Tensor]) -> None:
        x0, x1 = batch[0]
        (z0, p0), (z1, p1) = model(x0), model(x1)
        loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return lambda: iter(loader), step


def lightly(row: Row, files: Path) -> Any:
    from lightly.transforms.simsiam_transform import SimSiamViewTransform

    blur = 0.5 if row.size > 64 else 0.0  # as in SimSiam's recipe for small images, and in ours
    return plain_torch(SimSiamViewTransform(input_size=row.size, gaussian_blur=blur), open_pil, row, files)


def torchvision(version: str, row: Row, files: Path) -> Any:
    to_float = [v2.ToDtype(torch.float32, scale=True)]
    if version == "v1":
        return plain_torch(steps(transforms, row.size, PilBlur(), [transforms.ToTensor()]), open_pil, row, files)
    if version == "v2":
        return plain_torch(steps(v2, row.size, PilBlur(), [v2.ToImage(), *to_float]), open_pil, row, files)
    blur = v2.GaussianBlur(13, (0.1, 2.0))
    opened = v2.functional.pil_to_tensor if row.memory else open_tensor
    made = steps(v2, row.size, blur, to_float)
    if row.memory:
        return plain_torch(lambda image: made(v2.functional.pil_to_tensor(image)), opened, row, files)
    return plain_torch(made, opened, row, files)


class TheirViews(Dataset[dict[str, Any]]):
    """Two views of each image by the transforms of stable-pretraining."""

    def __init__(self, images: list[Any], memory: bool, size: int) -> None:
        from stable_pretraining.data import transforms as t

        blur = [t.PILGaussianBlur(p=0.5)] if size > 64 else []
        view = t.Compose(
            t.RGB(),
            t.RandomResizedCrop((size, size), scale=(0.2, 1.0)),
            t.RandomHorizontalFlip(p=0.5),
            t.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
            t.RandomGrayscale(p=0.2),
            *blur,
            t.ToImage(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        )
        self.images, self.memory, self.transform = images, memory, t.MultiViewTransform([view, view])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> dict[str, Any]:
        image = self.images[number]
        made: dict[str, Any] = self.transform({"image": image if self.memory else open_pil(image)})
        return made


def stable_pretraining(row: Row, files: Path) -> Any:
    from stable_pretraining.methods.simsiam import SimSiam as Module

    from ssltool.models.backbones import build_backbone

    images: list[Any] = in_memory(row.size) if row.memory else sorted(map(str, files.glob("*/*.jpg")))
    data = TheirViews(images, row.memory, row.size)
    loader = DataLoader(data, row.batch, shuffle=True, drop_last=True, num_workers=CORES, persistent_workers=True)
    torch.manual_seed(0)
    model = Module(build_backbone(row.arch, stem="imagenet", image_size=row.size)[0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)

    def step(batch: dict[str, Any]) -> None:
        loss = model(*(view["image"] for view in batch["views"])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return lambda: iter(loader), step


def ssltool(precision: str, row: Row, files: Path) -> Any:
    from ssltool.config import PretrainConfig
    from ssltool.data.shard import Shard
    from ssltool.stages.pretrain.pretrain import Pretraining
    from ssltool.training.allocator import reuse_freed_memory

    data = memory_file(files, row.size) if row.memory else files
    reuse_freed_memory()
    config = PretrainConfig(
        data=str(data),
        arch=row.arch,
        stem="imagenet",
        image_size=row.size,
        batch_size=row.batch,
        epochs=1000,
        precision=precision,
        out=str(files.parent / "run"),
        overwrite=True,
        device="cpu",
    )
    training = Pretraining(config, torch.device("cpu"), Shard())
    training.state.model.train()
    epochs = iter(range(1000))

    def step(batch: Any) -> None:
        training.state.record_step(*training.step(batch))
        training.state.flush()

    return lambda: training._loaded(next(epochs), 0), step


PROGRAMS: dict[str, Callable[[Row, Path], Any]] = {
    "ssltool fp32": functools.partial(ssltool, "fp32"),
    "ssltool bf16": functools.partial(ssltool, "bf16"),
    "lightly": lightly,
    "torchvision v1": functools.partial(torchvision, "v1"),
    "torchvision v2": functools.partial(torchvision, "v2"),
    "torchvision v2 tensors": functools.partial(torchvision, "v2 tensors"),
}
if importlib.util.find_spec("stable_pretraining") is not None:
    PROGRAMS["stable-pretraining"] = stable_pretraining


def child(program: str, row: str, files: Path) -> None:
    torch.set_num_threads(CORES)
    print(json.dumps(measured(*PROGRAMS[program](ROWS[row], files), ROWS[row])))


def run_child(program: str, row: str, files: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", program, row, str(files)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program}, {row}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every measurement to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        program, row, files = args.child
        child(program, row, Path(files))
        return
    if importlib.util.find_spec("lightly") is None:
        raise SystemExit("the loops of other programs need lightly: pip install lightly")
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "photographs")
        (files / "all").mkdir(parents=True)
        write_photographs(files / "all", FILES)
        for row in args.rows:
            for number in range(args.rounds):
                for program in args.programs:
                    print(f"{row} round {number + 1} {program}", file=sys.stderr)
                    for part, value in run_child(program, row, files).items():
                        found.setdefault(f"{row}|{part}|{program}", []).append(value)
            show(row, found, args.programs)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))


def show(row: str, found: dict[str, list[float]], programs: list[str]) -> None:
    base = "lightly" if "lightly" in programs else programs[-1]
    shape = ROWS[row]
    print(f"\n{row}: {shape.arch}, {shape.size} px, batch {shape.batch}, {'memory' if shape.memory else 'JPEG'}")
    for program in programs:
        cells = []
        for part in PARTS:
            values = found[f"{row}|{part}|{program}"]
            ratio = statistics.median(values) / statistics.median(found[f"{row}|{part}|{base}"])
            cells.append(
                f"{part} {statistics.median(values):8.1f} ({min(values):.1f} .. {max(values):.1f}) {ratio:5.2f}"
            )
        print(f"  {program:24} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
