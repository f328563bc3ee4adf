"""Ranks started by a real torchrun: restarts, several agents, signals. ``make cluster`` runs it; it takes minutes."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ssltool.checkpoints.checkpoint import Checkpoint

pytestmark = pytest.mark.skipif("CLUSTER_TESTS" not in os.environ, reason="takes minutes: make cluster")

ROOT = Path(__file__).parents[2]
OURS = [sys.executable, ROOT / "pipelines" / "torchrun.py"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
NETWORK = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--dim", "16", "--pred-dim", "8"]
BRIEF = [*NETWORK, "-b", "16", "--device", "cpu", "--monitor-every", "0", "--workers", "0", "--print-freq", "1"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def start(launcher: list[object], *flags: object, log: Path) -> subprocess.Popen[str]:
    command = [*launcher, "-m", "ssltool", "pretrain", *BRIEF, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with open(log, "w") as stream:
        return subprocess.Popen([*map(str, command)], stderr=stream, stdout=stream, env=environment, text=True)


def until_in(log: Path, text: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def children(pid: int) -> dict[int, int]:
    """The processes of the ranks that torchrun started, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            rank = re.search(rb"\0RANK=(\d+)\0", (folder / "environ").read_bytes())
        except OSError:
            continue
        if parent == pid and rank:
            found[int(rank[1])] = int(folder.name)
    return found


def none_left(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def same_bits(one: Path, other: Path) -> bool:
    a, b = (Checkpoint.load(run / "checkpoint.pt").state_dict for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_two_agents_of_one_rank_equal_one_agent_of_two_bit_for_bit(tmp_path):
    flags = ["--epochs", 2, "--steps-per-epoch", 3]
    one = [*TORCHRUN, "--standalone", "--nproc-per-node", 2]
    assert start(one, *flags, "-o", tmp_path / "one", log=tmp_path / "one.log").wait(300) == 0
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "a"]
    agent = [*TORCHRUN, "--nnodes", 2, "--nproc-per-node", 1, *meeting, "--local-addr", "127.0.0.1"]
    agents = [start(agent, *flags, "-o", tmp_path / "two", log=tmp_path / f"{n}.log") for n in range(2)]
    assert [one.wait(300) for one in agents] == [0, 0], (tmp_path / "0.log").read_text()
    assert same_bits(tmp_path / "one", tmp_path / "two")


def test_one_restart_after_a_kill_ends_with_the_bits_of_an_unbroken_run(tmp_path):
    flags = ["--epochs", 3, "--steps-per-epoch", 8, "--save-steps", 1, "--resume", "auto"]
    launcher = [*TORCHRUN, "--nproc-per-node", 2, "--max-restarts", 1, "--master-port", free_port()]
    assert start(launcher, *flags, "-o", tmp_path / "whole", log=tmp_path / "whole.log").wait(300) == 0
    log = tmp_path / "log"
    broken = start(launcher, *flags, "-o", tmp_path / "broken", log=log)
    until_in(log, "epoch 2/3 step 2/")
    os.kill(children(broken.pid)[1], signal.SIGKILL)
    assert broken.wait(300) == 0, log.read_text()
    assert "rank 1 " in log.read_text() and "resuming" in log.read_text()
    assert same_bits(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_that_is_resumed_with_another_number_of_ranks_differs_by_rounding_only(tmp_path, before, after):
    def launcher(ranks: int) -> list[object]:
        return [sys.executable] if ranks == 1 else [*OURS, "--standalone", "--nproc-per-node", ranks]

    flags, log = ["--epochs", 2, "--steps-per-epoch", 3, "--resume", "auto"], tmp_path / "log"
    assert start(launcher(before), *flags, "-o", tmp_path / "whole", log=tmp_path / "whole.log").wait(300) == 0
    broken = start(launcher(before), *flags, "-o", tmp_path / "run", log=log)
    until_in(log, "epoch 1/2 step 2/")
    broken.send_signal(signal.SIGTERM)
    assert broken.wait(100) == 143
    assert start(launcher(after), *flags, "-o", tmp_path / "run", log=log).wait(300) == 0, log.read_text()
    whole, run = (Checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "run"))
    assert run.step == whole.step == 6
    for name, tensor in whole.state_dict.items():
        torch.testing.assert_close(run.state_dict[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_our_torchrun_ends_with_the_exit_code_of_its_ranks(tmp_path, number):
    process = start(
        [*OURS, "--standalone", "--nproc-per-node", 2], "--epochs", 1000, "-o", tmp_path / "run", log=tmp_path / "log"
    )
    until_in(tmp_path / "log", "step 2/")
    ranks = [*children(process.pid).values()]
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert none_left(ranks, 1) and "Traceback" not in (tmp_path / "log").read_text()
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.pt").step > 0


def test_ranks_save_and_stop_when_their_torchrun_is_killed(tmp_path):
    process = start([*TORCHRUN, "--standalone", "--nproc-per-node", 2], "--epochs", 1000, "-o", tmp_path / "run",
                    log=tmp_path / "log")  # fmt: skip
    until_in(tmp_path / "log", "step 2/")
    ranks = [*children(process.pid).values()]
    process.kill()
    process.wait()
    assert len(ranks) == 2 and none_left(ranks, 30)
    assert "stopped by signal 15; saved" in (tmp_path / "log").read_text()
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.pt").step > 0
