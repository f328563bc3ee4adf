"""Training steps of each method, beside lightly's modules for the same method.

    python benchmarks/method_peers.py [--methods simclr ...] [--rounds 3] [--arch resnet18] [--json FILE]

Both train the same backbone in float32 with SGD on the same views of one batch, which ``ssltool`` has made; the heads
have the same widths. ``lightly`` is its heads and its loss in a plain loop of torch, as its documentation writes it:
one forward pass for each view, gradients, and for methods with a teacher its ``update_momentum``. Views and files are
not part of this (``benchmarks/peers.py`` measures whole loops). A process of its own measures each program and method,
and the programs alternate; the table has the medians of the rounds, in images per second (an image has several views),
and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BATCH, SIZE, STEPS, WARM_UP = 128, 32, 6, 2
PROGRAMS = ("ssltool", "lightly")

Views = list[Tensor]


class Theirs(NamedTuple):
    """A method of lightly: the modules that are trained, the loss of a batch of views, and what follows a step."""

    trained: list[nn.Module]
    loss: Callable[[Views], Tensor]
    after: Callable[[], None] = lambda: None


def two_views(
    backbone: nn.Module, projector: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], *more: nn.Module
) -> Theirs:
    """A method whose loss is that of two projections."""

    def loss(views: Views) -> Tensor:
        z0, z1 = (projector(backbone(view)) for view in views)
        return criterion(z0, z1)

    return Theirs([backbone, projector, *more], loss)


def simclr(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    return two_views(backbone, SimCLRProjectionHead(width, 512, 128), NTXentLoss(0.5))


def barlow(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    return two_views(backbone, BarlowTwinsProjectionHead(width, 1024, 1024), BarlowTwinsLoss())


def vicreg(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import VICRegLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    return two_views(backbone, BarlowTwinsProjectionHead(width, 1024, 1024), VICRegLoss())


def frossl(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import FroSSLLoss
    from lightly.models.modules import BarlowTwinsProjectionHead

    criterion = FroSSLLoss()
    return two_views(backbone, BarlowTwinsProjectionHead(width, 1024, 1024), lambda a, b: criterion([a, b]))


def simsiam(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import SimSiamPredictionHead, SimSiamProjectionHead

    projector, predictor = SimSiamProjectionHead(width, width, 2048), SimSiamPredictionHead(2048, 512, 2048)
    criterion = NegativeCosineSimilarity()

    def loss(views: Views) -> Tensor:
        z0, z1 = (projector(backbone(view)) for view in views)
        return 0.5 * (criterion(z0.detach(), predictor(z1)) + criterion(z1.detach(), predictor(z0)))

    return Theirs([backbone, projector, predictor], loss)


def nnclr(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import NNCLRPredictionHead, NNCLRProjectionHead, NNMemoryBankModule

    projector, predictor = NNCLRProjectionHead(width, 512, 256), NNCLRPredictionHead(256, 512, 256)
    bank, criterion = NNMemoryBankModule((2048, 256)), NTXentLoss(0.1)

    def loss(views: Views) -> Tensor:
        z0, z1 = (projector(backbone(view)) for view in views)
        near0, near1 = bank(z0.detach(), update=False), bank(z1.detach(), update=True)
        return 0.5 * (criterion(near0, predictor(z1)) + criterion(near1, predictor(z0)))

    return Theirs([backbone, projector, predictor], loss)


def with_teacher(
    backbone: nn.Module, projector: nn.Module, other: nn.Module, loss: Callable[..., Tensor], *more: nn.Module
) -> Theirs:
    """A method with a momentum teacher, whose head is ``other``; ``loss`` takes the views and the teacher's forward
    pass."""
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    student = nn.Sequential(backbone, projector)
    teacher = nn.Sequential(copy.deepcopy(backbone), same_weights(projector, other))
    deactivate_requires_grad(teacher)

    def forward(view: Tensor) -> Tensor:
        with torch.no_grad():
            keys: Tensor = teacher(view)
        return keys

    return Theirs([student, *more], lambda views: loss(views, forward), lambda: update_momentum(student, teacher, 0.99))


def same_weights(module: nn.Module, other: nn.Module) -> nn.Module:
    """``other`` with the weights of ``module``. A copy of lightly's head of DINO cannot be made in another way."""
    other.load_state_dict(module.state_dict())
    return other


