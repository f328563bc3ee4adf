"""The ranks of a start find each other, and find which of them failed or is gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssltool.errors import Interrupted, SSLToolError
from ssltool.training import peers
from ssltool.training.launch import Launch
from ssltool.training.peers import Failure, Peers, common_name


class DictStore:
    """What is used of a store of torch.distributed, for ranks that are threads."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.gone = False

    def _check_alive(self) -> None:
        if self.gone:
            raise RuntimeError("connection reset")

    def check(self, keys: list[str]) -> bool:
        self._check_alive()
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        self._check_alive()
        return self.values[key]

    def set(self, key: str, value: str) -> None:
        self._check_alive()
        self.values[key] = value.encode()

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        self._check_alive()
        with self.lock:
            return self.values.setdefault(key, desired.encode())


@pytest.fixture
def store() -> DictStore:
    return DictStore()


@pytest.fixture
def ranks(monkeypatch, store):
    """Starts ranks that give signs of life every 50 ms: ``ranks(3) -> [Peers, ...]``."""
    monkeypatch.setattr(peers, "BEAT", 0.05)
    started: list[Peers] = []

    def start(world: int) -> list[Peers]:
        started.extend(Peers(store, Launch(rank, world, rank, world), "here:1", False) for rank in range(world))
        return started

    yield start
    for one in started:
        one.close(done=True)


def names_of_start(store: DictStore, world: int) -> list[str]:
    with ThreadPoolExecutor(world) as pool:
        return list(pool.map(lambda rank: common_name(store, rank, world, 20), range(world)))


def test_all_ranks_of_a_start_get_one_name_and_each_restart_another(store):
    starts = [names_of_start(store, 3) for _ in range(3)]
    assert all(len(set(names)) == 1 for names in starts)
    assert len({names[0] for names in starts}) == 3


def test_the_error_names_the_ranks_that_did_not_start(store):
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(common_name, store, rank, 4, 0.5) for rank in (0, 2)]
        for one in found:
            with pytest.raises(SSLToolError, match="rank 1, 3 of 4 "):
                one.result()


def test_the_error_names_rank_0_if_all_others_started(store):
    with pytest.raises(SSLToolError, match="rank 0 of 2 "):
        common_name(store, 1, 2, 0.2)


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_all_ranks_find_the_one_that_gives_no_sign_of_life_and_one_of_them_reports_it(ranks, killed):
    started = ranks(3)
    time.sleep(0.2)
    started[killed].close(done=False)
    living = [one for one in started if one.rank != killed]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: one.find(), living))
    assert [failure.rank for failure in found] == [killed, killed]
    assert found[0].reporter == found[1].reporter != killed


def test_a_rank_that_is_done_is_not_missed(ranks):
    first, second = ranks(2)
    time.sleep(0.2)
    second.close(done=True)
    assert first.find() is None


def test_nobody_is_found_if_all_live(ranks):
    assert ranks(3)[1].find() is None


def test_the_first_failure_that_is_reported_is_that_of_all_ranks(ranks):
    first, second, third = ranks(3)
    assert second.report(1, "disk is full") == Failure(1, "disk is full", 1)
    assert third.report(2, "connection closed") == first.find() == Failure(1, "disk is full", 1)


@pytest.fixture
def ending():
    """Imported late, because it imports torch, which the processes that import this file do not need."""
    from ssltool.training import ending

    return ending


def test_a_signal_to_one_rank_stops_all_that_need_nothing_of_each_other(ranks, ending):
    def work(one: Peers, number: int) -> int:
        try:
            with ending.ending_together(one):
                while not (found := ending.agreed_signal(one, number)):
                    time.sleep(0.01)
                raise Interrupted(found, "rows")
        except Interrupted as stop:
            return stop.number

    started = ranks(3)
    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(work, started, [0, 10, 0])] == [10, 10, 10]


def test_rank_0_leaves_after_all_that_need_nothing_of_each_other(ranks, ending):
    left = []

    def work(one: Peers) -> None:
        with ending.ending_together(one):
            time.sleep(0.3 * one.rank)
        left.append(one.rank)

    started = ranks(3)
    with ThreadPoolExecutor(3) as pool:
        [*pool.map(work, started)]
    assert left == [1, 2, 0]


def test_without_the_store_one_rank_of_a_machine_says_that_rank_0_is_gone(ranks, store):
    _, second, third = ranks(3)
    store.gone = True
    assert [(one.find().rank, one.find().reporter == one.rank) for one in (second, third)] == [(0, True), (0, False)]


ORPHAN = """
import os, sys, time
sys.path.insert(0, {tests!r})
from test_peers import DictStore
from ssltool.training import peers
from ssltool.training.launch import Launch
from ssltool.training.signals import StopRequest
peers.BEAT = 0.1
read, write = os.pipe()
if os.fork():
    os.read(read, 1)  # the child has noted its parent
    os._exit(0)
with StopRequest() as stop:
    one = peers.Peers(DictStore(), Launch(0, 2, 0, 2), "here:1", True)
    os.write(write, b"1")
    while not stop.number:
        time.sleep(0.05)
    one.close(done=True)
print("stopped by", int(stop.number))
"""


def test_a_rank_whose_torchrun_is_gone_stops_as_after_sigterm():
    code = ORPHAN.format(tests=str(Path(__file__).parent))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "stopped by 15\n"
    assert len(ran.stderr.splitlines()) == 1 and "torchrun" in ran.stderr


BLOCKED = """
import hashlib, os, signal, time
from ssltool.training import signals
signals.BLOCKED = 1
with signals.StopRequest() as stop:
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(2)
    print("recorded", int(stop.number), flush=True)
with signals.StopRequest() as stop:
    os.system(f"(sleep 0.5; kill -TERM {os.getpid()}) &")
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 2**31 - 1)  # one call, in which Python runs no handler
"""


def test_a_rank_that_cannot_act_on_a_signal_ends_with_128_plus_the_signal(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    ran = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (128 + 15, "recorded 10\n")
    assert len(ran.stderr.splitlines()) == 1


SILENT = """
import sys, threading, time
sys.path.insert(0, {tests!r})
from test_peers import DictStore
from ssltool.training import peers
from ssltool.training.launch import Launch
peers.BEAT = 0.02
class Cut(DictStore):
    def check(self, keys):
        threading.Event().wait()
one = peers.Peers(Cut(), Launch(1, 2, 0, 1), "here:1", False)
end = time.monotonic() + 1
def step():
    time.sleep(0.01)
while time.monotonic() < end:
    step()
print("goes on", flush=True)
threading.Event().wait(20)
"""


def test_a_rank_that_waits_ends_with_one_line_if_the_store_does_not_answer():
    code = SILENT.format(tests=str(Path(__file__).parent))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (1, "goes on\n")
    assert len(ran.stderr.splitlines()) == 1 and "rank 0 " in ran.stderr and "here:1" in ran.stderr
