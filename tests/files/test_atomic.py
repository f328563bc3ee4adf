"""What is written is whole, goes through links, and never replaces a device."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.files.processes import STALE, place_of_pids
from ssltool.files.reading import file_hash
from ssltool.files.writing import copy_atomically, write_atomically, write_folder, write_json, write_text
from ssltool.reprs.formats import write
from ssltool.reprs.representations import Representations

WRITERS = {
    "bytes": lambda path: write_atomically(path, lambda stream: stream.write(b"new")),
    "text": lambda path: write_text(path, "new"),
    "json": lambda path: write_json(path, {"new": 1}),
    "torch": lambda path: write_atomically(path, lambda stream: torch.save({"new": torch.ones(3)}, stream)),
    "numpy": lambda path: write_atomically(path, lambda stream: np.save(stream, np.arange(5))),
}


def rows() -> Representations:
    return Representations(torch.randn(6, 3), torch.arange(6) % 2, torch.arange(6), {"dataset": "a"})


@pytest.mark.parametrize("kind", WRITERS)
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, kind):
    WRITERS[kind](tmp_path / "plain")
    target, link = tmp_path / "disk" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    (tmp_path / "between").symlink_to(target)
    link.symlink_to("between")
    WRITERS[kind](link)
    assert link.is_symlink() and os.readlink(link) == "between" and not target.is_symlink()
    assert file_hash(target) == file_hash(link) == file_hash(tmp_path / "plain")
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_dangling_link_creates_its_target(tmp_path):
    (tmp_path / "link").symlink_to("disk/target")
    WRITERS["bytes"](tmp_path / "link")
    assert (tmp_path / "disk" / "target").read_bytes() == b"new" and (tmp_path / "link").is_symlink()


def test_links_in_a_circle_are_an_error(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(SSLToolError, match="links") as caught:
        WRITERS["bytes"](tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_failed_write_through_a_link_keeps_the_target(tmp_path):
    def fail(stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(SSLToolError, match="No space left"):
        write_atomically(tmp_path / "link", fail)
    assert (tmp_path / "target").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_a_disk_that_becomes_full_in_a_pt_file_is_the_reason_that_is_given(tmp_path):
    """torch's writer raises an error of its own after that of the stream."""

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() > 5000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    with pytest.raises(SSLToolError, match="No space left"):
        write_atomically(tmp_path / "r.pt", lambda _: torch.save({"x": torch.zeros(9999)}, Full()))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_null_device_stays_a_device(kind):
    WRITERS[kind]("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_device_is_an_error(tmp_path):
    (tmp_path / "link").symlink_to("/dev/full")
    with pytest.raises(SSLToolError, match="No space left"):
        WRITERS["bytes"](tmp_path / "link")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode) and os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_pipe_with_a_reader_gets_the_file(tmp_path, kind):
    WRITERS[kind](tmp_path / "plain")
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    number = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(number, True)
    with open(number, "rb") as stream:
        reader = threading.Thread(target=lambda: read.append(stream.read()))
        WRITERS[kind](pipe)
        reader.start()
        reader.join(10)
    assert read == [(tmp_path / "plain").read_bytes()]
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_a_pipe_without_a_reader_is_an_error_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SSLToolError, match="pipe"):
        WRITERS["bytes"](tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_socket_and_a_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        for name in ("socket", "folder"):
            with pytest.raises(SSLToolError, match=name):
                WRITERS["bytes"](name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "socket"]


@pytest.mark.parametrize("redirected", ["> out.bin", "| cat > out.bin", ">> out.bin"])
def test_the_name_of_stdout_is_what_stdout_writes_to(tmp_path, redirected):
    program = """
from ssltool.files.writing import write_text
write_text("/dev/stdout", "the table, ")
print("the rest")
"""
    line = f"\"{sys.executable}\" -c '{program}' {redirected}"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "out.bin").read_text() == "the table, the rest\n"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("kind", ["pt", "npy", "parquet"])
def test_representations_go_through_links_in_every_format(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    made, target = rows(), tmp_path / f"target.{kind}"
    (tmp_path / f"link.{kind}").symlink_to(target.name)
    write(made, tmp_path / f"link.{kind}", kind)
    write(made, tmp_path / f"plain.{kind}", kind)
    assert (tmp_path / f"link.{kind}").is_symlink()
    assert file_hash(target) == file_hash(tmp_path / f"plain.{kind}")


def test_a_copy_goes_through_links_to_another_file_system_too(tmp_path, monkeypatch):
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    copy_atomically(tmp_path / "source", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").samefile(tmp_path / "source")

    def refuse(*args: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    (tmp_path / "source").unlink()
    (tmp_path / "source").write_bytes(b"newer")
    monkeypatch.setattr(os, "link", refuse)
    copy_atomically(tmp_path / "source", tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"newer"
    assert sorted(os.listdir(tmp_path)) == ["link", "source", "target"]


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_written_as_valid_utf8(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "t"
    write_text(path, text)
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert path.read_bytes() == text.encode()
    path.read_bytes().decode()


def test_a_file_name_that_the_locale_cannot_decode_is_written_as_it_is_spelled(tmp_path):
    write_text(tmp_path / "t", b"l\xc3\xa4uf".decode("ascii", "surrogateescape"))
    assert (tmp_path / "t").read_bytes() == "läuf".encode()


def test_a_write_removes_what_dead_processes_left_of_the_same_file_and_nothing_else(tmp_path):
    ended = subprocess.Popen([sys.executable, "-SEc", ""])
    ended.wait()
    here, elsewhere = place_of_pids(), f"{int(place_of_pids(), 16) ^ 1:08x}"
    left = {
        f".a.pt.{here}.{ended.pid}.tmp": False,
        f".a.pt.{here}.{os.getppid()}.tmp": True,  # its process lives
        f".b.a.pt.{here}.{ended.pid}.tmp": True,  # of another file
        f".a.pt.old.{here}.{ended.pid}.tmp": True,
        f".a.pt.{elsewhere}.{ended.pid}.tmp": True,  # of a machine that wrote a moment ago
        f".a.pt.{elsewhere}.{os.getppid()}.tmp": False,  # of one that wrote nothing for long
        ".a.pt.unfinished": True,
    }
    for name in left:
        (tmp_path / name).touch()
    old = (tmp_path / ".a.pt.unfinished").stat().st_mtime - STALE - 5
    os.utime(tmp_path / f".a.pt.{elsewhere}.{os.getppid()}.tmp", (old, old))
    WRITERS["bytes"](tmp_path / "a.pt")
    assert sorted(os.listdir(tmp_path)) == sorted(["a.pt", *(name for name, kept in left.items() if kept)])


def test_a_folder_that_a_killed_process_was_writing_is_removed_with_what_it_held(tmp_path):
    ended = subprocess.Popen([sys.executable, "-SEc", ""])
    ended.wait()
    left = tmp_path / f".a.{place_of_pids()}.{ended.pid}.k2x_.tmp"
    (left / "old").mkdir(parents=True)
    write_folder(tmp_path / "a", ["b"], lambda new: (new / "b").touch())
    assert os.listdir(tmp_path) == ["a"] and os.listdir(tmp_path / "a") == ["b"]
