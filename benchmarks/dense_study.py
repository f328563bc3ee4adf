"""Which measure shows how good dense features are? A small ViT on scenes of several objects, checkpoint by checkpoint.

    python benchmarks/dense_study.py [--folder DIR] [--method NAME ...] [--epochs 20] [--every 1] [--last N]

A scene of 32 x 32 pixels has four cells; three of four on average hold a bundled image, reduced to 14 x 14 pixels, at a
random place. So each patch of 4 x 4 pixels has the class of its object, or is background. A ViT of width 48 and depth 3
is trained without labels on the scenes. For each kept checkpoint, and the untrained network:

- dense accuracy: 20-NN and linear accuracy of the patches that are not background, of 150 scenes from 150 others;
- class accuracy: 20-NN accuracy of the class token on single objects;
- the metrics of patches of these scenes, and of class tokens: RankMe, alpha, effective rank, and LiDAR of 8 views of
  100 scenes.

The patches of the last checkpoint of the first method are then made worse on purpose, in four ways: *smoothing* mixes
each patch with the mean of its image, *rank* keeps some principal components of all patches, *noise* adds normal noise
of so many standard deviations, and *outliers* replaces a share of the patches by one vector of five times their norm.

DSE is also weighted as in the paper: its M_dim times the ratio of standard deviations among the checkpoints of a run.
Prints a row for each checkpoint, the checkpoint that each measure picks, and Spearman's correlation of each measure
with each accuracy over the trained checkpoints of a run, with its 95 % interval. Runs and measurements in ``--folder``
are kept and not repeated. Needs timm.
"""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

ARCH = "timm:vit_tiny_patch16_224,patch_size=4,embed_dim=48,depth=3,num_heads=3"
SIZE, CELL, OBJECT, PATCH = 32, 16, 14, 4
SCENES = {"train": 4000, "val": 300}
EMPTY = 0.25
"""Share of the cells without an object."""

OBJECTS = 1000
"""Single objects of each split, at most, on which class accuracy is measured."""

FOREGROUND = 25
"""Mean brightness, of 255, above which a patch of an object is not background."""

SHARED = {
    "batch_size": 64,
    "precision": "fp32",
    "workers": 0,
    "monitor_every": 0,
    "optimizer": "adamw",
    "image_size": SIZE,
    "crop_pct": 1.0,
    "gray_p": 0.0,
    "arch": ARCH,
}
METHODS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "mocov3": ({"lr": 4e-3}, ("dim=128", "hidden=256", "momentum=0.98", "temperature=0.2")),
    "dino": ({"lr": 2e-3}, ("dim=64", "hidden=256", "prototypes=512", "momentum=0.98", "local_crops=0")),
    "simsiam": ({"lr": 4e-3}, ("dim=128", "pred_dim=32")),
}

DENSE = ("dense 20-NN", "dense linear")
MEASURES = (
    "dse", "dse weighted", "dse_inter", "dse_batch", "dse_image", "dse_dim", "patch_cosine", "patch_rank",
    "patch_rank_over_all", "cls_patch_cosine", "gram_drift", "rankme", "lidar", "alpha", "effective_rank",
)  # fmt: skip

ACCURACIES = (*DENSE, "class 20-NN")
PICKS: dict[str, Callable[[dict[str, Any]], float]] = {
    "best dense 20-NN": lambda row: row["dense 20-NN"],
    "last": lambda row: row["epoch"],
    "class 20-NN": lambda row: row["class 20-NN"],
    "highest dse": lambda row: row["dse"],
    "highest dse weighted": lambda row: row["dse weighted"],
    "lowest patch_cosine": lambda row: -row["patch_cosine"],
    "highest patch_rank": lambda row: row["patch_rank"],
    "highest patch_rank_over_all": lambda row: row["patch_rank_over_all"],
    "highest rankme": lambda row: row["rankme"],
    "highest lidar": lambda row: row["lidar"],
    "alpha nearest to 1": lambda row: -abs(row["alpha"] - 1),
    "highest effective_rank": lambda row: row["effective_rank"],
}
"""How a checkpoint of a run is picked: that of the highest value."""

DEGRADED: dict[str, tuple[float, ...]] = {
    "smoothing": (0.0, 0.5, 0.75, 0.9, 0.95, 1.0),
    "rank": (48, 24, 12, 6, 3, 1),
    "noise": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0),
    "outliers": (0.0, 0.01, 0.03, 0.1, 0.3, 0.5),
}
"""The levels of each kind of degradation, from none to the strongest."""


