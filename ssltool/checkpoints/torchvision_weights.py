"""The weights that torchvision publishes, from its cache or downloaded, by our names of the architectures."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torchvision

from ssltool.errors import SSLToolError, first_line, unknown
from ssltool.models.resnet import torchvision_resnets

# torchvision's ViTs by our names for their image sizes.
VITS = {
    "vit_base": "vit_b_16",
    "vit_base_p32": "vit_b_32",
    "vit_large": "vit_l_16",
    "vit_large_p32": "vit_l_32",
    "vit_huge_p14": "vit_h_14",
}


def published_weights(arch: str, name: str) -> Path:
    """The file with torchvision's weights ``name`` (``DEFAULT``, ``IMAGENET1K_V1``, ...) of ``arch``: where
    ``torch.hub`` keeps such files, downloaded if it is not there yet.

    Raises:
        SSLToolError: if torchvision publishes none of this name or for this architecture, or it cannot be downloaded.
    """
    models = {arch: arch for arch in torchvision_resnets()} | VITS
    if arch not in models:
        raise unknown("architecture with weights of torchvision's", arch, models)
    choices = torchvision.models.get_model_weights(models[arch])
    if name != "DEFAULT" and name not in choices.__members__:
        raise unknown(f"weights of torchvision's {arch},", name, ["DEFAULT", *choices.__members__])
    url = choices[name].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if not file.is_file():
        _download(url, file)
    return file


def _download(url: str, file: Path) -> None:
    digest = file.stem.rpartition("-")[2]  # torchvision's names end with the beginning of the file's SHA-256
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), digest, progress=False)
    except (OSError, RuntimeError) as error:
        raise SSLToolError(
            f"cannot download {url}: {first_line(error)}; where there is no network, put that file at {file}"
        ) from error
