"""Results of several ranks become one, on any number of ranks."""

from __future__ import annotations

import json
import queue
import threading

import pytest
from fork_server import run_ranks

from ssltool.data.loader import Shard
from ssltool.training import distributed
from ssltool.training.ranks import ALONE

PROGRAM = """
import json
import sys
from pathlib import Path

import torch

from ssltool.errors import SSLToolError
from ssltool.training import distributed

torch.set_num_threads(1)
found = {}


def raised(compute):
    try:
        compute()
    except SSLToolError as error:
        return str(error)


def only_on(rank):
    def fail():
        if ranks.rank == rank:
            raise SSLToolError("only here")

    return fail


def guarded():
    with ranks.same_errors():
        only_on(1)()


with distributed.measuring_ranks() as ranks:
    found["merged"] = ranks.merged([ranks.rank], lambda a, b: a + b)
    found["gathered"] = ranks.gathered({"rank": ranks.rank})
    found["from main"] = ranks.from_main(lambda: f"of rank {ranks.rank}")
    found["error of rank 1"] = raised(guarded)
    found["error of rank 0"] = raised(lambda: ranks.from_main(only_on(0)))
    found["still together"] = ranks.gathered(ranks.rank)
Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(found))
"""


def test_three_processes_exchange_results_and_errors(tmp_path, server):
    (tmp_path / "program.py").write_text(PROGRAM)
    ran = run_ranks(server, tmp_path / "program.py", tmp_path, ranks=3)
    assert ran.returncode == 0, ran.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found[0]["merged"] == [0, 1, 2]
    for rank, one in enumerate(found):
        assert one["gathered"] == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
        assert one["from main"] == "of rank 0"
        assert ("another rank" in one["error of rank 1"]) == (rank != 1)
        assert ("another rank" in one["error of rank 0"]) == (rank != 0)
        assert one["still together"] == [0, 1, 2]


STOPPED = """
import json
import sys
from pathlib import Path

import torch

from ssltool.errors import Interrupted
from ssltool.training import distributed

folder, kind, stopped = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])


def stop():
    raise Interrupted(10, "something")


found = "nothing"
try:
    if kind == "group":
        with distributed.process_group(torch.device("cpu"), "gloo") as shard:
            with distributed.raise_on_all_ranks():
                if shard.rank == stopped != 0:
                    stop()
                distributed.from_rank_zero(stop if stopped == 0 else int)
    else:
        with distributed.separate_ranks() as ranks:
            ranks.from_rank_zero(stop)
except Interrupted as interrupted:
    found = f"{interrupted.number} {interrupted}"
Path(folder, str(distributed.shard_from_env().rank)).write_text(found)
"""


@pytest.mark.parametrize(("kind", "stopped"), [("group", 0), ("group", 2), ("separate", 0)])
def test_a_signal_to_one_rank_that_others_wait_for_stops_all(tmp_path, server, kind, stopped):
    (tmp_path / "program.py").write_text(STOPPED)
    ran = run_ranks(server, tmp_path / "program.py", tmp_path, kind, stopped, ranks=3, limit=60)
    found = [(tmp_path / str(rank)).read_text() for rank in range(3)]
    assert [one[:2] for one in found] == ["10"] * 3, ran.stderr
    assert [rank for rank, one in enumerate(found) if "saved something" in one] == [stopped]


SLOW_RANK = """
import sys
import time
from pathlib import Path

from ssltool.training import distributed

distributed.WAIT_HOURS = float(sys.argv[1]) / 3600
with distributed.measuring_ranks() as ranks:
    Path(sys.argv[2], str(ranks.rank)).touch()
    ranks.from_main(lambda: time.sleep(4))
"""


@pytest.mark.parametrize(("limit", "waits"), [(1, False), (60, True)])
def test_ranks_wait_for_rank_0_as_long_as_the_limit(tmp_path, server, limit, waits):
    (tmp_path / "program.py").write_text(SLOW_RANK)
    ran = run_ranks(server, tmp_path / "program.py", limit, tmp_path)
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists()
    assert (ran.returncode == 0) == waits, ran.stderr


@pytest.mark.parametrize("world", range(1, 10))
def test_rank_0_gets_the_values_of_all_ranks_in_their_order(monkeypatch, world):
    """Values are strings, so that another order or a value that is merged twice shows; each rank is a thread."""
    pipes = {(a, b): queue.Queue() for a in range(world) for b in range(world)}
    here = threading.local()
    monkeypatch.setattr(distributed, "_send", lambda value, rank: pipes[here.rank, rank].put(value))
    monkeypatch.setattr(distributed, "_receive", lambda rank: pipes[rank, here.rank].get(timeout=10))
    merged, merges = {}, dict.fromkeys(range(world), 0)

    def merge(a, b):
        merges[here.rank] += 1
        return a + b

    def work(rank):
        here.rank = rank
        merged[rank] = distributed._GroupRanks(Shard(rank, world)).merged(str(rank), merge)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert merged[0] == "".join(map(str, range(world)))
    assert sum(merges.values()) == world - 1
    assert max(merges.values()) == (world - 1).bit_length()  # the depth of the tree


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_spans_are_a_partition_in_order_of_about_equal_parts(world, count):
    spans = [distributed._GroupRanks(Shard(rank, world)).span(count) for rank in range(world)]
    assert [number for span in spans for number in span] == list(range(count))
    assert max(map(len, spans)) - min(map(len, spans)) <= 1


def test_one_process_measures_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.measuring_ranks() as ranks:
        assert ranks is ALONE and ranks.span(7) == range(7)
        assert ranks.merged(3, max) == ranks.from_main(lambda: 3) == 3 and ranks.gathered(3) == [3]