def moco(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead

    projector, other = (MoCoProjectionHead(width, 512, 128) for _ in range(2))
    criterion = NTXentLoss(0.2, memory_bank_size=(2048, 128))

    def loss(views: Views, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        return criterion(projector(backbone(views[0])), teacher(views[1]))

    return with_teacher(backbone, projector, other, loss)


def byol(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

    projector, other = (BYOLProjectionHead(width, 512, 256) for _ in range(2))
    predictor = BYOLPredictionHead(256, 512, 256)
    criterion = NegativeCosineSimilarity()

    def loss(views: Views, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        p0, p1 = (predictor(projector(backbone(view))) for view in views)
        return 0.5 * (criterion(p0, teacher(views[1])) + criterion(p1, teacher(views[0])))

    return with_teacher(backbone, projector, other, loss, predictor)


def tico(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import TiCoLoss
    from lightly.models.modules import BYOLProjectionHead

    projector, other = (BYOLProjectionHead(width, 512, 256) for _ in range(2))
    criterion = TiCoLoss()

    def loss(views: Views, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        return criterion(projector(backbone(views[0])), teacher(views[1]))

    return with_teacher(backbone, projector, other, loss)


def swav(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

    projector, prototypes = SwaVProjectionHead(width, 512, 128), SwaVPrototypes(128, 512)
    criterion = SwaVLoss()

    def loss(views: Views) -> Tensor:
        prototypes.normalize()
        scores = [prototypes(nn.functional.normalize(projector(backbone(view)), dim=1)) for view in views]
        return criterion(scores[:2], scores[2:])

    return Theirs([backbone, projector, prototypes], loss)


def dino(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead

    projector, other = (DINOProjectionHead(width, 512, 256, 2048, batch_norm=True) for _ in range(2))
    criterion = DINOLoss(2048, warmup_teacher_temp_epochs=0)

    def loss(views: Views, teacher: Callable[[Tensor], Tensor]) -> Tensor:
        student = [projector(backbone(view)) for view in views]
        return criterion([teacher(view) for view in views[:2]], student, teacher_temp=0.04)

    return with_teacher(backbone, projector, other, loss)


def _global_and_local(backbone: nn.Module, width: int, criterion: Any) -> Theirs:
    from lightly.models.modules import LeJEPAProjectionHead

    projector = LeJEPAProjectionHead(width, 512, 64)

    def loss(views: Views) -> Tensor:
        z = [projector(backbone(view)) for view in views]
        found: Tensor = criterion(local_proj=torch.stack(z[2:]), global_proj=torch.stack(z[:2]))
        return found

    return Theirs([backbone, projector], loss)


def lejepa(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import LeJEPALoss

    return _global_and_local(backbone, width, LeJEPALoss())


def visreg(backbone: nn.Module, width: int) -> Theirs:
    from lightly.loss import VISRegLoss

    return _global_and_local(backbone, width, VISRegLoss(num_slices=1024))


CROPS = {"local_crops": 4, "local_size": 16}
METHODS: dict[str, tuple[Callable[[nn.Module, int], Theirs], dict[str, Any]]] = {
    "simclr": (simclr, {"dim": 128, "hidden": 512}),
    "moco": (moco, {"dim": 128, "hidden": 512, "queue": 2048, "momentum": 0.99}),
    "nnclr": (nnclr, {"dim": 256, "hidden": 512, "pred_hidden": 512, "queue": 2048}),
    "simsiam": (simsiam, {"dim": 2048, "pred_dim": 512}),
    "byol": (byol, {"dim": 256, "hidden": 512, "momentum": 0.99}),
    "dino": (dino, {"dim": 256, "hidden": 512, "prototypes": 2048, "head_bn": True, "clip_grad": 0, **CROPS}),
    "barlow": (barlow, {"dim": 1024, "hidden": 1024}),
    "vicreg": (vicreg, {"dim": 1024, "hidden": 1024}),
    "frossl": (frossl, {"dim": 1024, "hidden": 1024}),
    "tico": (tico, {"dim": 256, "hidden": 512, "momentum": 0.99}),
    "swav": (swav, {"dim": 128, "hidden": 512, "prototypes": 512, "queue": 0, **CROPS}),
    "lejepa": (lejepa, {"dim": 64, "hidden": 512, "slices": 1024, "global_views": 2, **CROPS}),
    "visreg": (visreg, {"dim": 64, "hidden": 512, "slices": 1024, "global_views": 2, **CROPS}),
}
"""lightly's modules of each method, and the options of ours that give the same network."""


def training_of(method: str, arch: str, folder: Path) -> Any:
    """A training of ours on the bundled images."""
    from ssltool.config import PretrainConfig
    from ssltool.data.shard import Shard
    from ssltool.stages.pretrain.pretrain import Pretraining

    options = tuple(f"{name}={value}" for name, value in METHODS[method][1].items())
    settings = {"stem": "imagenet", "image_size": SIZE, "batch_size": BATCH, "precision": "fp32", "device": "cpu"}
    config = PretrainConfig(method=method, arch=arch, options=options, epochs=100, out=str(folder / "run"), **settings)
    return Pretraining(config, torch.device("cpu"), Shard())


def measured(program: str, method: str, arch: str, folder: Path) -> dict[str, float]:
    """Images per second and the peak memory of the process in GB."""
    from ssltool.models.backbones import build_backbone
    from ssltool.training.allocator import reuse_freed_memory

    training = training_of(method, arch, folder)
    training.state.model.train()
    batch = next(iter(training._loaded(0, 0)))
    if program == "ssltool":
        reuse_freed_memory()

        def step() -> None:
            training.state.record_step(*training.step(batch))
    else:
        views = [view.contiguous() for view in batch.views]
        del training
        theirs = METHODS[method][0](*build_backbone(arch, stem="imagenet", image_size=SIZE))
        parameters = [p for module in theirs.trained for p in module.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            loss = theirs.loss(views)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            theirs.after()
            loss.item()

    for number in range(WARM_UP + STEPS):
        if number == WARM_UP:
            start = time.perf_counter()
        step()
    seconds = time.perf_counter() - start
    return {"rate": STEPS * BATCH / seconds, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def run_child(program: str, method: str, arch: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--arch", arch, "--child", program, method, folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program}, {method}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--json", type=Path, help="also write every measurement to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        program, method, folder = args.child
        print(json.dumps(measured(program, method, args.arch, Path(folder))))
        return
    if importlib.util.find_spec("lightly") is None:
        raise SystemExit("the modules of lightly are needed: pip install lightly")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    print("| method | ssltool, images/s | lightly | ratio | ssltool, GB | lightly |")
    print("|---|---|---|---|---|---|")
    for method in args.methods:
        found[method] = {program: [] for program in PROGRAMS}
        for _ in range(args.rounds):
            for program in PROGRAMS:
                found[method][program].append(run_child(program, method, args.arch))
        rates, memory = (
            [statistics.median(one[value] for one in found[method][program]) for program in PROGRAMS]
            for value in ("rate", "memory")
        )
        print(
            f"| {method} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[0] / rates[1]:.2f} | {memory[0]:.2f} | "
            f"{memory[1]:.2f} |",
            flush=True,
        )
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
