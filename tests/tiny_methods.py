"""Settings under which each method of the registry trains in milliseconds; the only table of them.

The network is a ResNet-18 of 8 channels, or a ViT of two layers for methods that mask patches, on 160 of the bundled
images, of which a batch is 32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssltool.config import PretrainConfig
from ssltool.methods import METHODS, method_class

TRAINED = "the checkpoint of a trained network"
"""Stands in the table for a file, which ``tiny_config`` is given."""

LOCAL = {"local_crops": 2, "local_size": 12}
"""Below 12 pixels the last stage would see maps of one pixel, where torch 2.15's bf16 convolutions on the CPU return
gradients of uninitialised memory."""

TINY_METHODS: dict[str, dict[str, Any]] = {
    "simsiam": {"dim": 16},
    "byol": {"dim": 16, "hidden": 32, "momentum": 0.9},
    "simclr": {"dim": 16, "hidden": 32},
    "moco": {"dim": 16, "hidden": 32, "momentum": 0.9, "queue": 96},
    "mocov3": {"dim": 16, "hidden": 32, "momentum": 0.9},
    "barlow": {"dim": 16, "hidden": 32},
    "vicreg": {"dim": 16, "hidden": 32},
    "vicregl": {"dim": 16, "hidden": 32, "map_dim": 16, "map_hidden": 32, "matches": 3, "matches_back": 2},
    "wmse": {"dim": 8, "hidden": 32, "w_size": 16},
    "tico": {"dim": 16, "hidden": 32, "momentum": 0.9},
    "mmcr": {"dim": 16, "hidden": 32, "lambd": 0.1},
    "frossl": {"dim": 16, "hidden": 32},
    "empssl": {"dim": 16, "hidden": 32, "n_patches": 3},
    "swav": {"dim": 16, "hidden": 32, "prototypes": 20, "queue": 96, "queue_start": 0, "freeze": 2, **LOCAL},
    "deepcluster": {"dim": 16, "hidden": 32, "prototypes": 20, **LOCAL},
    "dino": {"dim": 16, "hidden": 32, "prototypes": 50, "momentum": 0.9, **LOCAL},
    "simdino": {"dim": 16, "hidden": 32, "momentum": 0.9, **LOCAL},
    "ibot": {"dim": 16, "hidden": 32, "prototypes": 50, "momentum": 0.9, **LOCAL},
    "dinov2": {"dim": 16, "hidden": 32, "prototypes": 50, "momentum": 0.9, **LOCAL},
    "nnclr": {"dim": 16, "hidden": 32, "pred_hidden": 32, "queue": 96},
    "directclr": {},
    "directpred": {"dim": 16, "hidden": 32, "momentum": 0.9},
    "nnsiam": {"dim": 16, "queue": 96},
    "ressl": {"dim": 16, "hidden": 32, "momentum": 0.9, "queue": 96},
    "lejepa": {"dim": 16, "hidden": 32, "slices": 64, **LOCAL},
    "visreg": {"dim": 16, "hidden": 32, "slices": 64, "global_views": 2, **LOCAL},
    "mae": {"width": 32, "depth": 1, "heads": 2},
    "ijepa": {"width": 32, "depth": 1, "heads": 2, "momentum": 0.9},
    "paws": {"dim": 16, "support_per_class": 2, **LOCAL},
    "distill": {"teacher": TRAINED},
    "teacher": {"dim": 16, "hidden": 32, "dropout": 0.0},  # which other ranks and micro-batches would draw anew
    "supervised": {},
}

NO_EFFECT = {
    "wmse": ("projector.3.bias",),  # whitening takes it away with the mean
    "paws": ("projector.6.bias", "predictor.0.bias"),  # the predictor's batch norms do, and targets are constants
}
"""Parameters that have no effect on the loss, and therefore no gradient but for rounding."""

NETWORK = {
    "arch": "resnet18_w8",
    "stem": "small-stride2",
    "image_size": 16,
    "batch_size": 32,
    "device": "cpu",
    "precision": "fp32",
}

OF_PATCHES = {"arch": "vit_w64_depth2", "stem": "auto"}
"""In the place of those in ``NETWORK`` for a method that masks patches: as wide, with 16 patches."""

OF_MAPS = {"image_size": 32}
"""The same for a method that compares positions: the last feature map has 2 x 2."""

NO_PROJECTOR = ("mae", "ijepa", "directclr")
"""Methods that train the backbone without a projector."""

MASKED = tuple(name for name in METHODS if method_class(name).masks_patches)
"""Methods that mask patches, and therefore need a ViT."""


QUICK = ("simsiam", "byol", "moco", "barlow", "dino", "swav", "deepcluster", "mae", "distill", "supervised")
"""A method of each kind, for tests that take a second or more for each method."""


def network_of(method: str) -> dict[str, Any]:
    """The settings of the network and the batches of a method."""
    maps = method_class(method).compares_positions
    return NETWORK | (OF_PATCHES if method in MASKED else OF_MAPS if maps else {})


def tiny_options(method: str, trained: Path | None = None, **changes: Any) -> dict[str, Any]:
    """The table's options of a method, with ``changes``; ``trained`` is the run folder of a network to learn from.

    A method without a row fails the test that asks for it.
    """
    if method not in TINY_METHODS:
        pytest.fail(f"the method {method} has no small settings to test it with; give it a row in {__file__}")
    options = TINY_METHODS[method] | changes
    return {k: str(trained / "checkpoint.pt") if v is TRAINED and trained else v for k, v in options.items()}


def tiny_config(
    method: str, out: Path, trained: Path, *, options: dict[str, Any] | None = None, **settings: Any
) -> PretrainConfig:
    """Settings of a run into ``out``, two epochs of five steps unless ``settings`` say otherwise.

    ``options`` are added to the table's; the numbers of the images go to a file beside ``out``.
    """
    images = out.parent / "images.npy"
    images.parent.mkdir(parents=True, exist_ok=True)
    np.save(images, np.arange(0, 8000, 50))
    given = tuple(f"{name}={value}" for name, value in tiny_options(method, trained, **(options or {})).items())
    schedule = {"epochs": 2, "steps_per_epoch": 5, "idx_path": str(images), "out": str(out)}
    return PretrainConfig(method=method, options=given, **(network_of(method) | schedule | settings))
