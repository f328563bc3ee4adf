"""Measures the default threshold of ``ssltool duplicates``: how far changed copies of images are from their originals,
as a share of the median distance of two random images, and how many originals are as near to another one.

    python benchmarks/duplicate_threshold.py IMAGES --pretrained run/checkpoint.pt [more flags of save-reprs]

IMAGES is a folder of image files at any depth, such as /usr/share/tuxpaint/stamps of Debian's tuxpaint-stamps-default.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance
from torch import Tensor

from ssltool.reprs.representations import Representations

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
SMALLEST = 24
"""Shorter side in pixels of the smallest images that are used."""

Change = tuple[str, dict[str, int], Callable[[Image.Image], Image.Image]]


def cropped(share: float) -> Callable[[Image.Image], Image.Image]:
    """Keeps the centre, ``share`` of both sides."""

    def crop(image: Image.Image) -> Image.Image:
        dx, dy = (int(side * (1 - share) / 2) for side in image.size)
        return image.crop((dx, dy, image.width - dx, image.height - dy))

    return crop


def halved(image: Image.Image) -> Image.Image:
    """Half the width and height."""
    return image.resize((max(8, image.width // 2), max(8, image.height // 2)), Image.Resampling.LANCZOS)


CHANGES: dict[str, Change] = {
    "original": (".png", {}, lambda image: image),
    "BMP": (".bmp", {}, lambda image: image),
    "JPEG 90": (".jpg", {"quality": 90}, lambda image: image),
    "JPEG 40": (".jpg", {"quality": 40}, lambda image: image),
    "half": (".png", {}, halved),
    "crop 95 %": (".png", {}, cropped(0.95)),
    "crop 90 %": (".png", {}, cropped(0.9)),
    "crop 80 %": (".png", {}, cropped(0.8)),
    "mirrored": (".png", {}, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "darker": (".png", {}, lambda image: ImageEnhance.Brightness(image).enhance(0.8)),
}


def on_white(folder: Path) -> Iterator[tuple[Path, Image.Image]]:
    """The images of the folder and their relative paths."""
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).convert("RGBA")
        if min(image.size) >= SMALLEST:
            ground = Image.new("RGBA", image.size, "white")
            yield path.relative_to(folder), Image.alpha_composite(ground, image).convert("RGB")


def rows_of(folder: Path, out: Path, flags: list[str]) -> tuple[Tensor, Tensor]:
    """The unit rows of the images in ``folder``, in the order of their paths without suffix, and their digests."""
    command = [sys.executable, "-m", "ssltool", "save-reprs", str(folder), "-o", str(out), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    saved = Representations.load(out)
    order = torch.tensor(sorted(range(len(saved)), key=lambda row: str(Path((saved.paths or [])[row]).with_suffix(""))))
    digests = torch.zeros(len(saved)) if saved.digests is None else saved.digests
    return F.normalize(saved.representations.double(), dim=1)[order], digests[order]


def main(folder: Path, flags: list[str]) -> None:
    """Makes the changed images, computes the representations and prints the table."""
    with tempfile.TemporaryDirectory() as name:
        root, found = Path(name), {}
        for relative, image in on_white(folder):
            for change, (suffix, how, changed) in CHANGES.items():
                path = (root / change / relative).with_suffix(suffix)
                path.parent.mkdir(parents=True, exist_ok=True)
                changed(image).save(path, **how)
        for number, change in enumerate(CHANGES):
            found[change] = rows_of(root / change, root / f"{number}.pt", flags)
    rows, digests = found.pop("original")
    distances = 1 - rows @ rows.T
    typical = distances[~torch.eye(len(rows), dtype=torch.bool)].median()
    distances[digests[:, None] == digests[None]] = torch.inf  # each row itself, and equal files
    print(f"{len(rows)} images; the median distance of two is {float(typical):.4g}")
    print("  ".join(["share", "another", *found]))
    for share in SHARES:
        near = [float((distances.amin(dim=1) <= share * typical).double().mean())]
        near += [
            float((1 - (rows * other).sum(dim=1) <= share * typical).double().mean()) for other, _ in found.values()
        ]
        print("  ".join([f"{share:5.1%}", *(f"{value:.1%}" for value in near)]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