def scenes(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scenes (count, 32, 32) uint8 and the class of each patch (count, 64), -1 for background."""
    import torch

    from ssltool.config import DataSettings
    from ssltool.data.images import open_dataset

    random = np.random.RandomState(seed)
    images = open_dataset(DataSettings(), split)
    objects, labels = reduced(images, OBJECT), np.asarray(images.labels)
    canvas = np.zeros((count, SIZE, SIZE), dtype=np.uint8)
    classes = np.full((count, SIZE // PATCH, SIZE // PATCH), -1)
    for scene in range(count):
        for top in range(0, SIZE, CELL):
            for left in range(0, SIZE, CELL):
                number, (y, x) = random.randint(len(objects)), random.randint(0, CELL - OBJECT + 1, size=2)
                if random.rand() >= EMPTY:
                    canvas[scene, top + y : top + y + OBJECT, left + x : left + x + OBJECT] = objects[number]
                    rows, columns = (slice(at // PATCH, (at + CELL) // PATCH) for at in (top, left))
                    classes[scene, rows, columns] = labels[number]
    bright = torch.nn.functional.avg_pool2d(torch.from_numpy(canvas).float()[:, None], PATCH).squeeze(1).numpy()
    classes[bright <= FOREGROUND] = -1
    return canvas, classes.reshape(count, -1)


def reduced(images: Any, size: int) -> np.ndarray:
    """Grey images (N, size, size) uint8."""
    import torch

    from ssltool.runs.data_preview import pixels

    grey = torch.from_numpy(np.stack([pixels(images, i)[..., 0] for i in range(len(images))])).float()[:, None]
    resized = torch.nn.functional.interpolate(grey, size=(size, size), mode="bilinear", antialias=True)
    return resized.squeeze(1).round().clamp(0, 255).byte().numpy()


def prepare(folder: Path, seed: int) -> None:
    """Writes the scenes and the single objects, unless they exist."""
    from ssltool.config import DataSettings
    from ssltool.data.images import open_dataset

    for name in ("scenes", "objects"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if (folder / "objects" / "val_images.npy").exists():
        return
    for number, (split, count) in enumerate(SCENES.items()):
        images, classes = scenes(split, count, seed + number)
        np.save(folder / "scenes" / f"{split}_images.npy", images)
        np.save(folder / f"{split}_classes.npy", classes)
        single = open_dataset(DataSettings(), split)
        chosen = np.random.RandomState(seed).permutation(len(single))[:OBJECTS]
        np.save(folder / "objects" / f"{split}_labels.npy", np.asarray(single.labels)[chosen])
        np.save(folder / "objects" / f"{split}_images.npy", reduced(single, SIZE)[chosen])


def train(folder: Path, method: str, epochs: int, every: int, last: int, seed: int) -> Path:
    """Trains a run of ``epochs`` epochs, unless the folder has its checkpoint after ``last`` epochs."""
    from ssltool.config import PretrainConfig
    from ssltool.stages.pretrain import run as pretrain

    out = folder / f"{method}-{seed}"
    if not (out / f"checkpoint_{last - 1:04d}.pt").exists():
        given, options = METHODS[method]
        settings = SHARED | given | {"epochs": epochs, "save_every": every, "seed": seed, "warmup_epochs": 1}
        pretrain(
            PretrainConfig(
                method=method, options=options, data=str(folder / "scenes"), out=str(out), overwrite=True, **settings
            )
        )
    return out


def nearest_accuracy(bank: Any, queries: Any, known: np.ndarray, wanted: np.ndarray) -> float:
    """20-NN accuracy by cosine, of rows with labels ``known`` and ``wanted``."""
    import torch

    from ssltool.reprs.neighbours.search import neighbours

    _, near = neighbours(bank, queries, k=20)
    votes = torch.nn.functional.one_hot(torch.from_numpy(known)[near], 10).sum(dim=1)
    return float((votes.argmax(dim=1) == torch.from_numpy(wanted)).double().mean())


def linear_accuracy(bank: Any, queries: Any, known: np.ndarray, wanted: np.ndarray) -> float:
    """Accuracy of ridge regression of the classes on standardised rows."""
    import torch

    mean, std = bank.mean(dim=0), bank.std(dim=0).clamp(min=1e-6)
    x, y = ((rows - mean).double() / std for rows in (bank, queries))
    x, y = (torch.nn.functional.pad(rows, (0, 1), value=1.0) for rows in (x, y))
    target = torch.nn.functional.one_hot(torch.from_numpy(known), 10).double()
    weights = torch.linalg.solve(x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ target)
    return float(((y @ weights).argmax(dim=1) == torch.from_numpy(wanted)).double().mean())


def measure(folder: Path, run: Path, epoch: int, previous: Path | None) -> dict[str, Any]:
    """Both accuracies and all measures of the network after ``epoch`` epochs; 0 is the untrained one."""
    import torch

    from ssltool.config import SaveReprsConfig
    from ssltool.diagnosis.measure import measure as measured
    from ssltool.diagnosis.row_blocks import Rows
    from ssltool.diagnosis.token_blocks import Tokens
    from ssltool.reprs.representations import Representations
    from ssltool.reprs.token_set import read_tokens
    from ssltool.stages import save_reprs

    result = run / f"measured_{epoch}.json"
    if result.exists():
        return json.loads(result.read_text())
    last = max(run.glob("checkpoint_*.pt"))
    network = {"pretrained": str(run / f"checkpoint_{epoch - 1:04d}.pt" if epoch else last), "random": epoch == 0}

    def save(name: str, data: str, split: str, **settings: Any) -> str:
        out = str(run / f"{name}_{epoch}.pt")
        config = SaveReprsConfig(
            data=str(folder / data), split=split, out=out, image_size=SIZE, workers=0, **network, **settings
        )
        return save_reprs.run(config)[0]["path"]

    tokens = read_tokens(save("tokens", "scenes", "val", tokens="all"))
    x = torch.stack([image.tokens for image in tokens])
    (bank, known), (queries, wanted) = labelled(x[:, 1:], np.load(folder / "val_classes.npy"))
    single = [Representations.load(save(f"objects_{split}", "objects", split)) for split in ("train", "val")]
    before = None if previous is None else read_tokens(previous)
    of_patches = measured(
        Rows([x.flatten(0, 1)]),
        tuple(name for name in MEASURES if name in ("dse", "patch_cosine", "patch_rank", "cls_patch_cosine"))
        + (("gram_drift",) if before is not None else ()),
        tokens=Tokens(tokens, before, torch.arange(len(x))),
    )
    of_cls = measured(Rows([x[:, 0].contiguous()]), ("rankme", "alpha", "effective_rank"))
    views = Representations.stored(save("views", "scenes", "val", views=8, sample=100)).representations
    row = {
        "run": run.name,
        "epoch": epoch,
        DENSE[0]: nearest_accuracy(bank, queries, known, wanted),
        DENSE[1]: linear_accuracy(bank, queries, known, wanted),
        "class 20-NN": nearest_accuracy(
            *(one.representations for one in single), *(one.targets.numpy() for one in single)
        ),
        **of_patches.metrics,
        **{key: of_patches.details[key] for key in ("dse_inter", "dse_batch", "dse_image", "dse_dim")},
        "patch_rank_over_all": of_patches.details["patch_rank_over_all"],
        **of_cls.metrics,
        "lidar": measured(Rows([views]), ("lidar",)).metrics["lidar"],
        "foreground patches": len(wanted),
        "tokens": str(tokens.paths[0]),
    }
    result.write_text(json.dumps(row))
    return row


def labelled(x: Any, classes: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """The patches (m, d) of ``x`` (n, p, d) that are not background and their classes, of both halves of the images."""
    import torch

    halves = (slice(None, len(x) // 2), slice(len(x) // 2, None))
    return [(x[one][torch.from_numpy(classes[one] >= 0)], classes[one][classes[one] >= 0]) for one in halves]


def degraded(x: Any, kind: str, level: float) -> Any:
    """The patches ``x`` (n, p, d), made worse on purpose."""
    import torch

    generator = torch.Generator().manual_seed(0)
    mean = x.mean(dim=(0, 1))
    if kind == "smoothing":
        return (1 - level) * x + level * x.mean(dim=1, keepdim=True)
    if kind == "rank":
        v = torch.linalg.svd((x - mean).flatten(0, 1), full_matrices=False).Vh[: int(level)]
        return (x - mean) @ v.T @ v + mean
    if kind == "noise":
        return x + level * (x - mean).std() * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    outlier = 5 * x.norm(dim=2).mean() * mean / mean.norm()
    return torch.where(torch.rand(x.shape[:2], generator=generator)[..., None] < level, outlier, x)


def made_worse(folder: Path, tokens: str) -> list[dict[str, Any]]:
    """Dense accuracies and metrics of patches for each kind and level of degradation."""
    import torch

    from ssltool.diagnosis.metrics.of_patch_clusters import dse
    from ssltool.diagnosis.metrics.of_tokens import gram_drift, high_norm_tokens, patch_cosine, patch_rank
    from ssltool.reprs.token_set import read_tokens

    x = torch.stack([image.tokens[1:] for image in read_tokens(tokens)]).double()
    classes, rows = np.load(folder / "val_classes.npy"), []
    for kind, levels in DEGRADED.items():
        for level in levels:
            patches = degraded(x, kind, level)
            (bank, known), (queries, wanted) = labelled(patches.float(), classes)
            structure, rank = dse(patches), patch_rank(patches)
            row = {
                "kind": kind,
                "level": level,
                DENSE[0]: nearest_accuracy(bank, queries, known, wanted),
                DENSE[1]: linear_accuracy(bank, queries, known, wanted),
                "dse": float(structure),
                **{f"dse_{name}": structure.details[name] for name in ("inter", "batch", "image", "dim")},
                "patch_cosine": patch_cosine(patches),
                "patch_rank": float(rank),
                "patch_rank_over_all": rank.details["over_all"],
                "high_norm_tokens": float(high_norm_tokens(patches)),
                "gram_drift": gram_drift(patches, x),
            }
            rows.append(row)
    return rows


def weighted(rows: list[dict[str, Any]]) -> None:
    """Adds DSE with the paper's weight, the ratio of the standard deviations among the ``rows`` of a run."""
    others = np.array([row["dse_inter"] - (row["dse_batch"] + row["dse_image"]) / 2 for row in rows])
    dims = np.array([row["dse_dim"] for row in rows])
    for row, other, dim in zip(rows, others, dims, strict=True):
        row["dse weighted"] = float(other + others.std() / dims.std() * dim)


def correlations(runs: list[list[dict[str, Any]]], accuracy: str) -> list[dict[str, Any]]:
    """Spearman's correlation of each measure with ``accuracy`` among the trained checkpoints of each run."""
    from ssltool.stages.rank.forecast import spearman

    table = []
    for name in ("epoch", *(name for name in ACCURACIES if name != accuracy), *MEASURES):
        line: dict[str, Any] = {f"with {accuracy}": name}
        for rows in runs:
            pairs = [(row[name], row[accuracy]) for row in rows if row["epoch"] and np.isfinite(row.get(name, np.nan))]
            if len(pairs) >= 4 and np.ptp(pairs, axis=0).all():
                one = spearman(*(list(column) for column in zip(*pairs, strict=True)))
                line[rows[0]["run"]] = f"{one.value:+.2f} ({one.low:+.2f} .. {one.high:+.2f})"
        table.append(line)
    return table


def picked(runs: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The trained checkpoint of each run that each measure prefers: its epoch and accuracies."""
    table = []
    for name, preference in PICKS.items():
        line: dict[str, Any] = {"picked by": name}
        for rows in runs:
            row = max((row for row in rows if row["epoch"]), key=preference)
            line[rows[0]["run"]] = f"{row['epoch']}: " + ", ".join(f"{row[one]:.3f}" for one in ACCURACIES)
        table.append(line)
    return table


def print_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Prints a Markdown table."""
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        cells = [f"{row[key]:.3g}" if isinstance(row.get(key), float) else str(row.get(key, "-")) for key in columns]
        print("| " + " | ".join(cells) + " |")


@click.command(help=__doc__)
@click.option("--folder", help="where runs are kept, and read if they exist [default: a temporary folder]")
@click.option("--method", "methods", multiple=True, default=("mocov3",), show_default=True)
@click.option("--epochs", default=20, show_default=True)
@click.option("--every", default=1, show_default=True, help="epochs between checkpoints")
@click.option("--last", type=int, help="the last epoch to measure; a run that stopped later is read too [default: all]")
@click.option("--seed", default=10, show_default=True)
def main(folder: str | None, methods: tuple[str, ...], epochs: int, every: int, last: int | None, seed: int) -> None:
    """Trains and measures all runs, and prints the tables."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        prepare(place, seed)
        found = []
        for method in methods:
            run = train(place, method, epochs, every, last or epochs, seed)
            rows: list[dict[str, Any]] = []
            for epoch in range(0, min(epochs, last or epochs) + 1, every):
                rows.append(measure(place, run, epoch, Path(rows[-1]["tokens"]) if rows else None))
            weighted(rows)
            found.append(rows)
        worse = made_worse(place, found[0][-1]["tokens"])
    print_rows([row for rows in found for row in rows], ("run", "epoch", *ACCURACIES, *MEASURES))
    for table in (picked(found), *(correlations(found, accuracy) for accuracy in ACCURACIES), worse):
        print()
        print_rows(table, tuple(table[0]))
    print(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_utime / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
