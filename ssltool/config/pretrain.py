"""The settings of ``ssltool pretrain``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ssltool.config.common import STATES, STEMS, STRATEGIES, DataSettings, DeviceSettings, RunSettings
from ssltool.settings import setting
from ssltool.training import optimizers_of


def _option(name: str, help: str, default: Any = None, **more: Any) -> Any:
    """A flag that stands for the method's option ``name``; at its default it says nothing."""
    return setting(default, f"{help} [--set {name}=]", section="Method", method_option=name, **more)


@dataclass(frozen=True)
class PretrainConfig(RunSettings, DeviceSettings, DataSettings):
    """Settings of ``ssltool pretrain``. Where the default is None it depends on the data; the help says how."""

    strategy: str = setting(
        "iid",
        "which images each epoch sees: all of them (iid), the next chunk (current: a single pass), "
        "all chunks so far (accumulate), the last chunk (last)",
        choices=STRATEGIES,
        section="Data strategy",
    )
    incremental_idx_path: str | None = setting(
        None,
        "order of the images, a .npy file [default: random by --seed, saved as order.npy in the run folder]",
        section="Data strategy",
        metavar="FILE",
    )
    chunk_size: int = setting(1, "epochs spent on each chunk", section="Data strategy", minimum=1)
    n_rounds: int = setting(1, "times to go through the chunks; divides --epochs", section="Data strategy", minimum=1)
    repeat_batch: int = setting(1, "times each batch is used in a row", section="Data strategy", minimum=1)
    steps_per_epoch: int | None = setting(
        None, "steps in an epoch [default: images / batch size]", section="Data strategy", minimum=1, fixed=True
    )
    n_warmup_steps: int = setting(
        0,
        "steps at the start of each epoch after the first in which only the predictor learns",
        section="Data strategy",
        minimum=0,
    )

    method: str = setting("simsiam", "what is trained; ssltool methods lists them", "-m", section="Method", fixed=True)
    options: tuple[str, ...] = setting(
        (),
        "an option of the method; repeatable. ssltool methods NAME lists them",
        "--set",
        section="Method",
        metavar="NAME=VALUE",
    )
    dim: int | None = _option("dim", "width of the projection")
    pred_dim: int | None = _option("pred_dim", "hidden width of SimSiam's predictor")
    fix_pred_lr: bool | None = _option("fix_pred_lr", "keep the predictor's learning rate constant")
    n_augs: int | None = _option("n_augs", "views of each image")
    moco_dim: int | None = _option("dim", "the same as --dim")
    moco_mlp_dim: int | None = _option("hidden", "hidden width of projector and predictor")
    moco_m: float | None = _option("momentum", "momentum of the teacher")
    moco_m_cos: bool = _option("momentum_final", "let the teacher's momentum rise to 1", default=False)
    moco_t: float | None = _option("temperature", "temperature of a contrastive loss")
    teacher_checkpoint: str | None = _option("teacher", "checkpoint that distill learns from", metavar="FILE")
    ema_alpha: float | None = _option("alpha", "weight of a batch in distill's running means")
    labels_fraction: float | None = _option("labels_fraction", "share of each class's labels that paws uses")
    labels_path: str | None = _option("labels_path", "image numbers whose labels paws uses", metavar="FILE")

    arch: str = setting(
        "resnet50",
        "backbone: a torchvision ResNet, resnet18_w16 or _w32 (narrow), "
        "resnet18_bottleneck_w64, resnet50_nobottleneck, vit_small, vit_small_depth6, vit_base_p8, ...",
        "-a",
        section="Model",
        fixed=True,
    )
    stem: str = setting(
        "auto",
        "first layers of a ResNet: 7x7 and max-pool (imagenet), 3x3 without max-pool (small), the same with "
        "stride 2, or padded by 2 px as solo-learn does; auto is small up to 64 px",
        choices=STEMS,
        section="Model",
        fixed=True,
    )
    zero_init_residual: bool = setting(
        True, "start a ResNet's residual branches at zero, as SimSiam does", section="Model", fixed=True
    )
    stop_grad_conv1: bool = setting(False, "freeze a ViT's patch embedding", section="Model", fixed=True)

    crop_min: float = setting(
        0.2, "smallest area of a random crop, as a share of the image", section="Views", above=0, maximum=1
    )
    flip_p: float = setting(0.5, "probability of a horizontal flip", section="Views", minimum=0, maximum=1)
    jitter_p: float = setting(0.8, "probability of colour jitter", section="Views", minimum=0, maximum=1)
    jitter: float = setting(
        1.0, "strength of colour jitter; 1 is the paper's 0.4/0.4/0.4/0.1", section="Views", minimum=0, maximum=2.5
    )
    gray_p: float = setting(0.2, "probability of turning grey", section="Views", minimum=0, maximum=1)
    blur_p: float | None = setting(
        None,
        "probability of Gaussian blur, sigma 0.1-2 px [default: 0.5 above 64 px, else 0]",
        section="Views",
        minimum=0,
        maximum=1,
    )

    solarize_p: float = setting(
        0.0, "probability of inverting the bright pixels", section="Views", minimum=0, maximum=1
    )

    epochs: int | None = setting(
        None, "epochs [default: 100; 10 on the bundled data]", section="Optimisation", minimum=1, fixed=True
    )
    batch_size: int | None = setting(
        None,
        "images in a batch, over all ranks [default: 512; 128 on the bundled data]",
        "-b",
        section="Optimisation",
        minimum=2,
        fixed=True,
    )
    optimizer: str = setting(
        "sgd", "update rule", choices=optimizers_of("pretrain"), section="Optimisation", fixed=True
    )
    lr: float = setting(
        0.05,
        "learning rate for a batch of 256; scaled with the batch",
        "--learning-rate",
        section="Optimisation",
        above=0,
        fixed=True,
    )
    final_lr: float = setting(
        0.0, "learning rate that the cosine ends on, scaled alike", section="Optimisation", minimum=0, fixed=True
    )
    momentum: float = setting(0.9, "momentum of SGD and LARS", section="Optimisation", minimum=0, maximum=1, fixed=True)
    lars_trust: float = setting(0.001, "trust coefficient of LARS", section="Optimisation", above=0, fixed=True)
    lars_clip: bool = setting(
        False, "let LARS lower a layer's rate but not raise it, as solo-learn does", section="Optimisation", fixed=True
    )
    weight_decay: float = setting(1e-4, "weight decay", "--wd", section="Optimisation", minimum=0, fixed=True)
    final_weight_decay: float | None = setting(
        None,
        "weight decay at the end, along a cosine [default: the same throughout]",
        section="Optimisation",
        minimum=0,
        fixed=True,
    )
    lr_schedule: str = setting(
        "epoch",
        "move the rate along its cosine at every epoch, or at every step",
        choices=("epoch", "step"),
        section="Optimisation",
        fixed=True,
    )
    warmup_epochs: int = setting(0, "epochs of linear warm-up", section="Optimisation", minimum=0, fixed=True)
    fix_all_lr: bool = setting(False, "keep every learning rate constant", section="Optimisation", fixed=True)
    seed: int = setting(
        10, "seed of the weights, the order and the views", section="Optimisation", minimum=0, fixed=True
    )

    resume: str | None = setting(
        None,
        "go on from this checkpoint, a run folder's newest, or with auto this run folder's newest if it has one",
        section="Run",
        metavar="PATH",
    )
    start_epoch: int | None = setting(
        None, "number of completed epochs, instead of the checkpoint's own", section="Run", minimum=0
    )
    save_every: int = setting(10, "keep a checkpoint every so many epochs, and the last", section="Run", minimum=1)
    save_steps: int | None = setting(None, "also refresh checkpoint.pt every so many steps", section="Run", minimum=1)
    print_freq: int = setting(10, "steps between lines where stderr is no terminal", "-p", section="Run", minimum=1)
    dry_run: bool = setting(False, "print the plan and stop", section="Run")
    tensorboard: bool = setting(False, "also log to TensorBoard, in the run folder", section="Run")
    wandb: bool = setting(False, "also log to Weights & Biases", section="Run")
    test: bool = setting(False, "keep wandb offline", "-t", section="Run")

    monitor_every: int = setting(
        1, "epochs between looks at whether the network collapses; 0 for none", section="Monitor", minimum=0
    )
    monitor_size: int | None = setting(
        None,
        "training images that are looked at, always the same [default: an eighth of all, but 256 to 2048]",
        section="Monitor",
        minimum=2,
    )
    stop_on: str | None = setting(
        None,
        "end the run, saved and with exit code 3, once it has collapsed so far",
        choices=STATES[1:],
        section="Monitor",
    )

    precision: str = setting(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16"), section="Hardware"
    )
    channels_last: bool = setting(True, "keep images channels-last in memory", section="Hardware")
    compile: bool = setting(False, "compile the model with torch.compile", section="Hardware")
    dist_backend: str = setting(
        "auto",
        "backend under torchrun: gloo on CPU and nccl on CUDA when auto",
        choices=("auto", "gloo", "nccl"),
        section="Hardware",
    )
