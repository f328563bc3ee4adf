"""Ranks on two hosts whose link is delayed or cut, or of which one fails. ``make cluster`` runs it; it takes minutes.

``CLUSTER_TESTS=1 pytest -n 0 -s tests/cluster/test_two_hosts.py`` prints what it measures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
import torch
from two_hosts import ADDRESSES, TwoHosts, why_not

from ssltool.checkpoints.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.skipif("CLUSTER_TESTS" not in os.environ, reason="takes minutes: make cluster"),
    pytest.mark.skipif("CLUSTER_TESTS" in os.environ and bool(why_not()), reason=f"no network namespaces: {why_not()}"),
]

NETWORK = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", "16", "--dim", "16", "--pred-dim", "8"]
ROOT = Path(__file__).parents[2]
BRIEF = [*NETWORK, "-b", "16", "--device", "cpu", "--monitor-every", "0", "--workers", "0", "--print-freq", "1"]
SHORT = ["--epochs", "2", "--steps-per-epoch", "4", "--save-steps", "1", "--resume", "auto"]


class Cluster:
    """Two hosts, on each of which a server starts commands quickly."""

    def __init__(self, network: TwoHosts, folder: Path) -> None:
        self.network, self.folder, self.runs = network, folder, 0
        self.servers: list[subprocess.Popen[str]] = []
        for host in range(2):
            command = [*network.command(host), sys.executable, fork_server.__file__, str(folder / f"socket{host}")]
            quiet = os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # as ssltool sets it before it imports torch
            self.servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=quiet))
        for server in self.servers:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"

    def close(self) -> None:
        for server in self.servers:
            assert server.stdout is not None
            server.kill()
            server.wait()
            server.stdout.close()

    def start(self, *command: object, hosts: tuple[int, int] = (0, 1)) -> Ranks:
        """Starts a rank on each of the ``hosts``, in the environment that a batch script sets."""
        self.runs += 1
        return Ranks(self, [str(word) for word in command], hosts, 29500 + self.runs)


class Ranks:
    """The two ranks of a command, and the files with their messages."""

    def __init__(self, cluster: Cluster, command: list[str], hosts: tuple[int, int], port: int) -> None:
        self.logs, self.commands = [], []
        everywhere = {"MASTER_ADDR": ADDRESSES[0] if hosts[0] == 0 else ADDRESSES[1], "MASTER_PORT": port}
        variables = {"WORLD_SIZE": 2, "LOCAL_RANK": 0, "OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "net0"} | everywhere
        for rank, host in enumerate(hosts):
            self.logs.append(cluster.folder / f"{port}.rank{rank}.log")
            environment = os.environ | {name: str(value) for name, value in variables.items()} | {"RANK": str(rank)}
            with open(self.logs[-1], "w") as log, open(os.devnull) as nothing:
                streams = [nothing.fileno(), log.fileno(), log.fileno()]
                socket = str(cluster.folder / f"socket{host}")
                self.commands.append(fork_server.Command(socket, command, environment, streams))

    def until(self, text: str, seconds: float = 300) -> None:
        """Waits until rank 0 prints ``text``."""
        end = time.monotonic() + seconds
        while text not in self.logs[0].read_text():
            assert time.monotonic() < end, self.printed()
            time.sleep(0.05)

    def wait(self, limit: float = 300) -> list[float]:
        """The seconds after which each rank ended; infinity if one did not within ``limit``, and is killed."""
        begin, ended = time.monotonic(), [float("inf")] * 2
        while max(ended) > limit and time.monotonic() < begin + limit:
            for rank, command in enumerate(self.commands):
                if ended[rank] > limit and command.wait(0.05) is not None:
                    ended[rank] = time.monotonic() - begin
        for rank, command in enumerate(self.commands):
            if command.code is None:
                self.kill(rank)
                command.wait()
        return ended

    def codes(self) -> list[int | None]:
        return [command.code for command in self.commands]

    def kill(self, rank: int) -> None:
        os.kill(self.commands[rank].pid, signal.SIGKILL)

    def printed(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)

    def errors(self, rank: int) -> list[str]:
        return [line for line in self.logs[rank].read_text().splitlines() if line.startswith("error:")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with TwoHosts() as network:
        started = Cluster(network, tmp_path_factory.mktemp("hosts"))
        yield started
        started.close()


@pytest.fixture(autouse=True)
def whole_link(cluster):
    yield
    cluster.network.cut, cluster.network.delay = False, 0.0


@pytest.fixture(scope="module")
def unbroken(cluster) -> Path:
    """A run of two ranks on one host."""
    run = cluster.folder / "unbroken"
    ranks = cluster.start("ssltool", "pretrain", *BRIEF, *SHORT, "-o", run, hosts=(0, 0))
    ranks.wait()
    assert ranks.codes() == [0, 0], ranks.printed()
    return run


def start(cluster: Cluster, run: Path, *flags: object) -> Ranks:
    return cluster.start("ssltool", "pretrain", *BRIEF, *(flags or SHORT), "-o", run)


def row(what: str, ranks: Ranks, seconds: list[float]) -> None:
    print(f"\n{what}:")
    for rank, (after, code) in enumerate(zip(seconds, ranks.codes(), strict=True)):
        print(f"rank {rank} ended after {after:.1f} s with {code}", *ranks.errors(rank), sep="\n  ")


def same_bits(one: Path, other: Path) -> bool:
    a, b = (Checkpoint.load(run / "checkpoint.pt").state_dict for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("delay", [0.0, 0.005])
def test_two_hosts_equal_two_ranks_of_one_bit_for_bit_whatever_the_link_takes(cluster, unbroken, tmp_path, delay):
    cluster.network.delay = delay
    ranks = start(cluster, tmp_path / "run")
    ranks.until("epoch 1/2 step 1/")
    begin = time.monotonic()
    ranks.until("epoch 1/2 step 4/")
    per_step = (time.monotonic() - begin) / 3
    seconds = ranks.wait()
    row(f"a delay of {delay} s, {per_step:.2f} s per step", ranks, seconds)
    assert ranks.codes() == [0, 0], ranks.printed()
    assert same_bits(unbroken, tmp_path / "run")


PROGRAM = """#!/bin/sh
echo "$RANK of $WORLD_SIZE" >>"$0.starts"
exec sleep 1000
"""


def test_a_torchrun_that_is_started_again_meets_the_one_that_lives(cluster, tmp_path, monkeypatch):
    """By default torch gives later rounds the address of the first, which the new torchrun does not get."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    program, starts = tmp_path / "program", tmp_path / "program.starts"
    program.write_text(PROGRAM)
    program.chmod(0o755)

    agents: list[fork_server.Command] = []

    def agent(host: int) -> None:
        meeting = ["--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29400"]
        meeting += ["--rdzv-conf", f"is_host={1 - host}", "--rdzv-id", "a", "--max-restarts", 3]
        words = [ROOT / "pipelines" / "torchrun.py", *meeting, "--no-python", program]
        with open(tmp_path / f"{host}.log", "a") as log, open(os.devnull) as nothing:
            streams = [nothing.fileno(), log.fileno(), log.fileno()]
            socket = str(cluster.folder / f"socket{host}")
            agents.append(fork_server.Command(socket, [str(word) for word in words], os.environ, streams))

    def kill(host: int, *, ranks_only: bool = False) -> None:
        for pid in cluster.network.processes(host):
            is_rank = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep")
            if pid != cluster.servers[host].pid and (is_rank or not ranks_only):
                os.kill(pid, signal.SIGKILL)

    def until_started(count: int) -> None:
        end = time.monotonic() + 200
        while not starts.exists() or len(starts.read_text().splitlines()) < count:
            assert time.monotonic() < end, [(tmp_path / f"{host}.log").read_text() for host in range(2)]
            time.sleep(0.1)

    agent(0)
    agent(1)
    until_started(2)
    kill(1)
    time.sleep(5)
    kill(0, ranks_only=True)  # as a rank of a training ends when the other one is gone
    begin = time.monotonic()
    agent(1)
    until_started(4)
    print(f"\nthe two torchruns met {time.monotonic() - begin:.1f} s after one was started again")
    assert starts.read_text().split("\n")[2:4] in (["0 of 2", "1 of 2"], ["1 of 2", "0 of 2"])
    for host in range(2):
        kill(host)
    assert all(one.wait(20) is not None for one in agents)


