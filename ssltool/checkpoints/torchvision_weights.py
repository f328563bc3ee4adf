"""Pretrained weights published by torchvision, from its cache or downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torchvision

from ssltool.errors import SSLToolError, first_line, unknown
from ssltool.models.resnet import torchvision_resnets

# ssltool's names of torchvision's ViTs, at the image sizes of their weights.
VITS = {
    "vit_base": "vit_b_16",
    "vit_base_p32": "vit_b_32",
    "vit_large": "vit_l_16",
    "vit_large_p32": "vit_l_32",
    "vit_huge_p14": "vit_h_14",
}


def published_weights(arch: str, name: str) -> Path:
    """The path of torchvision's weights ``name`` (``DEFAULT``, ``IMAGENET1K_V1``, ...) of ``arch``.

    The file is in the cache of ``torch.hub``; it is downloaded if it is missing.

    Raises:
        UsageError: if torchvision does not publish such weights.
        SSLToolError: if the download fails.
    """
    models = {arch: arch for arch in torchvision_resnets()} | VITS
    if arch not in models:
        raise unknown("architecture with torchvision weights", arch, models)
    choices = torchvision.models.get_model_weights(models[arch])
    if name != "DEFAULT" and name not in choices.__members__:
        raise unknown(f"torchvision weights of {arch}", name, ["DEFAULT", *choices.__members__])
    url = choices[name].url
    return fetch(url, Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url))


def fetch(url: str, file: Path) -> Path:
    """``file``, downloaded from ``url`` if it does not exist.

    Raises:
        SSLToolError: if the download fails.
    """
    if file.is_file():
        return file
    digest = torch.hub.HASH_REGEX.search(file.name)  # the first digits of the SHA-256 at the end of its name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise SSLToolError(
            f"cannot download {url}: {first_line(error)}; without a network, copy the file to {file}"
        ) from error
    return file
