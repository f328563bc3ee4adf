"""Runs the training code of other programs on a CPU with tiny networks and images; ``real_logs.py`` calls it.

    python benchmarks/real_programs.py PROGRAM healthy|collapsed CHECKOUTS IMAGES FOLDER

Nothing of their code is changed on disk or copied. What only works on a GPU, and the sizes of networks and crops, are
replaced while it runs: ``on_cpu`` and ``small``.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import socket
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torchvision
from torch import nn

SIZES = {224: 16, 96: 8}
"""The sizes of crops in the place of the programs' own."""


def on_cpu() -> None:
    """CUDA's functions do nothing, NCCL is gloo, DistributedDataParallel has no device, and ``spawn`` is a call."""

    def stay(self: Any, *_: Any, **__: Any) -> Any:
        return self

    torch.Tensor.cuda = nn.Module.cuda = stay
    torch.cuda.set_device = torch.cuda.synchronize = lambda *_, **__: None
    torch.cuda.device_count = lambda: 1
    nn.SyncBatchNorm.convert_sync_batchnorm = staticmethod(lambda module, *_: module)
    start, parallel, tensor = dist.init_process_group, nn.parallel.DistributedDataParallel, torch.tensor
    torch.tensor = lambda *args, device=None, **more: tensor(*args, **more)

    def gloo(*_: Any, **__: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        start("gloo", init_method=f"tcp://127.0.0.1:{port}", world_size=1, rank=0)

    class OnCpu(parallel):
        def __init__(self, module: nn.Module, device_ids: Any = None, **more: Any) -> None:
            super().__init__(module, **more)

    dist.init_process_group = gloo
    nn.parallel.DistributedDataParallel = OnCpu
    torch.multiprocessing.spawn = lambda function, args=(), nprocs=1, **_: function(0, *args)


def small() -> None:
    """Crops have the sizes in ``SIZES``, and ResNets one block in each stage."""
    from torchvision.models import resnet
    from torchvision.transforms import RandomResizedCrop

    given = RandomResizedCrop.__init__

    def crop(self: Any, size: int, *args: Any, **more: Any) -> None:
        given(self, SIZES.get(size, size), *args, **more)

    RandomResizedCrop.__init__ = crop
    for name, block in (("resnet18", resnet.BasicBlock), ("resnet50", resnet.Bottleneck)):
        made = lambda block=block, **more: resnet.ResNet(block, [1, 1, 1, 1], **more)  # noqa: E731
        made.__name__ = name
        setattr(torchvision.models, name, made)


def script(checkout: Path, name: str, *arguments: object) -> None:
    """Runs a script of a checkout, with the command line ``arguments``."""
    sys.path.insert(0, str(checkout))
    sys.argv = [name, *map(str, arguments)]
    runpy.run_path(str(checkout / name), run_name="__main__")


def simsiam(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """Collapsed: the targets get a gradient, and there is no batch norm in the heads."""
    os.chdir(folder)
    if collapsed:
        nn.BatchNorm1d = lambda *_, **__: nn.Identity()
        sys.path.insert(0, str(checkouts / "simsiam"))
        import simsiam.builder as builder

        def forward(self: Any, x1: torch.Tensor, x2: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with without_detach():
                return given(self, x1, x2)

        given = builder.SimSiam.forward
        builder.SimSiam.forward = forward
    rate = ["--lr", 0.5] if collapsed else ["--lr", 0.2, "--fix-pred-lr"]
    flags = ["-a", "resnet18", "-b", 16, "-j", 0, "--epochs", 10, "-p", 1, "--dim", 128, "--pred-dim", 32, *rate]
    distributed = ["--multiprocessing-distributed", "--world-size", 1, "--rank", 0, "--dist-url", "tcp://localhost:1"]
    script(checkouts / "simsiam", "main_simsiam.py", *flags, *distributed, images)


@contextlib.contextmanager
def without_detach() -> Any:
    given, torch.Tensor.detach = torch.Tensor.detach, lambda self: self
    try:
        yield
    finally:
        torch.Tensor.detach = given


def vicreg(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """Collapsed: the last layer of the projector begins at 0, where the variance term has no gradient."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    sys.path.insert(0, str(checkouts / "vicreg"))
    import resnet

    if collapsed:
        begin_at_0()
    resnet.tiny = lambda **more: (resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], **more), 512)
    flags = ["--arch", "tiny", "--mlp", "256-256-256", "--batch-size", 32, "--epochs", 20, "--num-workers", 0]
    flags += ["--base-lr", 20, "--log-freq-time", 0, "--device", "cpu"]
    script(checkouts / "vicreg", "main_vicreg.py", "--data-dir", images, "--exp-dir", folder, *flags)


def barlow(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """Collapsed: the projector begins at 0, where the correlations have no gradient."""
    if collapsed:
        begin_at_0()
    flags = ["--workers", 0, "--epochs", 20, "--batch-size", 32, "--projector", "256-256-256", "--print-freq", 1]
    flags += ["--learning-rate-weights", 20, "--checkpoint-dir", folder]
    script(checkouts / "barlowtwins", "main.py", images, *flags)


def begin_at_0() -> None:
    """Linear layers without bias, which only projectors have, begin at 0."""
    given = nn.Linear.__init__

    def begin(self: nn.Linear, *args: Any, **more: Any) -> None:
        given(self, *args, **more)
        if self.bias is None:
            nn.init.zeros_(self.weight)

    nn.Linear.__init__ = begin


def dino(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """Collapsed: a teacher temperature of 1, so that nothing sharpens the outputs."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    torch.hub.list = lambda *_: []  # it asks GitHub
    temperature = 1.0 if collapsed else 0.04
    flags = ["--arch", "resnet18", "--out_dim", 1024, "--local_crops_number", 2, "--batch_size_per_gpu", 32]
    flags += ["--epochs", 12, "--warmup_epochs", 1, "--lr", 0.01, "--use_fp16", "false", "--num_workers", 0]
    flags += ["--warmup_teacher_temp", temperature, "--teacher_temp", temperature, "--momentum_teacher", 0.9]
    flags += ["--use_bn_in_head", "true", "--saveckp_freq", 0]
    script(checkouts / "dino", "main_dino.py", "--data_path", images / "train", "--output_dir", folder, *flags)


def mocov3(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """Collapsed: a learning rate that is far too high."""
    _older_timm()
    os.chdir(folder)
    flags = ["-a", "resnet50", "-b", 32, "-j", 0, "--epochs", 12, "-p", 1, "--warmup-epochs", 1, "--moco-t", 0.2]
    flags += ["--moco-dim", 64, "--moco-mlp-dim", 256, "--lr", 1e5 if collapsed else 20]
    flags += ["--multiprocessing-distributed", "--world-size", 1, "--rank", 0, "--dist-url", "tcp://localhost:1"]
    script(checkouts / "moco-v3", "main_moco.py", *flags, images)


def mae(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """ "Collapsed": a learning rate that is far too high, so that the loss becomes NaN."""
    _older_timm()
    sys.path.insert(0, str(checkouts / "mae"))
    import models_mae

    models_mae.tiny = lambda **more: models_mae.MaskedAutoencoderViT(
        img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=2, decoder_embed_dim=32, decoder_depth=1, **more
    )
    rate = ["--lr", 1e6 if collapsed else 2e-3, "--warmup_epochs", 0 if collapsed else 1]
    flags = ["--model", "tiny", "--input_size", 16, "--batch_size", 32, "--epochs", 12, "--device", "cpu", *rate]
    flags += ["--num_workers", 0, "--output_dir", folder, "--log_dir", folder]
    models_mae.tiny.__name__ = "tiny"
    script(checkouts / "mae", "main_pretrain.py", "--data_path", images, *flags)


def _older_timm() -> None:
    """The names that MAE's and MoCo v3's code uses of timm 0.3.2, torch 1.8 and numpy 1.20."""
    import timm
    import timm.optim.optim_factory as optim_factory
    from timm.layers import PatchEmbed, to_2tuple
    from timm.models import vision_transformer

    timm.__version__ = "0.3.2"
    optim_factory.add_weight_decay = optim_factory.param_groups_weight_decay
    helpers, layers, six = (types.ModuleType(name) for name in ("helpers", "layers", "_six"))
    helpers.to_2tuple, layers.PatchEmbed, six.inf = to_2tuple, PatchEmbed, float("inf")
    sys.modules |= {"timm.models.layers": layers, "timm.models.layers.helpers": helpers, "torch._six": six}
    np.float = float
    block = vision_transformer.Block
    vision_transformer.Block = lambda *args, qk_scale=None, **more: block(*args, **more)


def lightning(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """lightly's SimSiam in pytorch-lightning, with its CSV, TensorBoard and wandb loggers. Collapsed: the targets get a
    gradient, and there is no batch norm in the heads."""
    import pytorch_lightning as pl
    import wandb
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead
    from lightly.transforms import SimSiamTransform
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    if collapsed:
        nn.BatchNorm1d = lambda *_, **__: nn.Identity()

    class SimSiam(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = torchvision.models.resnet18(num_classes=512)
            self.projector, self.predictor = SimSiamProjectionHead(512, 256, 128), SimSiamPredictionHead(128, 32, 128)
            self.criterion = NegativeCosineSimilarity()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            z0, z1 = (self.projector(self.backbone(view)) for view in batch[0])
            p0, p1 = self.predictor(z0), self.predictor(z1)
            t0, t1 = (z0, z1) if collapsed else (z0.detach(), z1.detach())
            loss = 0.5 * (self.criterion(p0, t1) + self.criterion(p1, t0))
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.3 if collapsed else 0.1, momentum=0.9)

    data = torchvision.datasets.ImageFolder(images / "train", SimSiamTransform(input_size=16))
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
    loggers = [
        CSVLogger(folder),
        TensorBoardLogger(folder),
        WandbLogger(save_dir=folder, offline=True, settings=settings),
    ]
    trainer = pl.Trainer(
        max_epochs=10, accelerator="cpu", logger=loggers, log_every_n_steps=1, enable_checkpointing=False
    )
    trainer.fit(SimSiam(), loader)
    wandb.finish()


def lightly_train(collapsed: bool, checkouts: Path, images: Path, folder: Path) -> None:
    """lightly-train's DINO."""
    import lightly_train as program

    program.pretrain(
        out=folder / "out",
        data=images / "train",
        model="torchvision/resnet18",
        method="dino",
        method_args={
            "output_dim": 1024,
            "hidden_dim": 128,
            "bottleneck_dim": 64,
            "teacher_temp": 0.04,
            "warmup_teacher_temp": 0.04,
        },
        transform_args={"image_size": (16, 16), "local_view": {"num_views": 2, "view_size": (8, 8)}},
        epochs=12,
        batch_size=32,
        num_workers=0,
        accelerator="cpu",
        devices=1,
        loggers={"jsonl": {}, "tensorboard": None},
        trainer_args={"log_every_n_steps": 1},
    )


PROGRAMS: dict[str, Callable[[bool, Path, Path, Path], None]] = {
    function.__name__: function for function in (simsiam, vicreg, barlow, dino, mocov3, mae, lightning, lightly_train)
}

if __name__ == "__main__":
    chosen, state, *folders = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if chosen not in ("lightning", "lightly_train"):  # which run on a CPU
        on_cpu()
    small()
    PROGRAMS[chosen](state == "collapsed", *map(Path, folders))
