"""The memory that save-reprs takes to save tokens, which must not grow with the number of images.

    python benchmarks/tokens.py [--images 1000 --images 4000] [--format pt] [--arch vit_small_h6]

Each number of bundled images is saved by its own process: all patches behind the patch embedding of an untrained ViT,
196 of 384 values at 224 pixels, as of any of its layers. ``rows`` is the size of the rows, ``memory`` the peak of the
process's memory above that at its start, without the pages of mapped files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from collapse import Watch

from ssltool.config import SaveReprsConfig
from ssltool.stages.save_reprs import run


def work(config: SaveReprsConfig) -> None:
    """Saves the tokens in this process, and prints seconds and bytes."""
    watch = Watch()
    watch.start()
    start = time.perf_counter()
    (written,) = run(config)
    seconds = time.perf_counter() - start
    watch.stopped.set()
    rows = 4 * written["n"] * written["d"]
    print(json.dumps({"seconds": seconds, "memory": watch.most - watch.start_at, "rows": rows}))


@click.command(help=__doc__)
@click.option("--images", "counts", multiple=True, type=int, default=(1000, 4000), help="numbers of images")
@click.option("--format", "kind", default="pt", help="as of save-reprs")
@click.option("--arch", "-a", default="vit_small_h6")
@click.option("--child", is_flag=True, hidden=True)
@click.option("--out", hidden=True)
def main(counts: tuple[int, ...], kind: str, arch: str, child: bool, out: str) -> None:
    """Measures each number of images, or with ``--child`` the first one in this process."""
    if child:
        network = {"pretrained": "random", "arch": arch, "image_size": 224, "device": "cpu", "batch_size": 64}
        work(
            SaveReprsConfig(
                layer="backbone.conv_proj", tokens="patch", sample=counts[0], format=kind, out=out, **network
            )
        )
        return
    print("| images | rows, MB | memory, MB | seconds |\n|---|---|---|---|")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            flags = [
                "--images",
                count,
                "--format",
                kind,
                "-a",
                arch,
                "--child",
                "--out",
                Path(folder) / f"tokens.{kind}",
            ]
            command = [sys.executable, __file__, *map(str, flags)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        megabytes = " | ".join(f"{found[name] / 1e6:,.0f}" for name in ("rows", "memory"))
        print(f"| {count:,} | {megabytes} | {found['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
