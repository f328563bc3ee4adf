"""The settings of ``ssltool pretrain``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ssltool.config.common import DataSettings, DeviceSettings, RunSettings
from ssltool.config.fields import (
    ARCHITECTURES,
    METHODS,
    MOST_EPOCHS,
    REGULARISERS,
    REPLAY_RULES,
    STEMS,
    STRATEGIES,
    batch_size,
    crop_min,
    epochs,
    learning_rate,
    limit,
    momentum,
    precision,
    probability,
    seed,
    warmup_epochs,
    warmup_mistakes,
    weight_decay,
)
from ssltool.settings import Rule, setting
from ssltool.training import optimizer_rule, optimizers_of

STREAM_HAS = (
    *("incremental_idx_path", "keyed_order", "chunk_size", "n_rounds", "idx_path", "small", "download"),
    *("skip_corrupt", "label_column", "unlabelled", "cache", "cache_size", "minutes", "start_epoch"),
)
"""Settings that do nothing with ``stream``."""


def _option(name: str, help: str, default: Any = None, **more: Any) -> Any:
    """A flag for the method's option ``name``; its default does not change the option."""
    return setting(default, f"{help} [--set {name}=]", section="Method", method_option=name, **more)


@dataclass(frozen=True)
class PretrainConfig(RunSettings, DeviceSettings, DataSettings):
    """Settings of ``ssltool pretrain``. None is a default that depends on the data, described in the help."""

    strategy: str = setting(
        "iid",
        "images of each epoch: all (iid), the next chunk (current: a single pass), all chunks so far (accumulate), "
        "the last chunk (last), the next chunk and a buffer of earlier images (replay)",
        choices=STRATEGIES,
        section="Data strategy",
    )
    incremental_idx_path: str | None = setting(
        None,
        "order of the images, a .npy file [default: random by --seed, saved as order.npy in the run folder]",
        section="Data strategy",
        metavar="FILE",
        advanced=True,
    )
    keyed_order: bool = setting(
        False,
        "compute the order of the images, and of those of each epoch, from the seed where it is needed, instead of "
        "keeping it in memory; another order than the default's",
        section="Data strategy",
        fixed=True,
        advanced=True,
    )
    stream: bool = setting(
        False,
        "read WebDataset shards once, in their order, without listing their images first; needs --strategy current, "
        "--epochs and --steps-per-epoch",
        section="Data strategy",
        fixed=True,
        advanced=True,
    )
    chunk_size: int = setting(
        1,
        "epochs spent on each chunk",
        section="Data strategy",
        minimum=1,
        maximum=MOST_EPOCHS,
        advanced=True,
    )
    n_rounds: int = setting(
        1,
        "passes over the chunks; --epochs must be divisible by it",
        section="Data strategy",
        minimum=1,
        maximum=MOST_EPOCHS,
        advanced=True,
    )
    replay_size: int | None = setting(
        None,
        "images of earlier chunks in the buffer of --strategy replay",
        section="Data strategy",
        minimum=0,
        advanced=True,
    )
    replay_rule: str = setting(
        "reservoir",
        "images that the buffer keeps: a uniform sample of all earlier ones (reservoir), or the last (fifo)",
        choices=REPLAY_RULES,
        section="Data strategy",
        advanced=True,
    )
    repeat_batch: int = setting(
        1,
        "times each batch is used in a row",
        section="Data strategy",
        minimum=1,
        maximum=1_000_000,
        advanced=True,
    )
    steps_per_epoch: int | None = setting(
        None,
        "steps in an epoch [default: images / batch size]",
        section="Data strategy",
        minimum=1,
        fixed=True,
        advanced=True,
    )
    n_warmup_steps: int = setting(
        0,
        "steps at the start of each epoch after the first that train only the predictor",
        section="Data strategy",
        minimum=0,
        advanced=True,
    )

    method: str = setting(
        "simsiam", "method; ssltool methods lists them", "-m", section="Method", fixed=True, names=METHODS
    )
    options: tuple[str, ...] = setting(
        (),
        "set an option of the method; repeatable. ssltool methods NAME lists them",
        section="Method",
        metavar="NAME=VALUE",
    )
    regularise: tuple[str, ...] = setting(
        (),
        "add a regulariser to the loss: {names}; of the backbone, or of the projector with @projector; repeatable",
        section="Method",
        metavar="NAME=WEIGHT[@LAYER]",
        names=REGULARISERS,
        fixed=True,
        advanced=True,
    )
    dim: int | None = _option("dim", "width of the projection")
    pred_dim: int | None = _option("pred_dim", "hidden width of SimSiam's predictor", advanced=True)
    fix_pred_lr: bool | None = _option("fix_pred_lr", "keep the predictor's learning rate constant")
    n_augs: int | None = _option("n_augs", "views of each image", advanced=True)
    moco_dim: int | None = _option("dim", "width of the projection", alias=True)
    moco_mlp_dim: int | None = _option("hidden", "hidden width of projector and predictor", alias=True)
    moco_m: float | None = _option("momentum", "momentum of the teacher", alias=True)
    moco_m_cos: bool = _option(
        "momentum_final", "raise the teacher's momentum to 1 along a cosine", default=False, alias=True
    )
    moco_t: float | None = _option("temperature", "temperature of the contrastive loss", alias=True)
    teacher_checkpoint: str | None = _option(
        "teacher", "checkpoint of the network that distill learns from", metavar="FILE", alias=True
    )
    ema_alpha: float | None = _option("alpha", "weight of a batch in distill's running means", alias=True)
    labels_fraction: float | None = _option(
        "labels_fraction", "fraction of each class's labels that paws uses", advanced=True
    )
    labels_path: str | None = _option(
        "labels_path", "numbers of the images whose labels paws uses", metavar="FILE", advanced=True
    )

    arch: str = setting(
        "resnet50",
        "backbone: a torchvision ResNet, resnet18_w16 or _w32 (narrow), "
        "resnet18_bottleneck_w64, resnet50_nobottleneck, vit_small, vit_small_depth6, vit_base_p8, ..., timm:NAME, "
        "torchvision:NAME",
        "-a",
        section="Model",
        fixed=True,
        names=ARCHITECTURES,
    )
    stem: str = setting(
        "auto",
        "first layers of a ResNet: 7x7 and max-pool (imagenet), 3x3 without max-pool (small), 3x3 with stride 2 "
        "(small-stride2) or with padding 2 as in solo-learn (small-padded); auto is small up to 64 px, else imagenet; "
        "small-stride2 on the bundled data",
        choices=STEMS,
        section="Model",
        fixed=True,
    )
    zero_init_residual: bool = setting(
        True,
        "initialise the last batch norm of each residual branch to zero, as SimSiam does",
        section="Model",
        fixed=True,
        advanced=True,
    )
    stop_grad_conv1: bool = setting(False, "freeze a ViT's patch embedding", section="Model", fixed=True, advanced=True)

    crop_min: float = crop_min(0.2, advanced=True)
    flip_p: float = probability(0.5, "a horizontal flip")
    jitter_p: float = probability(0.8, "colour jitter")
    jitter: float = setting(
        1.0,
        "strength of colour jitter; 1 is the paper's 0.4/0.4/0.4/0.1",
        section="Views",
        minimum=0,
        maximum=2.5,
        advanced=True,
    )
    gray_p: float = probability(0.2, "conversion to greyscale")
    blur_p: float | None = probability(None, "Gaussian blur, sigma 0.1-2 px [default: 0.5 above 64 px, else 0]")
    solarize_p: float = probability(0.0, "solarisation")

    epochs: int | None = epochs(None, "epochs [default: 100; 6 on the bundled data]", fixed=True)
    minutes: float | None = setting(
        None,
        "train for as many epochs as fit into this time, at the rate of a few trial steps",
        section="Optimisation",
        above=0,
        maximum=1e6,
        metavar="M",
    )
    batch_size: int | None = batch_size(
        None, "images in a batch, over all ranks [default: 512; 64 on the bundled data]", fixed=True
    )
    accumulate: int = setting(
        1,
        "train each batch as this many micro-batches and sum their gradients, to save memory; for methods whose loss "
        "does not compare the images of a batch",
        section="Optimisation",
        minimum=1,
        maximum=1_000_000,
        fixed=True,
        advanced=True,
    )
    optimizer: str = setting("sgd", "optimizer", choices=optimizers_of("pretrain"), section="Optimisation", fixed=True)
    lr: float = learning_rate(0.05, fixed=True)
    final_lr: float = setting(
        0.0,
        "learning rate at the end of the cosine schedule, scaled alike",
        section="Optimisation",
        minimum=0,
        fixed=True,
        advanced=True,
    )
    momentum: float = momentum("momentum of SGD and LARS", fixed=True)
    lars_trust: float = setting(
        0.001, "trust coefficient of LARS", section="Optimisation", above=0, fixed=True, advanced=True
    )
    lars_clip: bool = setting(
        False,
        "let LARS lower a layer's learning rate but not raise it, as solo-learn does",
        section="Optimisation",
        fixed=True,
        advanced=True,
    )
    weight_decay: float = weight_decay(1e-4, fixed=True)
    final_weight_decay: float | None = setting(
        None,
        "weight decay at the end of a cosine schedule [default: constant]",
        section="Optimisation",
        minimum=0,
        fixed=True,
        advanced=True,
    )
    lr_schedule: str = setting(
        "epoch",
        "update the learning rate at every epoch or at every step",
        choices=("epoch", "step"),
        section="Optimisation",
        fixed=True,
        advanced=True,
    )
    warmup_epochs: int = warmup_epochs(fixed=True)
    fix_all_lr: bool = setting(
        False, "keep every learning rate constant", section="Optimisation", fixed=True, advanced=True
    )
    seed: int = seed("weights, order and views", section="Optimisation", fixed=True)

    resume: str | None = setting(
        None,
        "resume from this checkpoint or run folder; auto: continue the run in the run folder, if there is one",
        section="Run",
        metavar="PATH|auto",
    )
    start_epoch: int | None = setting(
        None,
        "number of completed epochs, instead of the checkpoint's own",
        section="Run",
        minimum=0,
        advanced=True,
    )
    save_every: int = setting(10, "epochs between checkpoints that are kept", section="Run", minimum=1, advanced=True)
    keep: int | None = setting(
        None,
        "keep only this many of these checkpoints, the newest [default: all]",
        section="Run",
        minimum=1,
        advanced=True,
    )
    save_steps: int | None = setting(
        None, "also update checkpoint.pt after every this many steps", section="Run", minimum=1, advanced=True
    )
    print_freq: int = setting(
        10, "steps between progress lines if stderr is not a terminal", "-p", section="Run", minimum=1, advanced=True
    )
    dry_run: bool = setting(False, "print the plan, train nothing", section="Run")
    tensorboard: bool = setting(False, "also log to TensorBoard, in the run folder", section="Run", advanced=True)
    wandb: bool = setting(False, "also log to Weights & Biases", section="Run", advanced=True)
    test: bool = setting(False, "keep wandb offline", section="Run", aliases=("-t",), advanced=True)

    monitor_every: int = setting(1, "epochs between measurements of collapse; 0 for none", section="Monitor", minimum=0)
    monitor_size: int | None = setting(
        None,
        "training images to measure, a fixed sample [default: an eighth of all, at least 256 and at most 2048]",
        section="Monitor",
        minimum=2,
        advanced=True,
    )
    stop_on: str | None = limit(
        "save and stop the run with exit code 3 once the collapse is of this severity or kind", section="Monitor"
    )

    precision: str = precision(
        "precision of the forward pass; auto is bf16 if the processor multiplies it (AVX512-BF16, AMX, recent GPUs), "
        "else fp32",
        ("auto", "fp32", "bf16", "fp16"),
        default="auto",
    )
    channels_last: bool = setting(True, "use the channels-last memory format", section="Hardware", advanced=True)
    checkpoint_activations: bool = setting(
        False,
        "compute the activations of the backbone's blocks again in the backward pass instead of keeping them: the same "
        "weights with less memory, about a third slower",
        section="Hardware",
        advanced=True,
    )
    compile: bool = setting(False, "compile the model with torch.compile", section="Hardware", advanced=True)
    cuda_graphs: bool = setting(
        False,
        "with --compile, start the kernels of a step together, as CUDA graphs; faster where they are short, as with "
        "small networks and images",
        section="Hardware",
        advanced=True,
    )
    dist_backend: str = setting(
        "auto",
        "backend under torchrun; auto is gloo on CPU and nccl on CUDA",
        choices=("auto", "gloo", "nccl"),
        section="Hardware",
        advanced=True,
    )

    def conflicts(self) -> list[Rule]:
        return [
            *super().conflicts(),
            (("incremental_idx_path", "chunk_size", "n_rounds"), self.strategy == "iid", "with --strategy iid"),
            (("incremental_idx_path",), self.keyed_order, "with --keyed-order"),
            (STREAM_HAS, self.stream, "with --stream, which reads the images once, in their order"),
            (("replay_size", "replay_rule"), self.strategy != "replay", f"with --strategy {self.strategy}"),
            (("replay_rule",), self.replay_size == 0, "with --replay-size 0"),
            optimizer_rule(self, self.optimizer),
            (("final_lr", "warmup_epochs", "fix_pred_lr", "lr_schedule"), self.fix_all_lr, "with --fix-all-lr"),
            (("test",), not self.wandb, "without --wandb"),
            (("cuda_graphs",), not self.compile, "without --compile"),
            (("minutes",), self.epochs is not None, "with --epochs, which --recipe and --config set too"),
            (("monitor_size", "stop_on"), self.monitor_every == 0, "with --monitor-every 0"),
            (("jitter",), self.jitter_p == 0, "with --jitter-p 0"),
            (("start_epoch",), self.resume is None, "without --resume"),
            (("start_epoch",), self.resume == "auto", "with --resume auto, which continues at the checkpoint's epoch"),
        ]

    def mistakes(self) -> Iterator[str]:
        yield from super().mistakes()
        yield from warmup_mistakes(self.warmup_epochs, self.epochs)
        if self.epochs and self.epochs % self.n_rounds:
            yield f"--epochs ({self.epochs}) must be divisible by --n-rounds ({self.n_rounds})"
        if self.strategy == "replay" and self.replay_size is None:
            yield "--strategy replay needs --replay-size, the number of images in its buffer"
        if self.keyed_order and self.strategy == "replay" and self.replay_size and self.replay_rule == "reservoir":
            yield "--replay-rule reservoir keeps a number for each image in memory; with --keyed-order use fifo"
        if self.stream and (self.strategy != "current" or self.steps_per_epoch is None or self.epochs is None):
            yield "--stream does not count the images, and needs --strategy current, --epochs and --steps-per-epoch"
        if self.epochs and self.start_epoch is not None and self.start_epoch >= self.epochs:
            yield f"--start-epoch {self.start_epoch} must be smaller than --epochs ({self.epochs})"
