"""A folder of images some of which are equal or near-duplicates, and their representations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ssltool.config import SaveReprsConfig
from ssltool.stages import save_reprs
from ssltool.training.progress import quiet


def write_album(folder: Path, *, seed: int = 0) -> None:
    """Ten images of random colours: ``cat/0.png`` ... ``dog/9.png``. ``cat/copy.png`` is the file ``cat/0.png``, and
    ``dog/again.jpg`` shows ``dog/5.png`` as JPEG."""
    rng = np.random.default_rng(seed)
    for i in range(10):
        path = folder / ("cat" if i < 5 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
        coarse.resize((24, 20), Image.Resampling.BICUBIC).save(path)
    (folder / "cat" / "copy.png").write_bytes((folder / "cat" / "0.png").read_bytes())
    Image.open(folder / "dog" / "5.png").save(folder / "dog" / "again.jpg", quality=95)


def save_album(folder: Path, checkpoint: Path, out: Path, **settings: object) -> Path:
    """Saves the representations of the images in ``folder`` by the network of ``checkpoint``."""
    fixed = {"data": str(folder), "pretrained": str(checkpoint), "device": "cpu", "workers": 0, "out": str(out)}
    with quiet():
        (written,) = save_reprs.run(SaveReprsConfig(**(fixed | settings)))
    return Path(written["path"])
