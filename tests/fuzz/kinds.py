"""The kinds of files: where the good one is, how it is damaged by structure, and the commands that read it.

Command lines are run in a copy of the folder of good files. ``new`` is a name that does not exist in it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from fuzz import damage, damage_arrays, damage_images
from fuzz.damage import Damage
from fuzz.goods import CPU, INTERRUPTED, LARGE, PRETRAIN, UNFINISHED


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        paths: good files of this kind, relative to the folder of the good files.
        structure: damages such a file by its structure; None gives it another name.
        commands: the command lines that read it.
        weight: how often it is chosen, compared with the others.
        bytes: whether it may be damaged in its bytes too; folders and links may not.
    """

    paths: tuple[str, ...]
    structure: Damage | None
    commands: tuple[str, ...]
    weight: float = 1.0
    bytes: bool = True


NEW_RUN = f"--epochs 1 -b 4 {CPU} -o new"
MINE, CLUSTER = "--neighbours 2", f"--epochs 1 -b 8 {CPU}"
SELFLABEL = "--selflabel-epochs 1 --selflabel-batch-size 8 --threshold 0.1"
SMALL = "-a resnet18_w8 --stem small-stride2 --image-size 16"
OURS = "--pretrained run/checkpoint.pt"
RESUMED = f"{PRETRAIN} -o third --seed 4 --save-every 1 --resume"
LINCLS = f"lincls photos {OURS} --epochs 1 -b 8 --image-size 16 {CPU} -o probe --resume auto"
STOPPED = {line.split(" -o ")[1]: f"{line} --resume auto" for line in INTERRUPTED}
"""The command line that continues each run that was stopped within an epoch, by its folder."""

WEIGHTS = (
    f"save-reprs photos --split val -b 8 {CPU} -o new.pt --pretrained {{}}",
    f"save-reprs photos --split val --layer backbone.layer2 --pool none -b 8 {CPU} -o new.pt --pretrained {{}}",
    f"lincls photos --image-size 16 {NEW_RUN} --pretrained {{}}",
    f"finetune photos --image-size 16 {NEW_RUN} --pretrained {{}}",
    f"scan photos --image-size 16 {MINE} {CLUSTER} {SELFLABEL} -o new --pretrained {{}}",
    "export {} -o new.pt --to torchvision",
    "export {} -o new.pth --to simsiam",
    "inspect {} --keys",
    "inspect {} --json",
    f"pretrain photos --method distill {SMALL} {NEW_RUN} --steps-per-epoch 1 --monitor-every 0 "
    "--teacher-checkpoint {}",
)
"""Commands that read the file of weights {}. No library has networks as narrow as these: export refuses them."""

EXPORTS = (
    "export {} -o new.pth --to torchvision",
    "export {} -o new.safetensors --to timm",
    "export {} -o new.pth.tar --to simsiam",
)
"""Commands that export the file of weights {} of a network that other libraries have."""

VIEWS = (
    "collapse {} --device cpu --metrics all -o new",
    "collapse val.pt --like {} --device cpu -o new.json",
    "collapse val.pt --reference {} --device cpu -o new.json",
    "rank {} val.pt --by clid",
    "rank {} val.pt --by auc",
    "plot spectrum {} -o new.svg",
    "inspect {} --keys",
)
"""Commands that read the representations {}, also those of several views of each image."""

ROWS = (
    *VIEWS,
    "neighbours {} -k 3 --device cpu --sheet new.html",
    "neighbours {} 0 1 -k 3 --device cpu -o new.csv",
    "duplicates {} val.pt --device cpu --sheet new.html",
    "duplicates val.pt {} --device cpu --threshold 0.1 -o new.json",
    "outliers {} -k 2 -n 3 --device cpu --sheet new.html",
    "knn {} val.pt -k 3 --device cpu",
    "knn val.pt {} -k 3 --device cpu --metric l2 --per-class --confusion",
    "knn val.pt {} -k 3 --device cpu --neighbours new.pt",
    "collapse {} val.pt --device cpu --merge --normalize -o new.csv",
    "lincls --reprs {} val.pt --epochs 1 -b 8 --device cpu -o new",
    "lincls --reprs val.pt {} --solver lbfgs --max-iter 3 --device cpu -o new",
    "rank val.pt {} --by rankme -o new.csv",
)
"""Commands that read the representations {}, one row for each image."""

