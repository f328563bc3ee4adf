"""One and two ranks on this machine: images/s, the cost of ``torchrun``, and the bytes that a step sends.

    python benchmarks/scaling.py [--arch resnet18_w16] [--steps 40] [--rounds 3]

Trains SimSiam on the bundled images with a batch of 64 a rank, alternating: one process, one rank under ``torchrun``,
and two ranks, each with one thread. Images/s are those of the second epoch. The bytes that two ranks exchange in a step
are the difference of two runs of different length, counted on the loopback device of a network namespace of its own
(which needs root). The model of them is printed beside the count: an all-reduce of n bytes over W ranks sends
2 (W - 1) n in total, once for the gradients, and for each batch norm and view once for two sums of the backward pass.
The two statistics of the forward pass are gathered, which sends as much with two ranks.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

BATCH = 64
ROOT = Path(__file__).resolve().parents[1]


def command(arch: str, ranks: int | None, steps: int, epochs: int, out: str) -> list[str]:
    """The run on ``ranks`` ranks; None is one process without torchrun."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks else []
    schedule = ["--epochs", str(epochs), "--steps-per-epoch", str(steps), "-b", str(BATCH * (ranks or 1))]
    flags = ["-a", arch, "--precision", "fp32", "--monitor-every", "0", "-j", "0", "--out", out, "--overwrite"]
    return [sys.executable, *launcher, "-m", "ssltool", "pretrain", *flags, *schedule]


def run(arguments: list[str], isolated: bool = False) -> str:
    """Runs a command, ``isolated`` in a network namespace of its own; returns what it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if isolated:
        # /proc/net is that of the namespace; /sys/class/net is that of where it was mounted.
        script = 'ip link set lo up; "$@" >&2; awk "/lo:/ {print \\$10}" /proc/net/dev'
        arguments = ["unshare", "-n", "bash", "-c", script, "bash", *arguments]
    ran = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return ran.stdout


def images_per_second(arch: str, ranks: int | None, steps: int, folder: str) -> float:
    """Images/s of the second epoch, over all ranks."""
    run(command(arch, ranks, steps, 2, f"{folder}/run"))
    lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["images_per_second"])


def bytes_of_a_step(arch: str, steps: int, folder: str) -> float:
    """The bytes that two ranks send in a step."""
    short, long = (int(run(command(arch, 2, count, 1, f"{folder}/run"), isolated=True)) for count in (steps, 3 * steps))
    return (long - short) / (2 * steps)


def modelled_bytes(arch: str, folder: str, ranks: int = 2) -> float:
    """The bytes of a step by the model: those of the gradients, and of the sums of batch norms."""
    from torch import nn

    from ssltool.checkpoints.load import load_pretrained
    from ssltool.config import SaveReprsConfig
    from ssltool.training.distributed import CPU

    config = SaveReprsConfig(pretrained=f"{folder}/run/checkpoint.pt")
    method = load_pretrained(config, CPU, ranks=True).method
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    norms = sum(m.num_features for m in method.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    views, sums = 2, 4
    return 2 * (ranks - 1) * 4 * (parameters + views * sums * norms)


@click.command()
@click.option("--arch", default="resnet18_w16", show_default=True)
@click.option("--steps", default=40, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(arch: str, steps: int, rounds: int) -> None:
    kinds = {"one process": None, "one rank of torchrun": 1, "two ranks": 2}
    with tempfile.TemporaryDirectory() as folder:
        speeds: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(rounds):
            for name, ranks in kinds.items():
                speeds[name].append(images_per_second(arch, ranks, steps, folder))
        print("| launch | images/s | ratio |\n|---|---|---|")
        for name, values in speeds.items():
            ratio = statistics.median(value / one for value, one in zip(values, speeds["one process"], strict=True))
            print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} |")
        counted = bytes_of_a_step(arch, steps, folder)
        modelled = modelled_bytes(arch, folder)
        print(f"\nbytes of a step of two ranks: {counted:,.0f} counted, {modelled:,.0f} by the model", end=", ")
        print(f"{counted / modelled:.3f} times")


if __name__ == "__main__":
    main()
