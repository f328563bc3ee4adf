"""The patches of some images, with the pixels that the network saw: of a file of tokens, or of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ssltool.checkpoints.load import Pretrained
from ssltool.config import SaveReprsConfig
from ssltool.data.image_files import pixels
from ssltool.data.images import ImageSet
from ssltool.data.preprocessing import Preprocessing
from ssltool.data.workers import eval_pixels
from ssltool.errors import SSLToolError
from ssltool.models.tokens import PATCH
from ssltool.reprs.extract import extract_all
from ssltool.reprs.row_pictures import RowPictures
from ssltool.reprs.same_tokens import images_of
from ssltool.reprs.token_set import TokenSet, token_set


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
    return _grids(tokens, len(images), lambda row: pixels(images, row), network.preprocessing)


def grids_of_tokens(tokens: TokenSet, count: int, data: str | None) -> PatchGrids:
    """The patches of the first ``count`` images of a file, whose pixels are in the folder ``data``, by default the one
    that save-reprs read.

    Raises:
        SSLToolError: if the images are not found, or are not those of the file.
    """
    pictures, preprocessing = RowPictures(images_of(tokens), data), Preprocessing.of(tokens.meta)
    if preprocessing is None:
        raise SSLToolError(f"{tokens.paths[0]} does not say how its images were transformed; save it with save-reprs")
    return _grids(tokens, min(count, len(tokens)), pictures.picture, preprocessing)


def _grids(
    tokens: TokenSet, count: int, picture: Callable[[int], np.ndarray], preprocessing: Preprocessing
) -> PatchGrids:
    """The patches of the first ``count`` images of ``tokens``; ``picture`` gives an image without transforms."""
    if tokens.grid is None:
        raise SSLToolError(f"{tokens.paths[0]} does not know the grid of patches; its tokens have no places")
    grids = np.full((count, *tokens.grid, tokens.width), np.nan, dtype=np.float32)
    images, names = [], []
    for position, grid in enumerate(grids):
        one = tokens[position]
        placed = (one.kind == PATCH) & (one.row >= 0)
        grid[one.row[placed].numpy(), one.column[placed].numpy()] = one.tokens[placed].float().numpy()
        images.append(eval_pixels(Image.fromarray(picture(position)), preprocessing).permute(1, 2, 0).numpy())
        names.append(one.path or f"image {one.index}")
    return PatchGrids(grids, images, names)
