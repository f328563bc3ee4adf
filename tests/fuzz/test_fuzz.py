"""Twenty cases of the fuzzer (``make slow``: forty), and what it must hold: it finds faults and repeats a case."""

from __future__ import annotations

import os
import pickle
import signal
import warnings
from pathlib import Path
from random import Random

import pytest
import torch

from fuzz import cases, damage, goods, outcomes
from fuzz.cases import GOOD, Case
from fuzz.changes import change
from fuzz.kinds import KINDS
from fuzz.values import EXECUTED, PLAIN, TENSORS, Executed
from helpers import slow_but

pytestmark = pytest.mark.xdist_group("fuzz")  # the good files are made once

CASES, BLOCKS = 40, 4
"""Cases, and the tests that they are spread over."""

SEED = 1


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    goods.make_good_files(folder)
    return folder


@pytest.mark.parametrize("block", slow_but([0, 1], range(BLOCKS)))
def test_a_command_does_its_work_on_a_damaged_file_or_refuses_it_in_one_line(good, tmp_path, block):
    numbers = range(block * CASES // BLOCKS, (block + 1) * CASES // BLOCKS)
    found = [outcomes.run_case(good, tmp_path, SEED, number) for number in numbers]
    if failures := outcomes.by_place(found).strip():
        pytest.fail(failures, pytrace=False)


def test_a_case_is_a_function_of_its_seed_and_number(good, tmp_path):
    for number in range(6):
        first = cases.prepare(good, tmp_path / f"{number}a", SEED, number)
        assert cases.prepare(good, tmp_path / f"{number}b", SEED, number) == first
        content, again = ((tmp_path / f"{number}{letter}" / first.path) for letter in "ab")
        if content.is_file():
            assert content.read_bytes() == again.read_bytes()


def test_most_cases_damage_a_file_by_its_structure():
    assert cases.BYTES < 0.3
    assert sum(kind.weight for kind in KINDS.values() if kind.structure is None) < 0.1 * sum(
        kind.weight for kind in KINDS.values()
    )


def test_every_kind_has_a_good_file(good):
    assert [path for kind in KINDS.values() for path in kind.paths if not (good / path).exists()] == []


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_every_value_can_be_in_a_file(tmp_path):
    for name, make in TENSORS.items():
        torch.save({"x": make(1)}, tmp_path / "x.pt")
        assert (tmp_path / "x.pt").stat().st_size < 10**7, name


def test_changes_reach_every_depth_and_every_kind():
    def document() -> dict:
        return {"a": {"b": {"c": [1, {"d": 2.5}]}}, "e": "text", "f": None}

    done = {change([document()], Random(number), PLAIN, recursive=False) for number in range(2000)}
    assert {text.split(": ")[0].split()[-1] for text in done} >= {"replaced", "tweaked", "missing", "renamed", "deep"}
    assert any("['d']" in text for text in done) and any(text.startswith("contents ") for text in done)


def run(folder: Path, *args: str, monkeypatch: pytest.MonkeyPatch, command: object) -> str:
    """The outcome of a command that does what ``command`` does."""
    monkeypatch.setattr(cases, "main", command)
    return cases.run(Case(0, 0, "", "", "", True, args), folder).outcome


@pytest.mark.parametrize(
    ("outcome", "command"),
    [
        ("done", lambda args: 0),
        ("done", lambda args: Path("new.pt").write_text("x") * 0),
        ("collapsed", lambda args: 3),
        ("refused", lambda args: os.write(2, b"a note\nerror: x.pt is empty\n") and 1),
        ("usage", lambda args: os.write(2, b"Usage: x\n\nError: no such option\n") and 2),
        ("traceback", lambda args: {}["x"]),
        ("memory", lambda args: bytearray(cases.MEMORY) and 0),
        ("killed", lambda args: os.kill(os.getpid(), 9)),
        ("another exit code", lambda args: 5),
        ("warning", lambda args: os.write(2, b"x.py:1: UserWarning: y\n") * 0),
        ("warning", lambda args: warnings.warn("x", UserWarning, stacklevel=1) or 0),
        ("done", lambda args: warnings.warn("x", DeprecationWarning, stacklevel=1) or 0),
        ("several lines", lambda args: os.write(2, b"error: x\nand more\n") and 1),
        ("several lines", lambda args: 1),
        ("control characters", lambda args: os.write(1, b"\x1b[31m\n") * 0),
        ("executed", lambda args: Path(EXECUTED).mkdir() or 0),
        ("half-written", lambda args: Path("new.pt").touch() or (os.write(2, b"error: x\n") and 1)),
        ("half-written", lambda args: Path("x.pt").write_text("y") * 0),
        ("half-written", lambda args: Path("x.pt").unlink() or 0),
        ("half-written", lambda args: Path(".x.pt.1.tmp").touch() or 0),
    ],
)
def test_the_outcome_is_what_the_command_did(tmp_path, monkeypatch, outcome, command):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "x.pt").write_text("x")
    assert run(folder, "knn", monkeypatch=monkeypatch, command=command) == outcome


def test_a_command_that_does_not_end_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "SECONDS", 0.2)
    (tmp_path / "case").mkdir()
    assert run(tmp_path / "case", "knn", monkeypatch=monkeypatch, command=lambda args: signal.pause()) == "hang"


def test_an_unfinished_output_and_a_resumed_run_may_stay(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    for name in ("metrics.jsonl", ".x.unfinished"):
        (tmp_path / "run" / name).touch()
    go_on = ["pretrain", "--resume", "auto"]
    more = lambda args: Path("metrics.jsonl").write_text("x") * 0  # noqa: E731
    assert run(tmp_path / "run", *go_on, monkeypatch=monkeypatch, command=more) == "done"
    rows = lambda args: Path(".x.unfinished").write_text("x") and os.write(2, b"error: x\n") and 1  # noqa: E731
    assert run(tmp_path / "run", "save-reprs", monkeypatch=monkeypatch, command=rows) == "refused"


def test_the_pickle_in_the_files_would_execute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Executed()))
    assert Path(EXECUTED).exists()


def test_the_table_counts_each_case_once():
    found = []
    for number, outcome in enumerate([*GOOD, "traceback", "hang"]):
        case = Case(0, number, "a" if number % 2 else "b", "x", "y", True, ("knn",))
        found.append((case, cases.Result(outcome, "KeyError: 1", "ssltool/x.py:1", 0.1, "")))
    table = outcomes.markdown(found).splitlines()
    assert table[4].split("|")[2:-1] == [" 6 ", " 1 ", " 1 ", " 1 ", " 1 ", " 2 "]
    assert "traceback 1, hang 1" in table[-1]
    assert outcomes.by_place(found).count("--case") == 2


def test_bytes_of_any_file_can_be_damaged(good, tmp_path):
    done = set()
    for number in range(60):
        path = tmp_path / "x.npy"
        path.write_bytes((good / "order.npy").read_bytes())
        done.add(damage.in_bytes(path, Random(number)).split(" at ")[0])
    assert {"flip", "cut", "insert", "zero", "empty", "a pickle that executes"} <= done
