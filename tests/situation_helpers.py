"""What the situations share: folders of separable colours, their representations, and kNN accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from helpers import Ran

NETWORK = ("--pretrained", "random", "-a", "resnet18_w8", "--image-size", "16", "-j", "0")
"""An untrained network that represents separable colours by separable rows."""

Cli = Callable[..., Ran]


def colour_of(number: int) -> tuple[int, int, int]:
    """One of 27 colours that are far apart."""
    return tuple(127 * (number // 3**i % 3) for i in range(3))  # type: ignore[return-value]


def plain(number: int, *, seed: int = 0, side: int = 16) -> Image.Image:
    """An image of the colour ``number`` with noise of one grey level."""
    noise = np.random.default_rng([number, seed]).integers(-1, 2, (side, side, 3))
    return Image.fromarray(np.clip(np.array(colour_of(number)) + noise, 0, 255).astype(np.uint8))


def class_folders(root: Path, colours: dict[str, int], *, count: int = 2, seed: int = 0, end: str = ".png") -> Path:
    """A folder per class with ``count`` images of its colour."""
    for name, number in colours.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            plain(number, seed=100 * seed + i).save(root / name / f"{i}{end}")
    return root


def represent(ssltool: Cli, data: Path | str, out: Path, *flags: str) -> Ran:
    """Saves the representations of the images in ``data``."""
    return ssltool("save-reprs", data, *NETWORK, "-o", out, *flags)


def accuracy(ssltool: Cli, bank: Path, queries: Path, *flags: str) -> float:
    """The accuracy of one nearest neighbour."""
    ran = ssltool("knn", bank, queries, "-k", "1", "--json", *flags)
    assert ran.code == 0, ran.err
    return float(ran.json["accuracy"])


def accuracy_between(ssltool: Cli, train: Path, val: Path, *flags: str) -> float:
    """The accuracy of one nearest neighbour, from two folders of images."""
    files = []
    for folder in (train, val):
        files.append(folder.with_name(f"{folder.name}.pt"))
        ran = represent(ssltool, folder, files[-1], *flags)
        assert ran.code == 0, ran.err
    return accuracy(ssltool, *files)


def one_line(ran: Ran, *names: str) -> bool:
    """Whether a command refused its input in one line that holds all ``names``."""
    lines = ran.err.strip().splitlines()
    errors = [line for line in lines if line.startswith(("error: ", "Error: "))]
    whole = len(errors) == 1 and lines[-1] == errors[0] and not any("Traceback" in line for line in lines)
    return ran.code in (1, 2) and whole and all(name in errors[0] for name in names)


def said(ran: Ran, names: Iterable[str]) -> bool:
    """Whether a command that succeeded mentions all ``names`` on stderr."""
    return ran.code == 0 and all(name in ran.err for name in names)
