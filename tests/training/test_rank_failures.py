"""What two ranks do when one of them is killed or fails: the other one ends soon, and one line says why."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager

import pytest
from fork_server import run_ranks, running

from helpers import TINY
from ssltool.checkpoints.checkpoint import Checkpoint

pytestmark = pytest.mark.xdist_group("two ranks")


@contextmanager
def two_ranks(server, monkeypatch, *command):
    """Starts ``ssltool`` on two ranks, in the environment that torchrun sets."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    with ExitStack() as stack:
        started = []
        for rank in range(2):
            for name, value in (meeting | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}).items():
                monkeypatch.setenv(name, str(value))
            started.append(stack.enter_context(running(server, "ssltool", *command)))
        yield started


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_ends_with_one_line_and_a_whole_checkpoint_when_the_other_is_killed(
    server, tmp_path, monkeypatch, killed
):
    run = tmp_path / "run"
    schedule = ["--epochs", 1000, "--steps-per-epoch", 10, "-b", 16, "--device", "cpu", "-p", 1, "-o", run]
    line = ["pretrain", *TINY, *schedule, "--monitor-every", 0, "--save-steps", 1]
    with two_ranks(server, monkeypatch, *line) as started:
        assert any("step 3/" in text for text in started[0][2])
        os.kill(started[killed][0].pid, signal.SIGKILL)
        start = time.monotonic()
        survivor, _, stderr = started[1 - killed]
        lines = [text for text in stderr.read().splitlines() if not text.startswith("epoch ")]
        assert survivor.wait() == 1
        assert time.monotonic() - start < 30
    assert [text[:13] for text in lines if "waiting for" not in text][-1:] == [f"error: rank {killed}"]
    assert sum(text.startswith("error") for text in lines) == 1 and "Traceback" not in "".join(lines)
    assert Checkpoint.load(run / "checkpoint.pt").step >= 2


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_of_save_reprs_names_the_killed_one_when_its_launcher_stops_it(
    server, trained, tmp_path, monkeypatch, killed
):
    line = ["save-reprs", "--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "val", "-b", 1]
    rows = [tmp_path / f".r.rank{rank}of2.pt.unfinished" for rank in range(2)]
    with two_ranks(server, monkeypatch, *line, "-j", 0, "-o", tmp_path / "r.pt") as started:
        until = time.monotonic() + 60
        while not all(path.exists() and path.stat().st_size > 20_000 for path in rows):
            assert time.monotonic() < until and all(one.wait(0.01) is None for one, _, _ in started)
        os.kill(started[killed][0].pid, signal.SIGKILL)
        survivor, _, stderr = started[1 - killed]
        os.kill(survivor.pid, signal.SIGTERM)
        start = time.monotonic()
        errors = [text for text in stderr.read().splitlines() if text.startswith("error")]
        assert survivor.wait() == 1 and time.monotonic() - start < 30
    assert len(errors) == 1 and errors[0].startswith(f"error: rank {killed} ")
    assert rows[1 - killed].stat().st_size > 20_000


def test_an_error_that_all_ranks_share_is_one_line(server, tmp_path):
    ran = run_ranks(server, "ssltool", "pretrain", tmp_path / "missing", *TINY, "--device", "cpu", "-o", tmp_path / "r")
    assert ran.returncode == 1
    assert ran.stderr.count("error:") == 1 and "missing" in ran.stderr
