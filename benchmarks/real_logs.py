"""Logs that other programs' own code wrote, of a healthy and of a collapsed training, for the tests of ``diagnose``.

    python benchmarks/real_logs.py CHECKOUTS [--only NAME ...] [--out tests/stages/real_logs]

CHECKOUTS has the repositories of facebookresearch: dino, simsiam, vicreg, barlowtwins, mae, moco-v3. pytorch-lightning,
lightly, tensorboard, wandb and lightly-train are needed too. Each training runs in a process of its own, with
``benchmarks/real_programs.py``, on 128 of the bundled images and on one core. Its log and the README in the folder are
replaced; nothing of the programs' code is kept.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "ssltool" / "data" / "bundled" / "train-images-idx3-ubyte.gz"
LARGEST = 20_000

LOGS: dict[str, tuple[str, dict[str, str]]] = {
    "simsiam": ("facebookresearch/simsiam", {"stdout": "simsiam_{}.txt"}),
    "vicreg": ("facebookresearch/vicreg", {"stats.txt": "vicreg_{}.txt"}),
    "barlow": ("facebookresearch/barlowtwins", {"stats.txt": "barlow_{}.txt"}),
    "dino": ("facebookresearch/dino", {"log.txt": "dino_{}.txt", "stdout": "dino_stdout_{}.txt"}),
    "mocov3": ("facebookresearch/moco-v3", {"stdout": "mocov3_{}.txt"}),
    "mae": ("facebookresearch/mae", {"log.txt": "mae_{}.txt", "stdout": "mae_stdout_{}.txt"}),
    "lightning": (
        "lightly, pytorch-lightning, tensorboard, wandb",
        {
            "**/metrics.csv": "lightning_{}.csv",
            "**/events.out.tfevents.*": "tensorboard_{}.events",
            "**/*.wandb": "wandb_{}.wandb",
        },
    ),
    "lightly_train": ("lightly-train", {"**/metrics.jsonl": "lightly_train_{}.jsonl"}),
}
"""For each program where it comes from, and its logs: the file in its folder, or what it printed, and their names."""

STOPS = [("mae", "collapsed")]
"""The program that ends with an error, at a loss that is not finite."""


HEALTHY_ONLY = ("lightly_train",)
"""At a teacher temperature of 1 its loss stays above ln K, so that the log shows no collapse."""


def write_images(folder: Path, count: int = 128) -> None:
    """The first ``count`` bundled images, as files of RGB images of 16 pixels in a folder of one class."""
    pixels = np.frombuffer(gzip.decompress(BUNDLED.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    into = folder / "train" / "all"
    into.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(pixels[i]).convert("RGB").resize((16, 16)).save(into / f"{i:03d}.png")


def run(program: str, state: str, checkouts: Path, images: Path, out: Path) -> list[str]:
    """Trains, and moves the logs into ``out``; returns their names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        command = [sys.executable, str(Path(__file__).with_name("real_programs.py")), program, state]
        ran = subprocess.run([*command, str(checkouts), str(images), str(folder)], capture_output=True)
        if ran.returncode and (program, state) not in STOPS:
            print(ran.stderr.decode()[-3000:], file=sys.stderr)
            return []
        (folder / "stdout").write_bytes(ran.stdout)
        names = []
        for pattern, target in LOGS[program][1].items():
            for file in sorted(folder.glob(pattern))[:1]:
                text = file.read_bytes().replace(name.encode(), b"/tmp/real_logs"[: len(name)].ljust(len(name), b"_"))
                if len(text) > LARGEST:
                    print(f"{file.name} of {program} {state} has {len(text):,} bytes, left out", file=sys.stderr)
                    continue
                (out / target.format(state)).write_bytes(text)
                names.append(target.format(state))
        return names


def version_of(program: str, checkouts: Path) -> str:
    """The commit of a checkout, or the versions of packages."""
    source = LOGS[program][0]
    if not source.startswith("facebookresearch/"):
        return ", ".join(f"{name} {_version(name)}" for name in source.split(", "))
    folder = checkouts / source.partition("/")[2]
    commit = (folder / "COMMIT").read_text().strip() if (folder / "COMMIT").exists() else _commit(folder)
    return f"github.com/{source} at {commit[:7]}"


def _commit(folder: Path) -> str:
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "an unknown commit"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


@click.command()
@click.argument("checkouts", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(list(LOGS)), help="this program only; repeatable")
@click.option("--state", "states", multiple=True, default=("healthy", "collapsed"), show_default=True)
@click.option("--out", default=ROOT / "tests" / "stages" / "real_logs", type=click.Path(path_type=Path))
def main(checkouts: Path, only: tuple[str, ...], states: tuple[str, ...], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        images = Path(name)
        write_images(images)
        for program in only or LOGS:
            for state in states:
                if state == "collapsed" and program in HEALTHY_ONLY:
                    continue
                start = time.monotonic()
                written = run(program, state, checkouts.resolve(), images, out)
                said = f"{program} {state}: {', '.join(written) or 'no log'}, {time.monotonic() - start:.0f} s"
                print(f"{said}; {version_of(program, checkouts)}", flush=True)


if __name__ == "__main__":
    main()
