"""A small backbone, the facts of a small run, and batches of noisy views: what tests of methods are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method, Output, RunFacts
from ssltool.models.backbones import build_backbone

WIDTH = 8
"""Of what ``Flat`` puts out."""

SMALL = {"dim": 6, "hidden": 10, "pred_dim": 4, "pred_hidden": 12, "queue": 32, "w_size": 16}
SMALL |= {"width": 16, "depth": 1, "heads": 2, "map_dim": 5, "map_hidden": 10}
"""Options of a method that ``build`` sets where the method has them."""


class Flat(nn.Module):
    """A backbone that a test can follow, for images of any size: 2 x 2 means of the pixels through one layer."""

    def __init__(self, dim: int = WIDTH) -> None:
        super().__init__()
        self.layer = nn.Linear(12, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.adaptive_avg_pool2d(x, 2).flatten(1)).relu()


def toy_backbone() -> tuple[nn.Module, int]:
    """A backbone and its width, as ``build_backbone`` makes them."""
    return Flat(), WIDTH


def small_vit() -> tuple[nn.Module, int]:
    """A ViT of 16 patches for images of 8 pixels, and its width."""
    return build_backbone("vit_w64_depth2_p2", image_size=8)


def facts(**changes: Any) -> RunFacts:
    """What a method may know of a run of two epochs of four steps on 64 images, with ``changes``."""
    small = RunFacts(
        images=64,
        classes=4,
        epoch_images=64,
        image_size=8,
        batch_size=16,
        steps=4,
        epochs=2,
        seed=0,
        second_backbone=toy_backbone,
    )
    return dataclasses.replace(small, **changes)


def build(name: str, run: RunFacts | None = None, **options: Any) -> Method:
    """A registered method on ``Flat``, or on ``small_vit`` if it needs patches, with weights by seed 0; options that
    are not given are ``SMALL``'s, else the method's defaults."""
    known = {f.name for f in dataclasses.fields(method_class(name).Options)}
    small = {key: value for key, value in SMALL.items() if key in known}
    checked = method_options(name, small | options)
    torch.manual_seed(0)
    cls = method_class(name)
    backbone = small_vit if cls.masks_patches or cls.compares_positions else toy_backbone
    return cls(*backbone(), checked, run or facts(second_backbone=backbone))


def forward_and_update(method: Method, batch: Batch) -> Output:
    """What a training step does with a batch, but for the weights."""
    output = method(batch)
    method.update_buffers(output)
    return output


def noisy_batch(
    n: int = 16, sizes: Sequence[int] = (8, 8), seed: int = 0, labels: Tensor | None = None, *, noise: float = 0.3
) -> Batch:
    """Views of n images, one of each size: each the same random image with noise of its own; unlabelled by default."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 2, 2, generator=generator)
    views = [
        F.interpolate(images + noise * torch.randn(images.shape, generator=generator), size=size) for size in sizes
    ]
    labels = torch.full((n,), -1) if labels is None else labels
    return Batch(views, labels, torch.arange(n), boxes=random_boxes(n, len(sizes), seed))


def random_boxes(n: int, views: int, seed: int = 0) -> Tensor:
    """Edges (n, views, 4) of views in images of 16 pixels, half of them mirrored."""
    generator = torch.Generator().manual_seed(seed)
    ends = 16 * torch.rand(n, views, 2, 2, generator=generator).sort(dim=2).values
    flips = torch.rand(n, views, generator=generator) < 0.5
    ends[..., 1] = torch.where(flips[..., None], ends[..., 1].flip(-1), ends[..., 1])
    return ends.flatten(2)


def rows(count: int, n: int = 8, d: int = 5, seed: int = 0) -> list[Tensor]:
    """Random tensors (n, d), float64."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(count)]


def unit(a: Tensor) -> np.ndarray:
    """The rows of ``a`` scaled to length 1, float64, by numpy."""
    array = a.detach().double().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def negative_log_share(logits: Sequence[float], which: int) -> float:
    """-log of the softmax of ``logits`` at ``which``: cross-entropy for one row, float64."""
    array = np.asarray(logits, dtype=np.float64)
    top = array.max()
    return float(top + np.log(np.exp(array - top).sum()) - array[which])


def nearest(queue: Tensor, z: Tensor) -> Tensor:
    """The row of ``queue`` with the largest cosine for each of ``z``, by numpy."""
    return queue[torch.from_numpy(np.argmax(unit(z) @ unit(queue).T, axis=1))]


def layers(module: nn.Module) -> list[str]:
    """What a head is made of, a word a layer: "linear 6-4" with "+bias", "bn" with "+affine", "dropout 0.1",
    "relu", or the class."""
    words = []
    for m in module.modules():
        if isinstance(m, nn.Linear):
            words.append(f"linear {m.in_features}-{m.out_features}" + ("+bias" if m.bias is not None else ""))
        elif isinstance(m, nn.BatchNorm1d):
            words.append("bn" + ("+affine" if m.affine else ""))
        elif isinstance(m, nn.Dropout):
            words.append(f"dropout {m.p:g}")
        elif not list(m.children()):
            words.append(type(m).__name__.lower())
    return words


@torch.no_grad()
def shake(module: nn.Module, seed: int = 1) -> nn.Module:
    """``module`` with noise added to its parameters, so that it is no longer a copy of another."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p += 0.3 * torch.randn(p.shape, generator=generator)
    return module


def defaults(name: str) -> dict[str, Any]:
    """The options of a method when none is given, as a mapping."""
    return dataclasses.asdict(method_options(name, {}))
