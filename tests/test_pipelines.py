"""The bash pipelines run: each chains real commands through files, on a tiny network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fork_server
import numpy as np
import pytest

from helpers import TINY
from ssltool.checkpoints.checkpoint import Checkpoint

pytestmark = pytest.mark.xdist_group("pipelines")  # they share one server

PIPELINES = Path(__file__).parents[1] / "pipelines"
DOCS = PIPELINES.parent / "docs"


@pytest.fixture
def bash(tmp_path, server):
    """Runs a pipeline in ``tmp_path``, with ``ssltool`` on the path: ``bash("knn_eval.sh", ARCH, RUN) -> stdout``."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    fork_server.shim(binaries / "ssltool", server)

    def run(script: str, *args: object, **environment: str) -> str:
        paths = {
            "PATH": f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(PIPELINES.parent),
        }
        done = subprocess.run(
            ["bash", PIPELINES / script, *map(str, args)],
            cwd=tmp_path,
            env=os.environ | paths | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_eval_scripts_write_the_papers_files_beside_the_run(bash, trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint.pt").write_bytes((trained / "checkpoint.pt").read_bytes())
    np.save(tmp_path / "few.npy", np.arange(0, 8000, 40))
    few = {"SAVE_FLAGS": "--idx-path few.npy --device cpu"}
    assert "accuracy" in bash("knn_eval.sh", "resnet18_w8", "run", **few)
    assert "auc" in bash("svd_eval.sh", "resnet18_w8", "run/", **few)
    reprs = tmp_path / "run/reprs"
    summary = json.loads((reprs / "knn_summary_cos_train_val.json").read_text())
    assert 0 < summary["acc"] <= 1
    assert (reprs / "train_reprs_e0_svd.pt").exists()
    assert (reprs / "spectrum.png").read_bytes().startswith(b"\x89PNG")


LAUNCHER = """#!/bin/bash
trap 'exit 138' USR1
touch started
while :; do sleep 0.02; done
"""


def test_the_line_for_batch_scripts_passes_the_signal_on_and_ends_with_the_launchers_code(tmp_path):
    line = re.search(r"`(python pipelines/torchrun.py .* & trap .*)`", (DOCS / "clusters.md").read_text())
    assert line is not None
    (tmp_path / "python").write_text(LAUNCHER)
    (tmp_path / "python").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = subprocess.Popen(["bash", "-c", line[1]], cwd=tmp_path, env=os.environ | path)
    until = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.3)  # for the trap of the script
    script.send_signal(signal.SIGUSR1)
    assert script.wait(30) == 138


def test_paper_pipeline_trains_and_measures_the_five_regimes(bash, tmp_path, write_images):
    for split, count in (("train", 24), ("val", 8)):
        for name in ("cat", "dog"):
            write_images(tmp_path / "data" / split / name, count, size=(16, 16))
    flags = " ".join(TINY[2:]) + " --steps-per-epoch 1"
    out = bash("paper.sh", "data", "resnet18_w8", EPOCHS="4", BATCH="8", HYBRID_EPOCH="2", LAST="50", FLAGS=flags)
    assert out.count("accuracy") == 5
    logs = tmp_path / "logs"
    assert (logs / "resnet18_w8-spectra.png").exists()
    names = ["multiepoch_0001", "singlepass_0002", "cumulative_0003", "last50_0004", "hybrid_0005"]
    assert all(f"resnet18_w8-{name}/reprs/train_reprs_e0.pt" in out for name in names)
    runs = [Checkpoint.load(logs / f"resnet18_w8-{name}/checkpoint.pt") for name in names]
    assert [run.config["strategy"] for run in runs] == ["iid", "current", "accumulate", "last", "iid"]
    assert len({run.config["order_hash"] for run in runs[1:4]}) == 1
    hybrid = [record["strategy"] for record in runs[4].metrics["epochs"]]
    assert hybrid == ["current", "current", "iid", "iid"]


def test_evaluation_pipeline_measures_a_network_and_an_untrained_one_by_every_stage(bash, tmp_path):
    np.save(tmp_path / "few.npy", np.arange(0, 8000, 40))
    few, brief = "--idx-path few.npy --device cpu", "--idx-path few.npy --device cpu --epochs 1"
    train = " ".join(TINY) + " --steps-per-epoch 2 --monitor-size 64 --epochs 1 -b 32 --device cpu"
    settings = {
        "TRAIN": train,
        "REPRS": few,
        "PROBE": "--c-grid 0.1,1",
        "FINETUNE": brief,
        "SCAN": f"{brief} --threshold 0",
    }
    table = bash("evaluate.sh", "out", NAMES="simsiam", **settings).splitlines()
    assert [line.split("|")[1].strip() for line in table] == ["network", "---", "untrained", "simsiam"]
    for name, row in zip(("untrained", "simsiam"), table[2:], strict=True):
        found = json.loads((tmp_path / "out" / name / "scan.json").read_text())["steps"]["selflabel"]
        assert row.rstrip(" |").endswith(f"{found['accuracy']:.1%}")
        assert row.count("%") == 8
    assert "simsiam" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_student_teacher_study_draws_losses_and_spectra_of_four_regimes(bash, tmp_path):
    np.save(tmp_path / "few.npy", np.arange(0, 8000, 40))
    network = ["-a", "vit_w64_depth2", "--set", "hidden=32", "--idx-path", "few.npy", "--device", "cpu"]
    out = bash("teacher_study.sh", "out", *network, "--epochs", 2, "--steps-per-epoch", 1, "-b", 8)
    lines = [line.split() for line in out.splitlines() if "to step" in line]
    assert [line[0] for line in lines] == ["sgd", "frozen", "copy", "ema"]
    assert all(line[-1] == "2" for line in lines)
    assert (tmp_path / "out/teacher_study.svg").read_text().count("Eigenvalues, ") == 2
    student, teacher = (tmp_path / f"out/copy/{network}.pt" for network in ("student", "teacher"))
    assert Checkpoint.load(tmp_path / "out/copy/checkpoint.pt").config["method_options"]["update"] == "copy"
    assert student.read_bytes() != teacher.read_bytes()
