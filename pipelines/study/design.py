"""Writes the table of runs of docs/study-plan.md, one row a run:  python pipelines/study/design.py > runs.csv

``images`` is the number of images, a random subset by the seed (empty: all); ``parent`` is the run whose checkpoint
after ``parent_epochs`` epochs a hybrid resumes. The other columns are settings of ``ssltool pretrain``, empty for
the default. With ``--costs`` it prints the runs and the estimated core-hours of each part instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import pandas as pd

SEEDS, FRESH_SEEDS = (1, 2, 3), (4, 5, 6)
IMAGES = (500, 4000, 16000, 60000)
WIDTHS = (2, 4, 8)
WIDEST = 16
"""With the fewest and with all images only: each run costs as much as three others."""

EPOCHS, STEPS, BATCH = 16, 192, 128
MOST, LEAST = (4, 60000), (4, 16000)
"""Width and images of question 1 that collapse most and least, by the rule of the plan (``results.points``).

The runs of question 2 have seeds of their own: those of question 1, by which the points were chosen, would be a biased
control.
"""

CENTRE = (4, 16000)
"""Width and images around which question 3 changes one setting at a time."""

COMMON: dict[str, Any] = {
    "stem": "small-stride2",
    "epochs": EPOCHS,
    "steps_per_epoch": STEPS,
    "batch_size": BATCH,
    "lr": 0.2,
    "weight_decay": 5e-4,
    "precision": "fp32",
}

SETTINGS: dict[str, dict[str, Any]] = {
    "lr-quarter": {"lr": 0.05},
    "lr-times-4": {"lr": 0.8},
    "decay-0": {"weight_decay": 0.0},
    "decay-times-4": {"weight_decay": 2e-3},
    "predictor-cosine": {"options": "dim=128 pred_dim=32 fix_pred_lr=false"},
    "projector-narrow": {"options": "dim=32 pred_dim=8 fix_pred_lr=true"},
    "projector-wide": {"options": "dim=512 pred_dim=128 fix_pred_lr=true"},
    "batch-256": {"batch_size": 256, "lr": 0.1},
    "views-weak": {"crop_min": 0.6, "jitter_p": 0.0},
}
"""Question 3. Rates are per 256 images, so the batch of 256 has the rate of a step of the others, and sees the images
twice as often."""

FAULTS: dict[str, dict[str, Any]] = {
    "no-stop-gradient": {"options": "dim=128 pred_dim=32 fix_pred_lr=true stop_grad=false"},
    "no-predictor": {"options": "dim=128 predictor=none"},
    "lr-times-16": {"lr": 3.2},
}
"""Question 5: settings of SimSiam of width 4 that are expected to make the accuracy fall."""

HEADS = "dim=128 hidden=128"
METHODS: dict[str, dict[str, Any]] = {
    "byol": {"options": f"{HEADS} momentum=0.98 fix_pred_lr=true"},
    "barlow": {"options": f"{HEADS} scale=0.1", "lr": 0.02},
    "vicreg": {"options": HEADS, "lr": 0.05},
    "simclr": {"options": HEADS},
    "mocov3": {"options": f"{HEADS} momentum=0.98 temperature=0.2"},
    "dino": {
        "options": f"{HEADS} prototypes=256 momentum=0.98 head_bn=true local_crops=0",
        "optimizer": "adamw",
        "lr": 4e-3,
    },
    "lejepa": {"options": f"{HEADS} local_crops=0", "optimizer": "adamw", "lr": 4e-3},
}
"""Question 6: optimisers and rates of benchmarks/method_settings.py, and heads for a representation of width 32."""

SECONDS = {
    "resnet18_w2": 0.12,
    "resnet18_w4": 0.12,
    "resnet18_w8": 0.19,
    "resnet34_w4": 0.22,
    "resnet18_w16": 0.40,
}
"""Estimated seconds of a step of SimSiam with 128 images of 28 pixels, one thread; see the plan."""

MEASURING = 75.0
"""Estimated seconds of start-up and of all measurements of a run."""


def simsiam(width: int) -> dict[str, Any]:
    """The paper's ResNet-18 and heads, all widths scaled by width / 64."""
    return {"method": "simsiam", "options": f"dim={32 * width} pred_dim={8 * width} fix_pred_lr=true"}


def row(part: str, name: str, width: int, images: int | None, seed: int, **settings: Any) -> dict[str, Any]:
    """A run of SimSiam on Fashion-MNIST, with other ``settings``."""
    at = f"w{width}-n{'all' if images is None else images}"
    named = {"run": "-".join(filter(None, (part, name, at, f"s{seed}"))), "part": part, "data": "fashion"}
    return named | {"images": images, "arch": f"resnet18_w{width}", "seed": seed} | simsiam(width) | COMMON | settings