def test_a_run_goes_on_after_the_link_was_cut_for_10_seconds(cluster, unbroken, tmp_path):
    ranks = start(cluster, tmp_path / "run")
    ranks.until("epoch 2/2 step 1/")
    cluster.network.cut = True
    time.sleep(10)
    cluster.network.cut = False
    row("the link was cut for 10 s", ranks, ranks.wait())
    assert ranks.codes() == [0, 0], ranks.printed()
    assert same_bits(unbroken, tmp_path / "run")


def cut_for_good(cluster: Cluster, ranks: Ranks) -> None:
    cluster.network.cut = True


def kill_the_first_host(cluster: Cluster, ranks: Ranks) -> None:
    ranks.kill(0)


def kill_the_second_host(cluster: Cluster, ranks: Ranks) -> None:
    ranks.kill(1)


@pytest.mark.parametrize(
    ("fail", "living"), [(cut_for_good, [0, 1]), (kill_the_first_host, [1]), (kill_the_second_host, [0])]
)
def test_each_host_that_is_left_ends_with_one_line_that_names_the_rank_and_the_run_resumes(
    cluster, unbroken, tmp_path, fail, living
):
    ranks = start(cluster, tmp_path / "run")
    ranks.until("epoch 2/2 step 1/")
    fail(cluster, ranks)
    seconds = ranks.wait(100)
    row(fail.__name__, ranks, seconds)
    for rank in living:
        assert seconds[rank] < 45 and ranks.codes()[rank] in (1, 255)  # 255: the server saw no code
        assert len(ranks.errors(rank)) == 1 and f"rank {1 - rank} " in ranks.errors(rank)[0]
    # That of the first epoch at least: the file of step 5 may be incomplete when its rank is killed.
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.pt").step >= 4
    cluster.network.cut = False
    again = start(cluster, tmp_path / "run")
    again.wait()
    assert again.codes() == [0, 0], again.printed()
    assert same_bits(unbroken, tmp_path / "run")
