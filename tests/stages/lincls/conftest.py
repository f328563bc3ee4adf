"""What the tests of the probe share: images of two kinds, and files of representations in clouds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from probe_helpers import clouds
from ssltool.config import LinclsConfig, SaveReprsConfig
from ssltool.stages.save_reprs import run as save_reprs


@pytest.fixture
def black_and_white(tmp_path):
    """An ImageNet-style folder of dark and of light noise: ``train`` of 20 images each, ``val`` of 10."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 10)):
        for name, low in (("black", 0), ("white", 200)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(low, low + 56, (16, 16, 3), np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def settings(trained, black_and_white, tmp_path):
    """Settings of a probe of one epoch on the dark and light images: ``settings(lr=1.0) -> LinclsConfig``."""

    def make(**changes) -> LinclsConfig:
        fixed = {
            "pretrained": str(trained / "checkpoint.pt"),
            "data": str(black_and_white),
            "device": "cpu",
            "workers": 0,
            "epochs": 1,
            "batch_size": 20,
            "out": str(tmp_path / "probe"),
        }
        return LinclsConfig(**fixed | changes)

    return make


@pytest.fixture
def on_bundled(settings, tmp_path):
    """The same on 200 of the bundled train images, and all its val images."""
    np.save(tmp_path / "some.npy", np.arange(0, 8000, 40))
    return partial(settings, data=None, idx_path=str(tmp_path / "some.npy"), batch_size=64)


@pytest.fixture
def files(write_reprs):
    """The paths of 90 training rows and 60 val rows in overlapping clouds: ``files(names=(3, 7))``."""

    def make(**changes) -> tuple[str, str]:
        train, val = clouds(90, seed=1, **changes), clouds(60, seed=2, **changes)
        return str(write_reprs("train.pt", *train)), str(write_reprs("val.pt", *val))

    return make


@pytest.fixture
def on_files(files, tmp_path):
    """Settings of a probe of five epochs on such files: ``on_files(lr=1.0) -> LinclsConfig``."""

    def make(**changes) -> LinclsConfig:
        fixed = {"reprs": changes.get("reprs") or files(), "device": "cpu", "out": str(tmp_path / "probe")}
        if changes.get("solver") != "lbfgs" and not changes.get("evaluate"):
            fixed |= {"epochs": 5, "batch_size": 16}
        return LinclsConfig(**fixed | changes)

    return make


@pytest.fixture
def saved(trained, on_bundled, tmp_path) -> tuple[str, str]:
    """The paths of representations of 200 of the bundled train images and of all its val images."""
    common = {"pretrained": str(trained / "checkpoint.pt"), "device": "cpu"}
    paths = str(tmp_path / "train.pt"), str(tmp_path / "val.pt")
    save_reprs(SaveReprsConfig(split="train", idx_path=on_bundled().idx_path, out=paths[0], **common))
    save_reprs(SaveReprsConfig(split="val", out=paths[1], **common))
    return paths


@pytest.fixture
def probe_path(tmp_path) -> Path:
    """Where these settings write the probe."""
    return tmp_path / "probe" / "probe.pt"