RUN = (
    "rank run other --by auc",
    "rank run other third --accuracy knn --by effective_rank -o new.csv",
    "rank run --checkpoints",
    "table run other third probe tuned clustered -o new.csv",
    "plot curves run other -o new.svg",
    "plot auc run other -o new.svg",
    "plot views run --rows 2 --data photos -o new.png",
    "plot schedule run --data photos -o new.svg",
    f"report run -o new.html --size 16 --queries 2 --rows 2 --data photos {CPU}",
    "inspect run",
)
"""Commands that read a run folder."""

ARRAYS = (
    f"pretrain {{}} {SMALL} --dim 16 --pred-dim 8 --steps-per-epoch 1 --monitor-every 0 {NEW_RUN}",
    f"pretrain {{}} {SMALL} --dim 16 --pred-dim 8 --steps-per-epoch 1 --monitor-size 8 {NEW_RUN} --dry-run",
    f"save-reprs {{}} {OURS} --split train -b 8 {CPU} -o new.pt",
    f"save-reprs {{}} {OURS} --split val -b 8 {CPU} -o new.pt",
    f"lincls {{}} {OURS} {NEW_RUN} --image-size 16",
    f"finetune {{}} {OURS} {NEW_RUN} --image-size 16",
    f"scan {{}} {OURS} --image-size 16 {MINE} --step mine {CPU} -o new",
)
"""Commands that read the dataset {}, train and val images."""

IMAGES = (
    *ARRAYS,
    f"save-reprs {{}} {OURS} --split val -b 8 {CPU} --skip-corrupt -o new.pt",
    f"finetune {{}} {OURS} {NEW_RUN} --image-size 16 --skip-corrupt",
    f"save-reprs {{}}/train {OURS} --split train --dataset-type folder -b 8 {CPU} -o new.pt",
    f"pretrain {{}}/train {SMALL} --dim 16 --pred-dim 8 --steps-per-epoch 1 --dataset-type images --monitor-every 0 "
    f"{NEW_RUN}",
)
"""Commands that read the folder of image files {}."""


PIXELS = ("--value-range auto", "--value-range 0 4096", "--background red", "--max-pixels 100")
"""Settings of how values become pixels."""


