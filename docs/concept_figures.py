"""Computes the figures of ``docs/concepts.md`` into ``docs/_static``. ``python docs/concept_figures.py``

A small network is trained on toy images, vectors of seven clusters, by the losses of ``ssltool.methods``. A view is an
image plus noise. All runs of a figure begin with the same weights and see the same noise. The embeddings after 0, 1, 4,
9, ... steps are written to ``concepts-*.js``, which ``concepts.js`` draws, and to pictures for readers without scripts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.diagnosis.measure import measure
from ssltool.methods.barlow import barlow_loss
from ssltool.methods.simclr import nt_xent_loss
from ssltool.methods.simsiam import simsiam_loss
from ssltool.methods.vicreg import vicreg_loss
from ssltool.models.heads import mlp
from ssltool.viz.style import COLOURS, STYLES, plt

STATIC = Path(__file__).with_name("_static")
STEPS = [k * k for k in range(16)]
CLUSTERS, PER_CLUSTER, WIDTH = 7, 12, 16
CLUSTER_COLOURS = [*COLOURS[:6], "#8A8A8A"]
NOISE = 1.0
"""Standard deviation of the noise of a view. That of the images of a cluster is 0.7, of the centres 1.5."""

Loss = Callable[[Tensor, Tensor, nn.Module], Tensor]
"""A loss of two views' embeddings and the predictor."""


@dataclass(frozen=True)
class Run:
    """A run, and how its embeddings are drawn.

    Attributes:
        name, note: the two lines above its panel.
        loss: what is minimised.
        view: from embeddings (N, D) to what the loss compares, (N, D). Without a circle, the mean is subtracted.
        half: half the side of the panel.
        circle: whether the unit circle is drawn.
    """

    name: str
    note: str
    loss: Loss
    view: Callable[[Tensor], Tensor]
    half: float
    circle: bool = False


def unchanged(z: Tensor) -> Tensor:
    return z


def scaled(z: Tensor) -> Tensor:
    return z / z.std(dim=0, correction=0)


def directions(z: Tensor) -> Tensor:
    return F.normalize(z, dim=1)


def simsiam(stop_grad: bool) -> Loss:
    return lambda z1, z2, h: simsiam_loss(h(z1), h(z2), z1, z2, stop_grad=stop_grad)


COLLAPSE = [
    Run("Healthy", "VICReg", lambda z1, z2, h: vicreg_loss(z1, z2), unchanged, 3.5),
    Run("Dimensional collapse", "cov=0", lambda z1, z2, h: vicreg_loss(z1, z2, cov=0), unchanged, 3.5),
    Run("Complete collapse", "std=0, cov=0", lambda z1, z2, h: vicreg_loss(z1, z2, std=0, cov=0), unchanged, 3.5),
]
"""Five-dimensional embeddings, of which the first two dimensions are drawn."""

LOSSES = [
    Run("SimSiam", "predictor, stop-gradient", simsiam(True), directions, 1.25, True),
    Run("SimSiam", "stop_grad=false", simsiam(False), directions, 1.25, True),
    Run("SimCLR", "negatives", lambda z1, z2, h: nt_xent_loss(z1, z2), directions, 1.25, True),
    Run("SimCLR", "negatives=false", lambda z1, z2, h: nt_xent_loss(z1, z2, negatives=False), directions, 1.25, True),
    Run("VICReg", "variance, covariance", lambda z1, z2, h: vicreg_loss(z1, z2), unchanged, 3.5),
    Run("VICReg", "cov=0", lambda z1, z2, h: vicreg_loss(z1, z2, cov=0), unchanged, 3.5),
    Run("Barlow Twins", "redundancy term", lambda z1, z2, h: barlow_loss(z1, z2), scaled, 3.5),
    Run("Barlow Twins", "lambd=0", lambda z1, z2, h: barlow_loss(z1, z2, lambd=0), scaled, 3.5),
]
"""Two-dimensional embeddings."""


