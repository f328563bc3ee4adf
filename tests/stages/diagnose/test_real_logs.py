"""Logs that the programs' own code wrote, of healthy and of collapsed trainings; ``real_logs/README.md`` says how."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssltool.config.fields import STATES
from ssltool.stages.diagnose.findings import find
from ssltool.stages.diagnose.log_formats import read_log
from ssltool.stages.diagnose.log_formats.log_file import LogFile

LOGS = Path(__file__).parents[1] / "real_logs"
FILES = sorted(path for path in LOGS.iterdir() if path.suffix != ".md")
LARGEST = 20_000

PROGRAMS = {
    "barlow": ("stats.txt of Barlow Twins", "uncorrelated-views", "D for D = 256"),
    "dino": ("log.txt of DINO", "uniform-output", "ln 1024"),
    "dino_stdout": ("output of a MetricLogger", "uniform-output", "ln 1024"),
    "lightly_train": ("metrics.jsonl of lightly-train", "", ""),
    "lightning": ("metrics.csv of Lightning", "constant-output", "-1"),
    "mae": ("log.txt of MAE", "", ""),
    "mae_stdout": ("output of a MetricLogger", "nonfinite", ""),
    "mocov3": ("output of MoCo v3", "nonfinite", ""),
    "simsiam": ("output of SimSiam", "constant-output", "-1"),
    "tensorboard": ("an event file of TensorBoard", "constant-output", "-1"),
    "vicreg": ("stats.txt of VICReg", "no-variance", "25 (1 - sqrt(1e-4))"),
    "wandb": ("a .wandb file of Weights & Biases", "constant-output", "-1"),
}
"""What the reader says, and the kind and the value that the collapsed log shows, if there is one."""


def program_of(path: Path) -> tuple[str, bool]:
    name, _, state = path.stem.rpartition("_")
    return name, state == "collapsed"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_log_is_recognised_and_its_collapse_named(path):
    name, collapsed = program_of(path)
    read, kind, formula = PROGRAMS[name]
    series = read_log(LogFile(path))
    found = find(series)
    assert series.program.startswith(read)
    if collapsed:
        assert (found[0].kind, found[0].state) == (kind, STATES[2])
        assert found[0].evidence.get("formula", "") == formula
    else:
        assert [one.kind for one in found if one.state != STATES[0]] == []


def test_the_real_logs_are_small_and_the_readme_says_what_wrote_each():
    readme = (LOGS / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        assert path.stat().st_size < LARGEST
        assert f"`{path.name}`" in readme
    both = {state for path in FILES for state in [program_of(path)]}
    assert sum((name, not collapsed) in both for name, collapsed in both if collapsed) >= 4