def question_1() -> Iterator[dict[str, Any]]:
    """Capacity against data, and the references."""
    for width, images, seed in product(WIDTHS, IMAGES, SEEDS):
        yield row("1a", "", width, whole(images), seed)
    for width, seed in product((*WIDTHS, WIDEST), SEEDS):
        yield row("1b", "supervised", width, None, seed, method="supervised", options=None)
    for seed in SEEDS:
        yield row("1b", "supervised", 4, 500, seed, method="supervised", options=None)
    for images, seed in product((500, None), SEEDS):
        yield row("1c", "emoji", 4, images, seed, data="emoji")
    for images, seed in product((500, None), SEEDS):
        yield row("1d", "depth34", 4, images, seed, arch="resnet34_w4")


def question_2() -> Iterator[dict[str, Any]]:
    """Order of the data, at the points of question 1 that collapse most and least."""
    orders: dict[str, dict[str, Any]] = {
        "iid": {},
        "current": {"strategy": "current"},
        "accumulate": {"strategy": "accumulate"},
        "last": {"strategy": "last", "chunk_size": 4},
        "replay": {"strategy": "replay"},
    }
    for (width, images), (name, order), seed in product((MOST, LEAST), orders.items(), FRESH_SEEDS):
        replay = {"replay_size": images // 8} if name == "replay" else {}
        yield row("2", name, width, whole(images), seed, **order, **replay)
    for (width, images), switch, seed in product((MOST, LEAST), (4, 8, 12), FRESH_SEEDS):
        hybrid = row("2", f"hybrid{switch}", width, whole(images), seed, parent_epochs=switch)
        yield hybrid | {"parent": row("2", "current", width, whole(images), seed)["run"]}


def question_3() -> Iterator[dict[str, Any]]:
    """One training setting at a time."""
    for (name, settings), seed in product(SETTINGS.items(), SEEDS):
        yield row("3", name, *CENTRE, seed, **settings)


def question_5() -> Iterator[dict[str, Any]]:
    """Runs that are expected to collapse."""
    for (name, settings), seed in product(FAULTS.items(), SEEDS):
        yield row("5", name, 4, None, seed, **settings)


def question_6() -> Iterator[dict[str, Any]]:
    """Other methods, at a small capacity with few and with all images."""
    for (method, settings), images, seed in product(METHODS.items(), (500, None), SEEDS):
        yield row("6", method, 4, images, seed, method=method, **settings)


def widest() -> Iterator[dict[str, Any]]:
    """The widest network of question 1."""
    for images, seed in product((500, None), SEEDS):
        yield row("1e", "", WIDEST, images, seed)


def whole(images: int) -> int | None:
    """None for all images of Fashion-MNIST, else ``images``."""
    return None if images == IMAGES[-1] else images


def table() -> pd.DataFrame:
    """All runs, in the order in which they are run."""
    parts = (question_1(), question_2(), question_5(), question_3(), widest(), question_6())
    runs = pd.DataFrame([run for part in parts for run in part]).dropna(axis=1, how="all")
    whole_numbers = [name for name in ("images", "chunk_size", "replay_size", "parent_epochs") if name in runs]
    return runs.astype(dict.fromkeys(whole_numbers, "Int64"))


def seconds(runs: pd.DataFrame) -> pd.Series:
    """Estimated seconds of each run on one core."""
    step = runs["arch"].map(SECONDS) * runs["batch_size"] / BATCH
    step *= runs["method"].map({"simsiam": 1.0, "supervised": 0.6}).fillna(1.25)  # a momentum teacher, or AdamW
    step *= runs["data"].map({"fashion": 1.0, "emoji": 1.35})  # colour, and 32 pixels instead of 28
    epochs = runs["epochs"] - runs["parent_epochs"].fillna(0).astype(int)
    return step * epochs * runs["steps_per_epoch"] + MEASURING


if __name__ == "__main__":
    runs = table()
    if "--costs" in sys.argv[1:]:
        hours = (seconds(runs) / 3600).groupby(runs["part"]).agg(["count", "sum"])
        hours.loc["all"] = hours.sum()
        print(hours.rename(columns={"count": "runs", "sum": "core-hours"}).astype({"runs": int}).round(2).to_string())
    else:
        runs.to_csv(sys.stdout, index=False)