def snapshots(loss: Loss, width: int, steps: list[int]) -> list[tuple[Tensor, Tensor, float]]:
    """Trains a network with ``width`` outputs. For each of ``steps``: the embeddings of the images (N, width), those of
    two views of each (2, N, width), and the loss of these views, all before the step."""
    torch.manual_seed(0)
    float64 = {"dtype": torch.float64}
    centres = 1.5 * torch.randn(CLUSTERS, 1, WIDTH, **float64)
    images = (centres + 0.7 * torch.randn(CLUSTERS, PER_CLUSTER, WIDTH, **float64)).flatten(0, 1)
    network, predictor = mlp([WIDTH, 32, 32, width]).double(), mlp([width, 32, width]).double()
    optimizer = torch.optim.Adam([*network.parameters(), *predictor.parameters()], lr=0.01)
    found = []
    for step in range(steps[-1] + 1):
        views = images + NOISE * torch.randn(2, *images.shape, **float64)
        z1, z2 = network(views[0]), network(views[1])
        value = loss(z1, z2, predictor)
        if step in steps:
            with torch.no_grad():
                found.append((network(images), torch.stack([z1, z2]).detach(), value.item()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return found


def frames(run: Run, width: int, steps: list[int] = STEPS) -> dict[str, Any]:
    """What the page draws of a run. Points are in hundredths: x and y of the first, of the second, ...; ``s`` has the
    singular values, ``text`` the line below the panel, each for every step."""
    points, spectra, text = [], [], []
    for z, views, loss in snapshots(run.loss, width, steps):
        drawn = run.view(z)
        xy = drawn[:, :2] if run.circle else (drawn - drawn.mean(dim=0))[:, :2]
        points.append((100 * xy).round().int().flatten().tolist())
        found = measure(drawn, ("auc", "effective_rank", "feature_std"))
        spectra.append([float(f"{s:.3g}") for s in found.s.tolist()])
        rank, spread, auc = (found.metrics[name] for name in ("effective_rank", "feature_std", "auc"))
        first = f"loss {loss:.2f}" if width == 2 else f"distance of the views {F.mse_loss(*views).item():.3f}"
        text.append([first, f"effective_rank {rank:.1f}", f"feature_std {spread:.2f}", f"auc {auc:.2f}"])
    shown = {"name": run.name, "note": run.note, "half": run.half, "circle": run.circle}
    return shown | {"points": points, "s": spectra, "text": text}


def document(runs: list[Run], width: int) -> dict[str, Any]:
    """The content of a ``concepts-*.js``."""
    return {
        "steps": STEPS,
        "colours": CLUSTER_COLOURS,
        "perCluster": PER_CLUSTER,
        "runs": [frames(run, width) for run in runs],
    }


def draw_cloud(axis: plt.Axes, run: dict[str, Any], frame: int, title: str) -> None:
    """Draws the points of a run after ``STEPS[frame]`` steps."""
    xy = torch.tensor(run["points"][frame]).reshape(-1, 2) / 100
    if run["circle"]:
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="0.7", linewidth=0.8))
    axis.scatter(*xy.T, s=14, c=[CLUSTER_COLOURS[i // PER_CLUSTER] for i in range(len(xy))], alpha=0.75, linewidths=0)
    axis.set(xlim=(-run["half"], run["half"]), ylim=(-run["half"], run["half"]), xticks=(), yticks=(), aspect="equal")
    axis.spines[:].set_color("0.75")
    axis.set_title(title, fontsize=9.5, loc="left")


def draw_clouds(found: dict[str, Any], path: Path) -> None:
    """A row for each run, at three times."""
    times = (0, 5, len(STEPS) - 1)
    figure, axes = plt.subplots(3, 3, figsize=(7, 7.4), layout="constrained")
    for row, run in zip(axes, found["runs"], strict=True):
        for axis, frame in zip(row, times, strict=True):
            draw_cloud(axis, run, frame, f"{run['name']}, step {STEPS[frame]}")
    save(figure, path)


def draw_spectra(found: dict[str, Any], path: Path) -> None:
    """The singular values and the cumulative explained variance, at three times."""
    times = (0, 5, len(STEPS) - 1)
    figure, axes = plt.subplots(2, 3, figsize=(9, 5), sharex=True, sharey="row", layout="constrained")
    for frame, (top, bottom) in zip(times, axes.T, strict=True):
        for run, colour, style in zip(found["runs"], COLOURS, STYLES, strict=False):
            s = torch.tensor(run["s"][frame])
            ranks = range(1, len(s) + 1)
            top.semilogy(ranks, s, color=colour, linestyle=style, marker=".", label=run["name"])
            bottom.plot(ranks, s.cumsum(0) / s.sum(), color=colour, linestyle=style, marker=".")
        bottom.plot(ranks, [j / len(s) for j in ranks], color="0.6", linewidth=0.8)
        top.set_title(f"step {STEPS[frame]}", fontsize=9.5, loc="left")
        bottom.set(xlabel="principal direction", ylim=(0, 1.04))
    axes[0, 0].set_ylabel("singular value")
    axes[1, 0].set_ylabel("cumulative explained variance")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    save(figure, path)


def draw_losses(found: dict[str, Any], path: Path) -> None:
    """The last step of each run; those of a method are in one column."""
    figure, axes = plt.subplots(2, 4, figsize=(9, 5), layout="constrained")
    for axis, run in zip(axes.T.flat, found["runs"], strict=True):
        draw_cloud(axis, run, -1, f"{run['name']}\n{run['note']}")
    save(figure, path)


def save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def write_script(found: dict[str, Any], path: Path) -> None:
    """A script and not JSON, because a page that is opened from a disk may not fetch files."""
    data = json.dumps(found, separators=(",", ":"))
    path.write_text(f"(window.conceptFrames ??= {{}})[{json.dumps(path.stem)}] = {data};\n", encoding="utf-8")


def read_script(path: Path) -> dict[str, Any]:
    """What ``write_script`` wrote."""
    return json.loads(path.read_text(encoding="utf-8").partition(" = ")[2].rstrip(";\n"))


if __name__ == "__main__":
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5})
    collapse, losses = document(COLLAPSE, 5), document(LOSSES, 2)
    write_script(collapse, STATIC / "concepts-collapse.js")
    write_script(losses, STATIC / "concepts-losses.js")
    draw_clouds(collapse, STATIC / "concepts-clouds.png")
    draw_spectra(collapse, STATIC / "concepts-spectra.png")
    draw_losses(losses, STATIC / "concepts-losses.png")
