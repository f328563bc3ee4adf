"""The settings of every stage: frozen dataclasses, the only home of names, defaults and help texts.

The command line is generated from these classes (``ssltool.cli.options``), the checks of ranges and
choices happen here for Python and command line alike, and a run's resolved settings are saved as
``config.json`` and inside each checkpoint. Only the standard library is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssltool.settings import Checked, setting

STRATEGIES = ("iid", "current", "accumulate", "last")
DATASETS = (
    "auto",
    "bundled",
    "imagenet",
    "folder",
    "images",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "places365",
)
SPLITS = ("train", "val", "unlabeled")
STEMS = ("auto", "imagenet", "small", "small-stride2")
LAYERS = ("backbone", "projector", "predictor")


@dataclass(frozen=True)
class DataSettings(Checked):
    """Which images, and how they are read."""

    data: str | None = setting(
        None, "folder of the images; the bundled Fashion-MNIST subset when none is given", section="Data", metavar="DIR"
    )
    dataset_type: str = setting(
        "auto",
        f"layout of DATA: {', '.join(DATASETS)}, or the paper's imagenet_train, imagenet_train_subset, "
        "places_simsiam_train, ...; auto looks at the folder",
        section="Data",
    )
    idx_path: str | None = setting(
        None, "restrict to the image numbers in this .npy file", section="Data", metavar="FILE"
    )
    download: bool = setting(False, "fetch the dataset into DATA first, where torchvision can", section="Data")
    small: bool = setting(False, "the 256-pixel version of Places365", section="Data")
    skip_corrupt: bool = setting(
        False, "read every image once before starting and leave out those that cannot be decoded", section="Data"
    )
    image_size: int | None = setting(
        None,
        "side of the input in pixels [default: 224, or the images' own size where all share one up to 96]",
        section="Data",
        minimum=8,
        fixed=True,
    )
    workers: int | None = setting(
        None,
        "processes that decode images from files [default: one per core, at most 8]",
        "-j",
        section="Data",
        minimum=0,
    )


@dataclass(frozen=True)
class DeviceSettings(Checked):
    """Where the arithmetic happens."""

    device: str = setting("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"), section="Hardware")
    gpu: int | None = setting(None, "number of the CUDA device", section="Hardware", minimum=0)


@dataclass(frozen=True)
class RunSettings(Checked):
    """Where a training stage writes, and what it does with what is there."""

    exp_name: str | None = setting(None, "name of the run folder [default: made from the settings]", section="Run")
    exp_id: int = setting(0, "number of the run: the folder is logs/EXP_NAME_EXP_ID", section="Run", minimum=0)
    out: str | None = setting(None, "run folder, instead of logs/EXP_NAME_EXP_ID", "-o", section="Run", metavar="PATH")
    overwrite: bool = setting(False, "replace the run that the folder holds", section="Run")


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
        "resnet18_bottleneck_w64, resnet50_nobottleneck, vit_small, vit_small_depth6, ...",
        "-a",
        section="Model",
        fixed=True,
    )
    stem: str = setting(
        "auto",
        "first layers of a ResNet: 7x7 and max-pool (imagenet), 3x3 without max-pool (small), the same with "
        "stride 2; auto is small up to 64 px",
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
        "sgd", "update rule", choices=("sgd", "adam", "adamw", "lars"), section="Optimisation", fixed=True
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
        None, "count epochs from here instead of where the checkpoint stopped", section="Run", minimum=0
    )
    save_every: int = setting(10, "keep a checkpoint every so many epochs, and the last", section="Run", minimum=1)
    save_steps: int | None = setting(None, "also refresh checkpoint.pt every so many steps", section="Run", minimum=1)
    print_freq: int = setting(10, "steps between lines where stderr is no terminal", "-p", section="Run", minimum=1)
    dry_run: bool = setting(False, "print the plan and stop", section="Run")
    tensorboard: bool = setting(False, "also log to TensorBoard, in the run folder", section="Run")
    wandb: bool = setting(False, "also log to Weights & Biases", section="Run")
    test: bool = setting(False, "keep wandb offline", "-t", section="Run")

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


@dataclass(frozen=True)
class NetworkSettings(DeviceSettings, DataSettings):
    """Which pretrained network a later stage looks at. What is None comes from its checkpoint."""

    data: str | None = setting(None, "folder of the images [default: the checkpoint's]", section="Data", metavar="DIR")
    image_size: int | None = setting(
        None, "side of the input in pixels [default: the checkpoint's]", section="Data", minimum=8
    )
    pretrained: str | None = setting(None, "checkpoint of the model", section="Model", metavar="FILE")
    arch: str | None = setting(None, "backbone [default: the checkpoint's]", "-a", section="Model")
    stem: str | None = setting(None, "stem [default: the checkpoint's]", choices=STEMS, section="Model")
    random: bool = setting(False, "an untrained network instead, with the checkpoint's settings", section="Model")


@dataclass(frozen=True)
class SaveReprsConfig(NetworkSettings):
    """Settings of ``ssltool save-reprs``."""

    layer: str = setting("backbone", "whose output to save", choices=LAYERS, section="Model")
    split: str | None = setting(
        None,
        "which images [default: the one --dataset_type names, else train]",
        choices=(*SPLITS, "both"),
        section="Data",
    )
    batch_size: int = setting(256, "images in a batch", "-b", section="Data", minimum=1)
    out: str | None = setting(
        None,
        "file to write, or a folder with --split both [default: data/ARCH_exp0000/DATASET/SPLIT_reprs_e0.pt, with "
        "_random and the layer after the number where it is not the trained backbone's]",
        "-o",
        section="Output",
        metavar="PATH",
    )
    exp_id: int | None = setting(
        None, "number in the default name [default: the checkpoint's]", section="Output", minimum=0
    )
    extra_info: str | None = setting(None, "added to the default name's folder", section="Output")


@dataclass(frozen=True)
class KnnConfig(DeviceSettings):
    """Settings of ``ssltool knn``."""

    bank: str | None = setting(None, "representations with labels, which vote")
    queries: str | None = setting(None, "representations to classify")
    k: int = setting(20, "neighbours that vote", "-k", minimum=1)
    metric: str = setting("cos", "what near means: cosine similarity or Euclidean distance", choices=("cos", "l2"))
    weighted: bool = setting(False, "weight votes by exp(similarity / temperature) instead of counting them")
    temperature: float = setting(0.07, "temperature of the weighted vote", above=0)
    chunk: int = setting(1024, "queries compared at a time; bounds the memory", minimum=1)
    folder: str | None = setting(
        None, "folder of --source and --target; the paper's output files go there", metavar="DIR"
    )
    source: str | None = setting(None, "file of the bank in --folder", metavar="FILE")
    target: str | None = setting(None, "file of the queries in --folder", metavar="FILE")


@dataclass(frozen=True)
class LinclsConfig(RunSettings, NetworkSettings):
    """Settings of ``ssltool lincls``."""

    lars: bool = setting(False, "LARC: scale each layer's update by its norms (trust 0.001)", section="Optimisation")
    epochs: int = setting(90, "epochs", section="Optimisation", minimum=1)
    batch_size: int | None = setting(
        None, "images in a batch [default: 4096; 256 on the bundled data]", "-b", section="Optimisation", minimum=1
    )
    lr: float = setting(
        0.1,
        "learning rate for a batch of 256; scaled with the batch",
        "--learning-rate",
        section="Optimisation",
        above=0,
    )
    momentum: float = setting(0.9, "momentum of SGD", section="Optimisation", minimum=0, maximum=1)
    weight_decay: float = setting(0.0, "weight decay", "--wd", section="Optimisation", minimum=0)
    seed: int = setting(10, "seed of the weights, the order and the crops", section="Optimisation", minimum=0)


@dataclass(frozen=True)
class CollapseConfig(Checked):
    """Settings of ``ssltool collapse``."""

    files: tuple[str, ...] = setting((), "representations")
    type: str = setting(
        "svd",
        "spectrum to save and plot: singular values (svd) or per-dimension deviations (std)",
        choices=("svd", "std"),
    )
    normalize: bool = setting(False, "scale every row to length 1 first")
    plot: str | None = setting(None, "draw the spectra into this file: .png, .pdf or .svg", metavar="FILE")
    out: str | None = setting(None, "folder for the spectrum files [default: beside each input]", "-o", metavar="PATH")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as plain values that JSON and a checkpoint can hold."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def fixed_settings(cls: type) -> list[str]:
    """Names of the settings that a resumed run must share with the run it goes on from."""
    return [f.name for f in dataclasses.fields(cls) if f.metadata.get("fixed")]
