"""``ssltool plot patches``: pictures of the patches of some images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssltool.checkpoints.load import load_pretrained, use_saved_dataset
from ssltool.config import NetworkSettings, PlotConfig
from ssltool.data.found import record_of
from ssltool.data.images import open_dataset
from ssltool.reprs.readers import read_entries
from ssltool.reprs.representations import holds_rows
from ssltool.reprs.token_set import read_tokens
from ssltool.runs.patch_grids import PatchGrids, grids_of_network, grids_of_tokens
from ssltool.settings import Record
from ssltool.training.device import pick_device
from ssltool.viz.patch_pictures import patch_pictures, plot_patches

OF_ROWS = (".npy", ".npz", ".parquet")
"""Endings of files that hold no networks."""


def draw(config: PlotConfig, out: str) -> Record | None:
    """Plots some images and their patches."""
    (path,) = config.inputs
    if _holds_tokens(path):
        found, more = grids_of_tokens(read_tokens(path), config.rows, config.data), None
    else:
        found, more = _of_network(path, config)
    plot_patches(patch_pictures(found.grids, found.images, found.names, config.patch_place), out)
    return more


def _holds_tokens(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    return suffix in OF_ROWS or (suffix == ".pt" and Path(path).is_file() and holds_rows(read_entries(path)))


def _of_network(path: str, config: PlotConfig) -> tuple[PatchGrids, Record]:
    file = Path(path) / "checkpoint.pt" if (Path(path) / "checkpoint.pt").is_file() else Path(path)
    settings = NetworkSettings(pretrained=str(file), data=config.data)
    device = pick_device(settings)
    network = load_pretrained(settings, device).with_finite_weights("backbone")
    images = open_dataset(use_saved_dataset(settings, network.run), "train")
    some = images.select(np.arange(min(config.rows, len(images))))
    return grids_of_network(network, some, "backbone", device), {"found": [record_of(images)]}