def of(commands: tuple[str, ...], path: str) -> tuple[str, ...]:
    """``commands`` with ``path`` in place of {}."""
    return tuple(line.replace("{}", path) for line in commands)


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(("run/checkpoint.pt",), damage.torch_file, of(WEIGHTS, "run/checkpoint.pt") + RUN, 4),
    "unfinished run": Kind(("third/checkpoint.pt",), damage.torch_file, (f"{RESUMED} auto", f"{RESUMED} third"), 2),
    "records of an unfinished run": Kind(("third/metrics.jsonl",), damage.lines_file, (f"{RESUMED} auto",)),
    "config.json of an unfinished run": Kind(("third/config.json",), damage.json_file, (f"{RESUMED} auto",)),
    "kept checkpoint": Kind(("run/checkpoint_0001.pt",), damage.torch_file, ("rank run --checkpoints", "inspect run")),
    "checkpoint of finetune": Kind(
        ("tuned/finetuned_pretrained_seed10.pt",),
        damage.torch_file,
        (
            *of(WEIGHTS, "tuned/finetuned_pretrained_seed10.pt"),
            f"finetune photos {OURS} --epochs 1 -b 8 {CPU} -o tuned --resume auto",
        ),
    ),
    "checkpoint of scan": Kind(
        ("clustered/clusters.pt",),
        damage.torch_file,
        (
            *of(WEIGHTS, "clustered/clusters.pt"),
            f"scan photos --step selflabel {SELFLABEL} {CPU} -o clustered --overwrite",
        ),
    ),
    "checkpoint of another program": Kind(("foreign.pth",), damage.torch_file, of(WEIGHTS, "foreign.pth"), 2),
    "checkpoint of a network of torchvision": Kind((LARGE,), damage.torch_file, of(EXPORTS, LARGE), 0.3),
    "safetensors": Kind(("foreign.safetensors",), damage.safetensors_file, of(WEIGHTS, "foreign.safetensors")),
    "representations": Kind(("train.pt",), damage.torch_file, of(ROWS, "train.pt"), 4),
    "representations of views": Kind(("views.pt",), damage.torch_file, of(VIEWS, "views.pt")),
    "representations as .npy": Kind(
        tuple(f"rows{name}.npy" for name in ("", "_targets", "_index", "_paths", "_digests")),
        damage_arrays.npy_file,
        of(ROWS, "rows.npy"),
        1.5,
    ),
    "representations as .npz": Kind(("rows.npz",), damage_arrays.npz_file, of(ROWS, "rows.npz")),
    "meta of .npy": Kind(("rows.json",), damage.json_file, of(ROWS, "rows.npy"), 0.5),
    "spectrum": Kind(
        ("train_svd.pt",),
        damage.torch_file,
        (
            "plot spectrum train_svd.pt -o new.svg",
            "plot spectrum train_svd.pt train.pt -o new.png",
            "inspect train_svd.pt",
        ),
    ),
    "probe": Kind(
        ("probe/probe.pt",),
        damage.torch_file,
        (
            f"lincls photos {OURS} --resume probe/probe.pt --evaluate {CPU}",
            LINCLS,
            "lincls --reprs train.pt val.pt --resume probe/probe.pt --evaluate --device cpu",
            "rank run other --by auc --accuracy linear --probes probe",
            "inspect probe/probe.pt",
        ),
        2,
    ),
    "neighbours": Kind(
        ("neighbours.pt", "clustered/neighbours.pt"),
        damage.torch_file,
        (
            f"scan photos --step cluster {CLUSTER} {OURS} -o clustered --overwrite",
            "inspect neighbours.pt clustered/neighbours.pt",
        ),
    ),
    "clusters": Kind(
        ("clustered/assignments_cluster.pt",),
        damage.torch_file,
        ("inspect clustered/assignments_cluster.pt --keys",),
        0.3,
    ),
    "forecast": Kind(
        ("forecast.json",),
        damage.json_file,
        ("rank run other --predict forecast.json --by auc", "inspect forecast.json"),
    ),
    "table of accuracies": Kind(
        ("accuracies.csv",),
        damage.csv_file,
        ("rank run other third --by auc --accuracy accuracies.csv -o new.csv",),
        0.5,
    ),
    "order": Kind(
        ("order.npy",),
        damage_arrays.npy_file,
        (f"{PRETRAIN} -o new --strategy current --incremental-idx-path order.npy", "inspect order.npy"),
    ),
    "order of a run": Kind(
        ("other/order.npy",),
        damage_arrays.npy_file,
        (
            f"{PRETRAIN} -o other --seed 3 --strategy current --resume auto",
            "plot schedule other --data photos -o new.svg",
            f"report other -o new.html --size 16 --data photos {CPU}",
        ),
        0.5,
    ),
    "image numbers": Kind(
        ("numbers.npy",),
        damage_arrays.npy_file,
        (
            f"{PRETRAIN} -o new --idx-path numbers.npy",
            f"save-reprs photos {OURS} --idx-path numbers.npy -b 8 {CPU} -o new.pt",
            f"lincls photos {OURS} --idx-path numbers.npy {NEW_RUN}",
            "inspect numbers.npy",
        ),
    ),
    "images of a run": Kind(
        ("third/images.jsonl", "run/images.jsonl"),
        damage.lines_file,
        (
            f"{RESUMED} auto".replace("photos", "other_photos"),
            "plot views run --rows 2 --data other_photos -o new.png",
            "plot schedule run --data other_photos -o new.svg",
            "inspect run third",
        ),
    ),
    "images of an unfinished output": Kind(
        (".new.pt.unfinished.images",),
        damage.lines_file,
        (UNFINISHED,),
        0.5,
    ),
    "run stopped within an epoch": Kind(
        tuple(f"{folder}/checkpoint.pt" for folder in ("paused",)),
        damage.torch_file,
        (STOPPED["paused"], "inspect paused", "inspect paused/checkpoint.pt --keys"),
    ),
    "lincls stopped within an epoch": Kind(
        ("linear/probe.pt",), damage.torch_file, (STOPPED["linear"], "inspect linear/probe.pt --keys")
    ),
    "finetune stopped within an epoch": Kind(
        ("tuning/finetuned_pretrained_seed10.pt",), damage.torch_file, (STOPPED["tuning"], "inspect tuning")
    ),
    "scan stopped within an epoch": Kind(
        ("clustering/training_cluster.pt",),
        damage.torch_file,
        (STOPPED["clustering"], "inspect clustering/training_cluster.pt"),
    ),
    "scan stopped while labelling": Kind(
        ("labelling/training_selflabel.pt", "labelling/clusters.pt", "labelling/assignments_cluster.pt"),
        damage.torch_file,
        (STOPPED["labelling"], f"scan photos --step selflabel {SELFLABEL} {CPU} -o labelling --resume auto"),
    ),
    "unfinished output": Kind(
        (".new.pt.unfinished",),
        damage.partial_file,
        (UNFINISHED,),
        0.5,
    ),
    "config.json": Kind(
        ("run/config.json",), damage.json_file, (*RUN, f"pretrain --config run/config.json {CPU} -o new"), 3
    ),
    "config.json of lincls": Kind(
        ("probe/config.json",),
        damage.json_file,
        (
            f"lincls --config probe/config.json {CPU} -o new",
            "rank run other --accuracy linear --probes probe",
            "table run probe",
            "inspect probe",
        ),
    ),
    "config.json of finetune": Kind(
        ("tuned/config.json",), damage.json_file, (f"finetune --config tuned/config.json {CPU} -o new", "inspect tuned")
    ),
    "config.json of scan": Kind(
        ("clustered/config.json",),
        damage.json_file,
        (f"scan --config clustered/config.json {CPU} -o new", "inspect clustered"),
    ),
    "metrics.jsonl": Kind(("run/metrics.jsonl",), damage.lines_file, RUN, 3),
    "metrics.jsonl of lincls": Kind(
        ("probe/metrics.jsonl",),
        damage.lines_file,
        (
            "inspect probe",
            "rank run other --accuracy linear --probes probe",
            LINCLS,
        ),
        0.5,
    ),
    "IDX": Kind(
        ("idx/train-images-idx3-ubyte", "idx/train-labels-idx1-ubyte", "idx/t10k-labels-idx1-ubyte"),
        damage.idx_file,
        of(ARRAYS, "idx"),
    ),
    "CIFAR": Kind(("cifar/data_batch_1", "cifar/test_batch"), damage.cifar_file, of(ARRAYS, "cifar")),
    "STL-10": Kind(
        tuple(f"stl/{split}_{part}.bin" for split in ("train", "test") for part in "Xy"),
        damage.stl_file,
        of(ARRAYS, "stl"),
        0.5,
    ),
    "images as .npy": Kind(
        ("arrays/train.npy", "arrays/val.npy", "arrays/train_labels.npy", "arrays/val_labels.npy"),
        damage_arrays.npy_file,
        (*of(ARRAYS, "arrays"), f"save-reprs arrays/train.npy {OURS} --value-range auto -b 8 {CPU} -o new.pt"),
    ),
    "images as .npz": Kind(("arrays.npz",), damage_arrays.npz_file, of(ARRAYS, "arrays.npz")),
    "image of many bits or with alpha": Kind(
        tuple(f"deep/{split}/{name}.png" for split in ("train", "val") for name in ("ant/0", "bee/0", "bee/1")),
        damage_images.image_file,
        (*of(IMAGES, "deep"), *(f"{IMAGES[2].format('deep')} {more}" for more in PIXELS)),
        0.7,
    ),
    "image": Kind(
        ("photos/train/ant/0.jpg", "photos/train/bee/1.png", "photos/val/ant/0.jpg", "photos/val/cat/1.png"),
        damage_images.image_file,
        of(IMAGES, "photos"),
        1.5,
    ),
}
"""The kinds of files by name."""

if importlib.util.find_spec("pyarrow"):
    KINDS["representations as .parquet"] = Kind(("rows.parquet",), damage.parquet_file, of(ROWS, "rows.parquet"), 0.5)


NAMED = {
    "run": RUN,
    "train.pt": of(ROWS, "train.pt"),
    "foreign.pth": of(WEIGHTS, "foreign.pth"),
    "rows.npy": of(ROWS, "rows.npy"),
    "photos": of(IMAGES, "photos"),
    "photos/train/ant": of(IMAGES, "photos"),
    "photos/val/bee": of(IMAGES, "photos"),
    "photos/train/ant/0.jpg": of(IMAGES, "photos"),
    "idx": of(ARRAYS, "idx"),
}
"""Files and folders that get strange names, and the commands that read them."""

KINDS |= {f"name of {path}": Kind((path,), None, commands, 0.3, bytes=False) for path, commands in NAMED.items()}


def refuses(line: str) -> bool:
    """Whether a command line is refused with good files too: no library has networks as narrow as most of these, and
    other images or too large ones are none to go on with."""
    narrow = line.startswith("export") and LARGE not in line
    return narrow or "other_photos" in line or "--max-pixels" in line
