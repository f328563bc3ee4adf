"""The scripts in pipelines/slurm on a real Slurm, which ``make cluster`` starts on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ssltool.checkpoints.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        "SLURM_CONF" not in os.environ or shutil.which("sbatch") is None, reason="no Slurm is running: make cluster"
    ),
]

SCRIPTS = Path(__file__).parents[2] / "pipelines" / "slurm"
NETWORK = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--dim", "16", "--pred-dim", "8"]
BRIEF = [*NETWORK, "-b", "32", "--device", "cpu", "--precision", "fp32", "--monitor-every", "0", "--workers", "0"]
DONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


@pytest.fixture
def data(tmp_path) -> Path:
    """Arrays of small images and of labels in a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 256), ("val", 64)):
        np.save(folder / f"{split}.npy", np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8))
        np.save(folder / f"{split}_labels.npy", np.arange(count) % 4)
    return folder


def slurm(*command: object) -> str:
    """The output of a command of Slurm. ``ssltool`` of this Python is on the path of the jobs."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def states(job: str) -> list[str]:
    shown = slurm("scontrol", "show", "job", job)
    return [word.partition("=")[2] for word in shown.split() if word.startswith("JobState=")]


def restarts(job: str) -> int:
    shown = slurm("scontrol", "show", "job", job)
    return max(int(word.partition("=")[2]) for word in shown.split() if word.startswith("Restarts="))


def wait(job: str, seconds: float = 400) -> list[str]:
    """Waits until the job has ended, requeued as often as it may be, and returns the states of its tasks."""
    end = time.monotonic() + seconds
    while not all(state in DONE for state in states(job)):
        assert time.monotonic() < end, slurm("scontrol", "show", "job", job)
        time.sleep(1)
    return states(job)


def until(what, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def submit(tmp_path: Path, *command: object) -> str:
    return slurm("sbatch", "--parsable", "--cpus-per-task=1", f"--output={tmp_path}/%x-%j.log", *command)


def unbroken(data: Path, run: Path, *flags: object) -> dict[str, torch.Tensor]:
    slurm("ssltool", "pretrain", data, *BRIEF, *flags, "-o", run)
    return Checkpoint.load(run / "checkpoint.pt").state_dict


def same_bits(run: Path, wanted: dict[str, torch.Tensor]) -> bool:
    found = Checkpoint.load(run / "checkpoint.pt").state_dict
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_two_tasks_on_two_nodes_train_what_one_process_trains(tmp_path, data):
    flags = ["--epochs", 2, "--seed", 3]
    run = tmp_path / "run"
    job = submit(tmp_path, "--nodes=2", "--ntasks-per-node=1", SCRIPTS / "pretrain.sh", data, run, *BRIEF, *flags)
    assert wait(job) == ["COMPLETED"]
    found, wanted = Checkpoint.load(run / "checkpoint.pt"), unbroken(data, tmp_path / "alone", *flags)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found.state_dict[name], tensor, rtol=1e-3, atol=1e-4)
    assert "cpu x 2" in next(tmp_path.glob("ssltool-*.log")).read_text()


def test_a_job_that_reaches_its_time_limit_is_requeued_and_ends_with_the_bits_of_an_unbroken_run(tmp_path, data):
    flags = ["--epochs", 150, "--steps-per-epoch", 8, "--save-every", 1000]  # half a minute or more
    run = tmp_path / "run"
    limit = ["--time=1", "--signal=USR1@50"]
    job = submit(tmp_path, *limit, SCRIPTS / "pretrain.sh", data, run, *BRIEF, *flags)
    assert wait(job) == ["COMPLETED"]
    assert restarts(job) > 0
    assert same_bits(run, unbroken(data, tmp_path / "alone", *flags))


def preempt(job: str, tmp_path: Path) -> None:
    urgent = submit(tmp_path, "--partition=urgent", "--nodes=2", "--exclusive", "--wrap", "sleep 1")
    assert wait(urgent) == ["COMPLETED"]


def send_usr1(job: str, tmp_path: Path) -> None:
    slurm("scancel", "--signal=USR1", job)


@pytest.mark.parametrize(("tasks", "stop", "epochs"), [(1, preempt, 40), (2, preempt, 40), (2, send_usr1, 16)])
def test_a_job_that_is_stopped_is_requeued_and_ends_with_the_bits_of_an_unbroken_one(
    tmp_path, data, tasks, stop, epochs
):
    flags = ["--epochs", epochs, "--steps-per-epoch", 8, "--save-every", 1000]
    ranks = ["--nodes=2", "--ntasks-per-node=1"] if tasks == 2 else ["--nodes=1"]
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    if tasks == 2:
        wait(submit(tmp_path, *ranks, SCRIPTS / "pretrain.sh", data, undisturbed, *BRIEF, *flags))
        wanted = Checkpoint.load(undisturbed / "checkpoint.pt").state_dict
    else:
        wanted = unbroken(data, undisturbed, *flags)
    job = submit(tmp_path, *ranks, SCRIPTS / "pretrain.sh", data, run, *BRIEF, *flags)
    until(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) > 2)
    stop(job, tmp_path)
    assert wait(job) == ["COMPLETED"]
    assert restarts(job) == 1
    assert same_bits(run, wanted)


def test_a_cancelled_job_saves_and_is_not_requeued(tmp_path, data):
    run = tmp_path / "run"
    job = submit(tmp_path, SCRIPTS / "pretrain.sh", data, run, *BRIEF, "--epochs", 4000)
    until(lambda: (run / "metrics.jsonl").exists())
    slurm("scancel", job)
    assert wait(job) == ["CANCELLED"]
    time.sleep(8)  # longer than a requeued job waits
    assert states(job) == ["CANCELLED"] and restarts(job) == 0
    assert Checkpoint.load(run / "checkpoint.pt").step > 0


def test_an_array_trains_the_rows_of_a_table(tmp_path, data):
    table = tmp_path / "runs.csv"
    table.write_text("run,method,lr,hidden (option)\nslow,simsiam,0.01,\nother,byol,0.1,24\n")
    common = [flag for flag in BRIEF if flag not in ("--dim", "--pred-dim", "16", "8")]
    common = [*common[: common.index("--image-size") + 1], 16, *common[common.index("--image-size") + 1 :]]
    job = submit(
        tmp_path, "--array=1-2", SCRIPTS / "array.sh", table, tmp_path / "runs", data, *common, "--epochs", 1,
    )  # fmt: skip
    assert wait(job) == ["COMPLETED", "COMPLETED"]
    found = [json.loads((tmp_path / "runs" / row / "config.json").read_text()) for row in "12"]
    assert [(one["method"], one["lr"]) for one in found] == [("simsiam", 0.01), ("byol", 0.1)]
    assert found[1]["method_options"]["hidden"] == 24


def chain(data: Path, run: Path, resources: str, epochs: int = 1) -> dict[str, str]:
    """The numbers of the jobs of a chain, by their names."""
    printed = slurm("bash", SCRIPTS / "chain.sh", data, run, resources, *BRIEF, "--epochs", epochs)
    jobs = dict(line.split() for line in printed.splitlines())
    assert list(jobs) == ["pretrain", "save-reprs", "knn", "collapse", "report"]
    return jobs


@pytest.mark.parametrize("resources", ["--cpus-per-task=1", "--cpus-per-task=1 --nodes=2 --ntasks-per-node=1"])
def test_a_chain_of_jobs_ends_with_a_report(tmp_path, data, resources):
    run = tmp_path / "run"
    for job in chain(data, run, resources).values():
        assert wait(job) == ["COMPLETED"]
    assert "<html" in (run / "report.html").read_text()
    collapse = json.loads(re.search(r"^{.*}$", next(run.glob("collapse-*.log")).read_text(), re.MULTILINE)[0])
    assert collapse["files"][0]["n"] == 256


def test_a_later_job_of_a_chain_that_is_stopped_is_requeued_and_the_chain_goes_on(tmp_path, data):
    run = tmp_path / "run"
    jobs = chain(data, run, "--cpus-per-task=1")
    step = f"{jobs['save-reprs']}.0"  # scancel signals no job whose first step has not begun
    until(lambda: step in slurm("squeue", "--noheader", "--steps", "--format=%i").split(), seconds=300)
    send_usr1(jobs["save-reprs"], tmp_path)
    for job in jobs.values():
        assert wait(job) == ["COMPLETED"]
    assert restarts(jobs["save-reprs"]) == 1
