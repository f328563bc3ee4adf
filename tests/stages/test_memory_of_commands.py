"""The peak memory of the commands that stream a file of rows, on a file of 3 GB."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory_watch import Watch, needs_proc

from ssltool.reprs.representations import Representations

ROWS, WIDTH = 1_500_000, 512
BOUND = 800e6
"""Bytes that a command may need for the 3 GB beyond what it needs for a file of 1,000 rows: labels and numbers of the
images, and blocks of rows."""

COMMANDS = {
    "collapse": ("collapse", "TRAIN", "--json"),
    "collapse --type all": ("collapse", "TRAIN", "--type", "all"),
    "knn": ("knn", "TRAIN", "VAL", "-k", "5"),
    "lincls": ("lincls", "--reprs", "TRAIN", "VAL", "--epochs", "1", "-b", "4096", "--out", "OUT"),
    "inspect": ("inspect", "--verify", "TRAIN"),
}

pytestmark = [pytest.mark.slow, needs_proc, pytest.mark.xdist_group("memory of commands")]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Files of 3 GB and of 1,000 rows, and one to evaluate on."""
    folder = tmp_path_factory.mktemp("rows")
    generator = torch.Generator().manual_seed(0)
    for name, count in {"large": ROWS, "small": 1000, "val": 1000}.items():
        rows = torch.empty(count, WIDTH).normal_(generator=generator)
        meta = {"split": "val" if name == "val" else "train"}
        Representations(rows, torch.arange(count) % 10, torch.arange(count), meta).save(folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in ("large", "small", "val")}


def peak(command: tuple[str, ...], train: Path, val: Path, out: Path) -> int:
    """The peak memory of ``ssltool`` with the ``command``."""
    words = {"TRAIN": str(train), "VAL": str(val), "OUT": str(out)}
    line = [sys.executable, "-m", "ssltool", *(words.get(word, word) for word in command)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        with Watch(process.pid) as watch:
            output, _ = process.communicate()
        assert process.returncode == 0, output
    return watch.most


@pytest.mark.parametrize("name", COMMANDS)
def test_the_peak_memory_does_not_grow_with_the_rows_of_the_file(name, files, tmp_path):
    small, large = (peak(COMMANDS[name], files[size], files["val"], tmp_path / size) for size in ("small", "large"))
    assert files["large"].stat().st_size > 3e9
    assert large - small < BOUND
