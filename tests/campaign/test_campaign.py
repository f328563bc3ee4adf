"""The campaign sees what it looks for, and tries each of its kinds equally often."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from threading import Thread

import fork_server
import torch
from breaks import BREAKS, KINDS, kind, unfinished
from commands import STAGES, Job, Stage, difference


def write(folder: Path, weight: float = 1.0) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": {"w": torch.tensor([1.0, weight])}, "epoch": 3, "seconds": weight}, folder / "a.pt")
    return folder


def test_a_difference_is_one_bit_a_missing_file_or_a_temporary_one(tmp_path):
    good, same = write(tmp_path / "good"), write(tmp_path / "same")
    assert difference(good, same) == ""
    assert "state_dict" in difference(good, write(tmp_path / "other", 1.0 + 2**-23))
    (same / ".a.pt.7.tmp").touch()
    assert [path.name for path in unfinished(same)] == [".a.pt.7.tmp"]
    assert ".a.pt.7.tmp" in difference(good, same)
    (same / "a.pt").unlink()
    assert "files" in difference(good, same)


def test_each_round_has_all_kinds_in_an_order_of_its_own():
    rounds = [[kind(0, len(KINDS) * which + place) for place in range(len(KINDS))] for which in range(3)]
    assert all(Counter(one) == Counter(KINDS) for one in rounds) and rounds[0] != rounds[1]
    assert {name for name, _ in KINDS} == STAGES.keys() and {how for _, how in KINDS} == BREAKS.keys()


def test_commands_of_a_chain_follow_each_other_until_one_fails_or_is_killed(server, tmp_path):
    start, log = ["methods"], tmp_path / "log"
    done = Job(server, Stage((start, start)), {}, log)
    assert done.finish() == "" and done.codes == [0] and not done.waiting
    failed = Job(server, Stage((["knn", "nothing.pt", "nothing.pt"], start)), {}, log)
    assert failed.finish() == "" and failed.codes == [1] and len(failed.waiting) == 1
    killed = Job(server, Stage((start, start)), {}, log)
    killed.signal(signal.SIGKILL)
    assert killed.finish() == "" and any(killed.codes) and len(killed.waiting) == 1


def test_a_command_that_ends_before_it_reads_its_message_counts_as_killed(tmp_path):
    path = str(tmp_path / "socket")
    with fork_server.listening(path) as server, open(os.devnull) as nothing:
        ends = []

        def accept() -> None:
            ends.append(server.accept()[0])
            ends[0].sendall(bytes(4))

        thread = Thread(target=accept)
        thread.start()
        command = fork_server.Command(path, ["ssltool", "methods"], {}, [nothing.fileno()] * 3)
        thread.join()
        ends[0].close()  # before it has read anything
        assert command.wait(10) == 255
