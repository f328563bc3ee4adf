"""Streams that are closed, full or in another encoding: one line, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UTF8 = {"LC_ALL": "C.UTF-8"}
STREAMS = """
import sys, click
from ssltool.cli.streams import prepare_streams
prepare_streams()
for number in range(1000):
    print("a message", file=sys.stderr)
click.echo("a result")
"""
full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a line of bash, in which ``ssltool`` is this package and ``streams`` writes to both streams."""
    (cwd / "streams.py").write_text(STREAMS)
    program = f'ssltool() {{ "{sys.executable}" -m ssltool "$@"; }}; streams() {{ "{sys.executable}" streams.py; }}; '
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment}
    return subprocess.run(["bash", "-c", program + line], cwd=cwd, env=environment, capture_output=True, timeout=60)


@full
@pytest.mark.parametrize("command", ["ssltool --help", "ssltool knn --help-all", "ssltool --version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_stdout_is_one_line(tmp_path, command, unbuffered):
    ran = shell(f"{command} > /dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert ran.returncode == 1
    assert ran.stderr.startswith(b"error: cannot write ") and ran.stderr.count(b"\n") == 1
    assert b"stdout" in ran.stderr and b"No space left" in ran.stderr


def test_a_closed_pipe_ends_a_command_without_a_message(tmp_path):
    ran = shell("ssltool knn --help-all | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert ran.stderr == b"" and ran.returncode in (0, 1)


@full
@pytest.mark.parametrize("end", ["2> /dev/full", "2>&-"])
def test_messages_that_cannot_be_written_change_nothing(tmp_path, end):
    ran = shell(f"streams {end}", tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"a result\n", b"")
    assert shell(f"RANK=1 ssltool knn a b {end}", tmp_path).returncode == 1
    assert shell(f"ssltool knn --no-such-flag {end}", tmp_path).returncode == 2


def test_a_closed_stdout_is_no_error(tmp_path):
    ran = shell("streams >&-", tmp_path)
    assert (ran.returncode, ran.stderr.count(b"\n")) == (0, 1000)


@pytest.mark.parametrize("environment", [UTF8, ASCII], ids=["UTF-8", "ASCII"])
def test_an_argument_that_is_no_ascii_is_printed_as_it_is_in_every_locale(tmp_path, environment):
    ran = shell("ssltool läufer", tmp_path, **environment)
    assert ran.returncode == 2 and "läufer" in ran.stderr.decode()


@pytest.mark.parametrize("environment", [UTF8, ASCII], ids=["UTF-8", "ASCII"])
def test_a_document_holds_the_text_of_a_path_in_every_locale(tmp_path, environment):
    torch.save({"representations": torch.randn(20, 3), "targets": torch.arange(20) % 2}, tmp_path / "läuf.pt")
    ran = shell("ssltool collapse läuf.pt --json -o ö.json", tmp_path, **environment)
    assert ran.returncode == 0, ran.stderr
    for text in (ran.stdout, (tmp_path / "ö.json").read_bytes()):
        assert json.loads(text)["files"][0]["path"] == "läuf.pt"


def test_a_path_that_is_no_utf8_is_still_found_in_an_ascii_locale(tmp_path):
    torch.save({"representations": torch.randn(20, 3)}, tmp_path / "a.pt")
    try:
        os.rename(tmp_path / "a.pt", os.fsencode(tmp_path) + b"/l\xe4uf.pt")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    ran = shell("ssltool collapse $'l\\xe4uf.pt' -o t.json", tmp_path, **ASCII)
    assert ran.returncode == 0 and b"l\\xe4uf.pt" in ran.stderr


def test_bytes_of_an_argument_that_are_no_text_are_printed_by_their_numbers(tmp_path):
    ran = shell("ssltool $'l\\xe4ufer'", tmp_path, **UTF8)
    assert ran.returncode == 2 and b"l\\xe4ufer" in ran.stderr


@pytest.mark.parametrize(("encoding", "expected"), [("latin-1", b"\\u03b1\\ud800\n"), ("ascii", b"\xce\xb1\\ud800\n")])
def test_characters_that_an_encoding_lacks_are_escaped(tmp_path, encoding, expected):
    """latin-1 has no Greek letters; UTF-8 is written in place of ASCII, and has no half of a pair of surrogates."""
    program = "from ssltool.cli.streams import prepare_streams; prepare_streams(); print('\\u03b1\\ud800')"
    ran = shell(f'"{sys.executable}" -c "{program}"', tmp_path, PYTHONIOENCODING=encoding)
    assert ran.stdout == expected, ran.stderr
