"""Draws the figures of the documentation into ``docs/_static``. ``python docs/figures.py``

``strategies.png``: how often each image is used in each epoch under the five data strategies, counted from the index
sequences that training uses.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from ssltool.data.strategies import epoch_indices, epoch_parts, epoch_subset
from ssltool.viz.spectra import COLOURS, plt

STATIC = Path(__file__).with_name("_static")
IMAGES, BATCH, EPOCHS, BINS = 1200, 20, 10, 60

# Strategy: its description, and its settings.
PANELS = {
    "iid": ("all images, every epoch", {}),
    "current": ("one new chunk each epoch", {}),
    "replay": ("a new chunk, 20 % replayed", {"replay_size": IMAGES // 5}),
    "accumulate": ("all chunks so far", {}),
    "last": ("the last fifth (chunk size 2)", {"chunk_size": 2}),
}


def exposure(strategy: str, **settings: int) -> np.ndarray:
    """How often each image is used in each epoch: (EPOCHS, IMAGES), by its position in the data order."""
    order = np.arange(IMAGES)
    rows = [
        np.bincount(
            epoch_indices(order, strategy=strategy, epoch=e, epochs=EPOCHS, batch_size=BATCH, **settings),
            minlength=IMAGES,
        )
        for e in range(EPOCHS)
    ]
    return np.stack(rows)


def draw_strategies(path: Path) -> None:
    """Draws the matrices epoch x position in the data order, and below each its sum over the run."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5})
    shades = plt.matplotlib.colors.LinearSegmentedColormap.from_list(
        "exposure", ["#C6DFF0", "#86BADD", COLOURS[0], "#00375A"]
    )
    scale = plt.matplotlib.colors.LogNorm(1, EPOCHS)
    figure, axes = plt.subplots(
        2, len(PANELS), figsize=(13, 4.9), sharex=True, sharey="row", height_ratios=(3.4, 1), layout="constrained"
    )
    for column, (strategy, (meaning, settings)) in enumerate(PANELS.items()):
        seen = exposure(strategy, **settings)
        binned = seen.reshape(EPOCHS, BINS, -1).mean(axis=2)
        top, bottom = axes[:, column]
        top.imshow(
            np.ma.masked_equal(binned, 0), cmap=shades, norm=scale, aspect="auto", extent=(0, 100, EPOCHS - 0.5, -0.5)
        )
        top.hlines(np.arange(1, EPOCHS) - 0.5, 0, 100, color="white", linewidth=2)
        for e in range(EPOCHS):
            _label_block(top, e, seen[e], strategy, settings)
        top.text(0, 1.115, strategy, transform=top.transAxes, fontsize=13, fontweight="bold", family="DejaVu Sans Mono")
        top.set_title(meaning, fontsize=9.5, color="0.3", loc="left")
        top.set_yticks(range(EPOCHS), range(1, EPOCHS + 1))
        top.tick_params(length=0)
        total = binned.sum(axis=0)
        bottom.fill_between(np.linspace(0, 100, BINS + 1), [*total, total[-1]], step="post", color=COLOURS[0])
        bottom.axhline(EPOCHS, color="0.35", linewidth=0.9, linestyle=(0, (4, 3)))
        bottom.set(xlabel="position in the order (%)", xlim=(0, 100), ylim=(0, 55), yticks=(0, 10, 50))
        bottom.set_xticks((0, 20, 40, 60, 80, 100))
        top.spines[:].set_color("0.75")
        bottom.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("epoch")
    axes[1, 0].set_ylabel("times used\nin the run")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=160, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def _label_block(axis: plt.Axes, epoch: int, seen: np.ndarray, strategy: str, settings: dict[str, int]) -> None:
    """Writes how often an image of the epoch's subset is used, on the block, or beside it if it is narrow."""
    schedule = {"strategy": strategy, "epoch": epoch, "epochs": EPOCHS, **settings}
    subset = epoch_subset(np.arange(IMAGES), **schedule)
    start, stop, _ = epoch_parts(np.arange(IMAGES), **schedule)
    low, high = 100 * start / IMAGES, 100 * stop / IMAGES
    times = f"{seen[subset].mean():.2g} ×"
    place = {"y": epoch, "s": times, "va": "center_baseline", "fontsize": 8.5}
    if high - low >= 15:
        light = seen[subset].mean() > 2.5
        axis.text(x=(low + high) / 2, ha="center", color="white" if light else "0.1", **place)
    elif high <= 50:
        axis.text(x=high + 2, ha="left", color="0.1", **place)
    else:
        axis.text(x=low - 2, ha="right", color="0.1", **place)


if __name__ == "__main__":
    draw_strategies(STATIC / "strategies.png")
