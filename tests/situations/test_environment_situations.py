"""Situations of the environment in which a command is started, each with the right exit code and output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssltool
from helpers import slow_but

ROOT = Path(ssltool.__file__).parents[1]


@pytest.fixture(scope="module")
def reprs(tmp_path_factory) -> Path:
    """A file of representations with labels."""
    path = tmp_path_factory.mktemp("environment") / "a.pt"
    rows = torch.eye(4, 8).repeat(6, 1) + 0.01 * torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    torch.save({"representations": rows, "targets": torch.arange(24) % 4}, path)
    return path


def start(command: str, folder: Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Runs a line of shell in which ``ssltool`` is the command; None removes a variable."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    line = command.replace("ssltool", f"{sys.executable} -m ssltool", 1)
    kept = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=kept, capture_output=True, text=True, timeout=120)


ENVIRONMENTS = {
    "little is set, and what is set is unusual": {
        **{"HOME": None, "USER": None, "LOGNAME": None, "TMPDIR": "/nowhere"},
        **{"COLUMNS": "10", "TERM": "dumb", "NO_COLOR": "1", "LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8"},
    },
    "inside a batch job without a visible GPU, and python is optimised": {
        **{"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": ""},
        **{"PYTHONOPTIMIZE": "2"},
    },
    "warnings are errors": {"PYTHONWARNINGS": "error"},
}
"""Each is one process, which takes seconds to start."""

QUICK = ("little is set, and what is set is unusual", "warnings are errors")
"""The other takes longer: an optimised Python compiles every file of torch."""


@pytest.mark.parametrize("name", slow_but(QUICK, ENVIRONMENTS))
def test_knn_gives_the_same_result_in_every_environment(reprs, name):
    ran = start(f"ssltool knn {reprs} {reprs} -k 1", reprs.parent, **ENVIRONMENTS[name])
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0].split()[:2] == ["accuracy", "1.0000,"]


def test_a_figure_is_drawn_without_a_display_and_without_a_writable_folder_of_matplotlib(reprs):
    line = f"ssltool collapse {reprs} --plot figure.png --out {reprs.parent / 'spectra'}"
    ran = start(line, reprs.parent, MPLBACKEND="TkAgg", MPLCONFIGDIR="/proc/nowhere", DISPLAY=None)
    assert ran.returncode == 0, ran.stderr
    assert (reprs.parent / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_closed_standard_streams_do_not_stop_a_command(reprs):
    out = reprs.parent / "closed.json"
    ran = start(f"ssltool knn {reprs} {reprs} -k 1 -o {out} <&- >&- 2>&-", reprs.parent)
    assert ran.returncode == 0
    assert '"accuracy": 1.0' in out.read_text()


def test_a_missing_folder_of_a_result_is_created(ssltool, reprs):
    out = reprs.parent / "new" / "deep" / "result.json"
    assert ssltool("knn", reprs, reprs, "-k", 1, "-o", out).code == 0
    assert out.is_file()


def test_a_folder_as_the_file_of_a_result_is_refused_in_one_line(ssltool, reprs, monkeypatch):
    (reprs.parent / "taken").mkdir()
    monkeypatch.chdir(reprs.parent)
    ran = ssltool("knn", reprs, reprs, "-k", 1, "-o", "taken")
    assert ran.code in (1, 2) and "taken" in ran.err.splitlines()[-1] and "Traceback" not in ran.err


def test_few_open_files_are_enough(reprs):
    assert start(f"ulimit -n 40; ssltool knn {reprs} {reprs} -k 1", reprs.parent).returncode == 0
