"""Partially written rows: what is done is kept whole, whenever the process ends, and only for the same facts."""

from __future__ import annotations

import fcntl
import os
import resource
from pathlib import Path

import pytest
import torch

from ssltool.errors import SSLToolError
from ssltool.reprs.partial_file import ALIGNED, PartialFile

FACTS = {"layer": "backbone", "batch_size": 3, "config": {"seed": 10, "lr": float("nan")}}
ROWS = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))


def opened(folder: Path, facts: dict | None = None, *, shape=(4,), dtype=torch.float32, batch: int = 3) -> PartialFile:
    return PartialFile(folder / "r.pt", facts or FACTS, shape, dtype, 10, batch)


def left(folder: Path, rows: int, extra: bytes = b"") -> Path:
    """What a process leaves that ends after ``rows`` rows and some bytes of the next."""
    unfinished = opened(folder)
    unfinished.append(ROWS[:rows])
    unfinished.close()
    with open(unfinished.path, "ab") as stream:
        stream.write(extra)
    return unfinished.path


def test_rows_come_back_as_they_were(tmp_path):
    unfinished = opened(tmp_path)
    for few in ROWS.split(3):
        unfinished.append(few)
    assert unfinished.done == 10
    assert torch.equal(unfinished.rows(), ROWS)
    assert [path.name for path in tmp_path.iterdir()] == [".r.pt.unfinished"]
    unfinished.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_differs_from_an_earlier_call_is_said_with_both_values(tmp_path):
    left(tmp_path, 3)
    unfinished = opened(tmp_path, FACTS | {"layer": "projector", "config": {"seed": 11}})
    assert (unfinished.done, unfinished.changed) == (0, ["config", "layer"])
    assert unfinished.why == "config, layer was backbone and is projector"
    unfinished.close()


@pytest.mark.parametrize("shape", [(2, 3), (5,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_shape_and_type_come_back(tmp_path, shape, dtype):
    rows = torch.randn(10, *shape).to(dtype)
    unfinished = opened(tmp_path, shape=shape, dtype=dtype)
    unfinished.append(rows.transpose(0, -1).contiguous().transpose(0, -1))  # in whatever order in memory
    found = unfinished.rows()
    assert found.dtype == dtype
    assert torch.equal(found, rows)
    unfinished.close()


@pytest.mark.parametrize(
    ("rows", "extra", "done"), [(0, b"", 0), (6, b"", 6), (7, b"", 6), (6, b"half", 6), (2, b"", 0)]
)
def test_writing_resumes_after_the_last_whole_batch(tmp_path, rows, extra, done):
    left(tmp_path, rows, extra)
    unfinished = opened(tmp_path)
    assert (unfinished.done, unfinished.changed) == (done, [])
    unfinished.append(ROWS[done:])
    assert torch.equal(unfinished.rows(), ROWS)
    unfinished.close()


def test_a_last_smaller_batch_is_whole(tmp_path):
    left(tmp_path, 10)
    unfinished = opened(tmp_path)
    assert unfinished.done == 10
    assert torch.equal(unfinished.rows(), ROWS)
    unfinished.close()


def test_other_facts_restart_and_name_what_changed(tmp_path):
    left(tmp_path, 6)
    unfinished = opened(tmp_path, FACTS | {"layer": "projector", "dtype": "bf16"})
    assert unfinished.done == 0
    assert unfinished.changed == ["dtype", "layer"]
    unfinished.append(ROWS[:3] + 1)
    assert torch.equal(unfinished.rows(), ROWS[:3] + 1)
    unfinished.close()


@pytest.mark.parametrize("garbage", [b"\x80\x02}q\x00.", b"{}", b"x" * 5000 + b"\n"])
def test_a_file_of_another_kind_has_no_rows(tmp_path, garbage):
    (tmp_path / ".r.pt.unfinished").write_bytes(garbage)
    unfinished = opened(tmp_path)
    assert unfinished.done == 0
    assert unfinished.changed
    unfinished.append(ROWS)
    assert torch.equal(unfinished.rows(), ROWS)
    unfinished.close()


def test_a_truncated_first_line_has_no_rows(tmp_path):
    path = left(tmp_path, 6)
    with open(path, "r+b") as stream:
        stream.truncate(20)
    unfinished = opened(tmp_path)
    assert unfinished.done == 0
    unfinished.close()


def test_rows_are_aligned(tmp_path):
    for length in range(80):
        unfinished = opened(tmp_path, {"name": "x" * length})
        assert unfinished.path.stat().st_size % ALIGNED == 0
        unfinished.close()


def test_two_processes_do_not_write_one_file(tmp_path):
    unfinished = opened(tmp_path)
    unfinished.append(ROWS[:3])
    with pytest.raises(SSLToolError, match=r"another process .*unfinished"):
        opened(tmp_path)
    assert torch.equal(unfinished.rows(), ROWS[:3])
    unfinished.close()
    opened(tmp_path).close()


def test_an_unwritable_path_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SSLToolError, match="unfinished"):
        PartialFile(tmp_path / "file" / "r.pt", FACTS, (4,), torch.float32, 10, 3)


def test_rows_before_a_full_disk_are_kept(tmp_path):
    unfinished = opened(tmp_path)
    unfinished.append(ROWS[:6])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (unfinished.path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(SSLToolError, match=r"unfinished: File too large"):
            unfinished.append(ROWS[6:9])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    unfinished.close()
    again = opened(tmp_path)
    assert again.done == 6
    assert torch.equal(again.rows(), ROWS[:6])
    again.close()


@pytest.mark.parametrize(
    "line",
    [b"[1, 2]\n", b"null\n", b'"x"\n', b"\x00" * 64 + b"\n", b"[" * 100_000 + b"\n", b"\xff\xfe{}\n", b"no line"],
)
def test_a_first_line_of_another_kind_starts_over(tmp_path, line):
    path = left(tmp_path, 6)
    path.write_bytes(line + path.read_bytes())
    unfinished = opened(tmp_path)
    assert unfinished.done == 0 and set(unfinished.changed) == FACTS.keys()
    unfinished.close()


def test_a_pipe_in_its_place_is_refused(tmp_path):
    os.mkfifo(tmp_path / ".r.pt.unfinished")
    with pytest.raises(SSLToolError, match="no regular file"):
        opened(tmp_path)


@pytest.mark.parametrize("same", [True, False])
def test_two_processes_without_locks_never_mix_rows(tmp_path, monkeypatch, same):
    """Equal facts give equal rows; with other facts, the first process stops."""

    def refuse(*args: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    first = opened(tmp_path)
    first.append(ROWS[:6])
    second = opened(tmp_path, FACTS if same else FACTS | {"layer": "projector"})
    rows = ROWS if same else -ROWS
    second.append(rows[second.done : 9])
    if same:
        first.append(ROWS[6:])
        assert torch.equal(first.rows(), ROWS)
    else:
        for use in (lambda: first.append(ROWS[6:]), first.rows):
            with pytest.raises(SSLToolError, match="another process"):
                use()
    second.append(rows[9:])
    assert torch.equal(second.rows(), rows)
    first.close()
    second.close()
