"""The patches of some images, with the pixels that the network saw: of a file of tokens, or of a network."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ssltool.checkpoints.load import Pretrained
from ssltool.config import DataSettings, SaveReprsConfig
from ssltool.data import views
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError
from ssltool.models.tokens import PATCH
from ssltool.reprs.extract import extract_all
from ssltool.reprs.token_set import TokenSet, token_set
from ssltool.training.device import worker_count

BUNDLED = "bundled"


@dataclass(frozen=True)
class PatchGrids:
    """The patches of N images.

    Attributes:
        grids: (N, R, C, D) float32; NaN for places without a patch.
        images: the N inputs of the network as pixels, (S, S, 3) uint8.
        names: the path of each image, or its number.
    """

    grids: np.ndarray
    images: list[np.ndarray]
    names: list[str]


def grids_of_network(
    network: Pretrained, images: ImageSet, layer: str, device: torch.device, workers: int | None = 0
) -> PatchGrids:
    """The patches that a layer of ``network`` has for all ``images``.

    Raises:
        SSLToolError: if the layer has no patches.
    """
    config = SaveReprsConfig(layer=layer, tokens="all", workers=workers)
    tokens = token_set(["the network"], [extract_all(network, images, config, device)])
    if tokens is None:
        raise SSLToolError(f"the {layer} of the network has no patches; plot patches needs a ViT or a feature map")
    return _grids(tokens, np.arange(len(images)), images, network.preprocessing, workers)


def grids_of_tokens(tokens: TokenSet, count: int, data: str | None) -> PatchGrids:
    """The patches of the first ``count`` images of a file, whose pixels are in the folder ``data``, by default that of
    the run that trained the network.

    Raises:
        SSLToolError: if the images are not found, or are not those of the file.
    """
    images = _images_of(tokens, data)
    preprocessing = Preprocessing.of(tokens.meta)
    if preprocessing is None:
        raise SSLToolError(f"{tokens.paths[0]} does not say how its images were transformed; save it with save-reprs")
    chosen = np.arange(min(count, len(tokens)))
    rows = np.array([tokens[int(position)].index for position in chosen])
    if rows.max() >= len(images):
        raise SSLToolError(
            f"{tokens.paths[0]} is of more images than the {len(images):,} that were found; name their folder with "
            "--data"
        )
    return _grids(tokens, chosen, images.select(rows), preprocessing)


def _images_of(tokens: TokenSet, data: str | None) -> ImageSet:
    """The images of the dataset of ``tokens``."""
    meta, name = tokens.meta, str(tokens.paths[0])
    if meta.get("dataset") is None or meta.get("split") is None:
        raise SSLToolError(f"{name} does not say of which images it is; save it with save-reprs")
    if meta["dataset"] == BUNDLED and data is not None:
        raise SSLToolError(f"{name} is of the bundled images; leave --data out")
    folder = data or (meta.get("config") or {}).get("data")
    if meta["dataset"] != BUNDLED and (folder is None or not Path(folder).exists()):
        raise SSLToolError(
            f"the images of {name} are not in {folder or 'a known folder'}; name their folder with --data"
        )
    pixels = meta.get("pixels") or {}
    kind = BUNDLED if meta["dataset"] == BUNDLED else "auto"
    settings = DataSettings(data=None if kind == BUNDLED else folder, dataset_type=kind, **pixels)
    images = open_dataset(settings, meta["split"])
    known = meta.get("fingerprint")
    if known and images.fingerprint and known != images.fingerprint:
        raise SSLToolError(f"{name} is of other images than those in {folder}; name their folder with --data")
    return images


def _grids(
    tokens: TokenSet, positions: np.ndarray, images: ImageSet, preprocessing: Preprocessing, workers: int | None = 0
) -> PatchGrids:
    """The patches of the images of ``tokens`` at ``positions``; ``images`` are these images."""
    if tokens.grid is None:
        raise SSLToolError(f"{tokens.paths[0]} does not know the grid of patches; its tokens have no places")
    grids = np.full((len(positions), *tokens.grid, tokens.width), np.nan, dtype=np.float32)
    names = []
    for grid, position in zip(grids, positions.tolist(), strict=True):
        one = tokens[position]
        placed = (one.kind == PATCH) & (one.row >= 0)
        grid[one.row[placed].numpy(), one.column[placed].numpy()] = one.tokens[placed].float().numpy()
        names.append(one.path or f"image {one.index}")
    with contextlib.closing(Loader(images, preprocessing, torch.device("cpu"), worker_count(workers))) as loader:
        seen = [views.to_pixels(batch.views[0], preprocessing) for batch in loader.evaluate(len(images))]
    pixels = torch.cat(seen).permute(0, 2, 3, 1).numpy()
    return PatchGrids(grids, list(pixels), names)
