"""Creates the bundled subset of Fashion-MNIST: the first images of each class, in file order."""

import lzma
import struct
import sys
from pathlib import Path

import numpy as np

from ssltool.data.bundled import FOLDER
from ssltool.data.raw import read_idx

PER_CLASS = {"train": 800, "t10k": 200}


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes a uint8 array as an IDX file compressed by xz, which is smaller than by gzip."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(lzma.compress(header + array.tobytes(), preset=6 | lzma.PRESET_EXTREME))


def main(source: Path) -> None:
    """Writes the subset of the original files in ``source`` to the package."""
    for split, count in PER_CLASS.items():
        images = read_idx(source / f"{split}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{split}-labels-idx1-ubyte.gz")
        keep = np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))
        write_idx(FOLDER / f"{split}-images-idx3-ubyte.xz", images[keep])
        write_idx(FOLDER / f"{split}-labels-idx1-ubyte.xz", labels[keep])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
