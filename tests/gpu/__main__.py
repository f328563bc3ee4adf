"""The commands that compute on a GPU, beside the CPU:  python tests/gpu [--device cuda] [--only NAME ...]

Each command runs in one process on the CPU and on the device. Pretraining, with gloo, and the commands that measure
also run on two ranks that share the device; NCCL refuses to share one, so it needs two. The numbers of their JSON
documents are compared: measurements of the same rows agree to 1e-6, what is computed from images to 2 %, results of a
training to 0.05. Prints a line for each, and exits with 1 if one differs or fails. It needs ``ssltool`` alone, and
takes about five minutes. ``--device cpu`` tries the script.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
NETWORK = "-a resnet18_w8 --stem small-stride2 --dim 16 --pred-dim 8"
TRAINING = "--epochs 1 --steps-per-epoch 4 -b 64 --monitor-size 256 --precision fp32"


@dataclass(frozen=True)
class Check:
    """A command; {out} in its words is a folder of its own. ``near`` is the largest difference of a number, relative to
    it or absolute where it is below 1. With ``two``, flags for them, it also runs on two ranks. What is compared is the
    document of ``then``, a command that reads what this one wrote, if there is one. On CUDA the command has the flags
    ``on_cuda``, too."""

    words: str
    near: float
    two: str | None = None
    then: str | None = None
    on_cuda: str = ""


CHECKS = {
    "pretrain": Check(f"pretrain {NETWORK} {TRAINING} -o {{out}}/run", 0.05, two="--dist-backend gloo"),
    "pretrain-graphs": Check(f"pretrain {NETWORK} {TRAINING} -o {{out}}/run", 0.05, on_cuda="--compile --cuda-graphs"),
    "save-reprs": Check(
        "save-reprs --pretrained run/checkpoint.pt --split val -o {out}/reprs.pt",
        0.02,
        two="",
        then="collapse {out}/reprs.pt",
    ),
    "collapse": Check("collapse reprs/train_reprs_e0.pt --pair-rows 500", 1e-6, two=""),
    "collapse-layers": Check("collapse --layers run/checkpoint.pt --sample 256", 0.02, two=""),
    "knn": Check("knn reprs/train_reprs_e0.pt reprs/val_reprs_e0.pt", 1e-6, two=""),
    "diagnose": Check("diagnose run/checkpoint.pt --sample 256", 0.02, two=""),
    "lincls": Check("lincls --pretrained run/checkpoint.pt --epochs 1 --lr 1 -o {out}/probe", 0.05),
    "lincls-rows": Check(
        "lincls --reprs reprs/train_reprs_e0.pt reprs/val_reprs_e0.pt --solver lbfgs -o {out}/rows", 0.01
    ),
    "finetune": Check("finetune --pretrained run/checkpoint.pt --epochs 1 -b 256 -o {out}/tuned", 0.05),
    "scan": Check("scan --pretrained run/checkpoint.pt --step mine --neighbours 5 -o {out}/scan", 0.05),
}
"""The commands, in this order. They read run/ and reprs/, which ``MADE`` makes."""

MADE = (
    f"pretrain {NETWORK} {TRAINING} --device cpu -o run",
    "save-reprs --pretrained run/checkpoint.pt --split both --device cpu -o reprs",
)

ON_A_DEVICE = (
    "pretrain",
    "pretrain-graphs",
    "save-reprs",
    "collapse-layers",
    "diagnose",
    "lincls",
    "lincls-rows",
    "finetune",
    "scan",
    "knn",
)
"""Commands that have --device."""

NOT_COMPARED = ("seconds", "per_second", "wait", "share", "path", "device", "iterations", "bytes", "memory", "torch")
"""Numbers whose names contain one of these depend on the machine."""


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """That of a rank which has a machine of its own, so that all ranks take the same GPU; of 0 ranks, one process."""
    values = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "4", "PYTHONWARNINGS": "ignore"}
    if ranks:
        one = {"WORLD_SIZE": ranks, "RANK": rank, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        values |= {
            name: str(value) for name, value in (one | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}).items()
        }
    return values


def run(words: list[str], folder: Path, ranks: int) -> dict[str, Any]:
    """The JSON document of a command; ``ranks`` is 0 for one process without a group.

    Raises:
        RuntimeError: if it fails.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command, pipe = [sys.executable, "-m", "ssltool", *words, "--json"], subprocess.PIPE
    started = [
        subprocess.Popen(command, cwd=folder, env=environment(rank, ranks, port), stdout=pipe, stderr=pipe, text=True)
        for rank in range(max(1, ranks))
    ]
    printed = [process.communicate() for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("; ".join(err.strip().splitlines()[-1] for _, err in printed if err.strip()))
    document: dict[str, Any] = json.loads(printed[0][0])
    return document


def numbers(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a document, by their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not any(part in key for part in NOT_COMPARED):
                yield from numbers(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers(inner, f"{name}[{i}]")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, float(value)


def differences(found: object, wanted: object, near: float) -> list[str]:
    """The numbers that differ by more than ``near``, or are in one document only."""
    ours, theirs = dict(numbers(found)), dict(numbers(wanted))
    apart = [
        f"{name} {ours[name]:.6g} instead of {value:.6g}"
        for name, value in theirs.items()
        if name in ours and not abs(ours[name] - value) <= near * max(1.0, abs(value))
    ]
    return apart + [f"{name} is in one only" for name in sorted(ours.keys() ^ theirs.keys())]


def check(name: str, folder: Path, device: str) -> Iterator[str]:
    """A line for each way in which the command ran."""
    one, has_device = CHECKS[name], name in ON_A_DEVICE

    def document(out: str, device: str, ranks: int, more: str) -> dict[str, Any]:
        flags = ["--device", device] * has_device + more.split()
        flags += one.on_cuda.split() if device.startswith("cuda") else []
        found = run([word.format(out=out) for word in one.words.split()] + flags, folder, ranks)
        return found if one.then is None else run(one.then.format(out=out).split(), folder, 0)

    wanted = document(f"{name}-reference", "cpu", 0, "")
    for ranks, more in [(0, "")] + ([] if one.two is None else [(2, one.two)]):
        begin = time.perf_counter()
        try:
            apart = differences(document(f"{name}-{ranks}", device, ranks, more), wanted, one.near)
        except RuntimeError as error:
            apart = [f"failed: {error}"]
        outcome = "DIFFERS: " + "; ".join(apart[:3]) if apart else "agrees"
        seconds = time.perf_counter() - begin
        yield f"{name} on {device}, {'two ranks' if ranks else 'one process'}: {outcome} ({seconds:.0f} s)"


def main() -> int:
    """Runs the checks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="the device that is compared with the CPU")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="these commands")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for words in MADE:
            run(words.split(), Path(folder), 0)
        for name in given.only:
            for line in check(name, Path(folder), given.device):
                print(line, flush=True)
                failed += "agrees" not in line
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
