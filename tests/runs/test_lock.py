"""The lock of a run folder: one living owner, and none that died keeps it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.files.processes import STALE
from ssltool.runs.lock import BEAT, NAME, POLL, Owner, RunLock


class Clock:
    """A clock that only sleeping moves; it calls the functions of ``at`` at their times."""

    def __init__(self) -> None:
        self.now, self.at = 0.0, {}

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for time in [time for time in self.at if time <= self.now]:
            self.at.pop(time)()


def locked(folder: Path, clock: Clock | None = None) -> RunLock:
    clock = clock or Clock()
    return RunLock(folder, clock=clock, sleep=clock.sleep)


@contextmanager
def owner(folder: Path, *, dies: bool) -> Iterator[int]:
    """The number of another process that takes the lock, and dies or waits to be killed."""
    ready, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, of which the child has none
        number = os.fork()
    if number == 0:
        try:
            RunLock(folder).__enter__()
            os.write(tell, b"held")
            if not dies:
                signal.pause()
        finally:
            os._exit(0)
    try:
        assert os.read(ready, 4) == b"held"
        if dies:
            os.waitpid(number, 0)
        yield number
    finally:
        os.close(ready)
        os.close(tell)
        if not dies:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)


@pytest.fixture
def without_flock(monkeypatch):
    """A file system that cannot lock files."""

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=["flock", "no flock"])
def any_system(request):
    """Both kinds of file systems."""
    if request.param == "no flock":
        request.getfixturevalue("without_flock")


def left(folder: Path, **changes: object) -> Path:
    """A lock that another process left; by default its process number is of no process."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    owner = replace(Owner.this_process(), pid=ended.pid, token="theirs", **changes)
    (folder / NAME).write_text(json.dumps(asdict(owner)))
    return folder / NAME


@pytest.mark.usefixtures("any_system")
def test_a_held_lock_is_refused_and_names_its_owner(tmp_path):
    with locked(tmp_path) as first:
        for _ in range(2):
            with pytest.raises(SSLToolError, match=rf"{tmp_path} .*process {os.getpid()} on ") as caught:
                locked(tmp_path).__enter__()
            assert "\n" not in str(caught.value)
        first.check()


@pytest.mark.usefixtures("any_system")
def test_a_released_lock_is_free_and_leaves_no_file(tmp_path):
    for _ in range(2):
        with locked(tmp_path) as lock:
            lock.check()
            assert os.listdir(tmp_path) == [NAME]
        assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("any_system")
def test_a_dead_owner_on_this_machine_is_replaced_at_once(tmp_path, capsys):
    with owner(tmp_path, dies=True):
        assert os.listdir(tmp_path) == [NAME]
        clock = Clock()
        with locked(tmp_path, clock) as lock:
            lock.check()
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert clock.now == 0 and capsys.readouterr().err == ""


def test_a_number_that_another_process_has_now_is_no_living_owner(tmp_path, without_flock):
    left(tmp_path)
    (tmp_path / NAME).write_text(json.dumps(asdict(replace(Owner.this_process(), start="1"))))
    with locked(tmp_path) as lock:
        lock.check()


def test_a_stopped_process_still_holds_its_lock(tmp_path):
    with owner(tmp_path, dies=False) as number:
        os.kill(number, signal.SIGSTOP)
        with pytest.raises(SSLToolError, match=f"process {number} on "):
            locked(tmp_path).__enter__()


@pytest.mark.usefixtures("any_system")
def test_an_owner_that_nobody_waited_for_is_dead(tmp_path):
    """A process that ended keeps its number until its parent asks for its exit code."""
    with owner(tmp_path, dies=False) as number:
        os.kill(number, signal.SIGKILL)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
        with locked(tmp_path) as lock:
            lock.check()


@pytest.mark.usefixtures("any_system")
def test_a_dead_owner_on_another_machine_is_replaced_once_its_lock_is_stale(tmp_path, capsys):
    left(tmp_path, host="elsewhere")
    clock = Clock()
    with locked(tmp_path, clock) as lock:
        lock.check()
    assert STALE <= clock.now < STALE + 2 * POLL
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "elsewhere" in said and str(tmp_path) in said


@pytest.mark.usefixtures("any_system")
@pytest.mark.parametrize("where", [{"host": "elsewhere"}, {"place": "elsewhere"}], ids=["machine", "container"])
def test_a_living_owner_on_another_machine_is_refused_at_its_next_sign_of_life(tmp_path, where):
    """Its number may be that of no process here: in a container that has the same name of the host, too."""
    file, clock = left(tmp_path, **where), Clock()
    clock.at[BEAT] = lambda: os.utime(file, ns=(1, 1))  # its clock may differ
    with pytest.raises(SSLToolError, match=where.get("host", socket.gethostname())):
        locked(tmp_path, clock).__enter__()
    assert clock.now < BEAT + 2 * POLL
    assert json.loads(file.read_text())["token"] == "theirs"


def test_an_owner_of_an_earlier_version_names_no_container(tmp_path):
    file = left(tmp_path)
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "place"}))
    with locked(tmp_path) as lock:
        lock.check()


@pytest.mark.usefixtures("any_system")
def test_an_owner_on_another_machine_that_ends_frees_the_lock(tmp_path):
    file, clock = left(tmp_path, host="elsewhere"), Clock()
    clock.at[5.0] = file.unlink
    with locked(tmp_path, clock) as lock:
        lock.check()
    assert clock.now < 5 + 2 * POLL


@pytest.mark.usefixtures("any_system")
def test_a_process_whose_lock_was_taken_over_must_not_write(tmp_path):
    """It woke up after its lock had become stale."""
    with locked(tmp_path) as first:
        (tmp_path / NAME).unlink()
        left(tmp_path, host="elsewhere")
        with pytest.raises(SSLToolError, match="elsewhere") as caught:
            first.check()
        assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / NAME).read_text())["token"] == "theirs"  # it is not ours to remove


def test_a_process_whose_lock_file_was_written_by_another_must_not_write(tmp_path):
    with locked(tmp_path) as first:
        left(tmp_path, host="elsewhere")
        with pytest.raises(SSLToolError, match="elsewhere"):
            first.check()


def test_a_lock_that_was_removed_is_lost(tmp_path):
    with locked(tmp_path) as first:
        (tmp_path / NAME).unlink()
        with pytest.raises(SSLToolError, match="lock"):
            first.check()
        with locked(tmp_path) as second:
            second.check()
            with pytest.raises(SSLToolError, match="lock"):
                first.check()


@pytest.mark.parametrize("change", ["moved", "deleted", "replaced"])
def test_a_folder_that_is_no_longer_there_is_noticed(tmp_path, change):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder) as lock:
        lock.check()
        if change == "deleted":
            (folder / NAME).unlink()
            folder.rmdir()
        else:
            folder.rename(tmp_path / "away")
        if change == "replaced":
            folder.mkdir()
        with pytest.raises(SSLToolError, match=str(folder)):
            lock.check()
    assert not list(tmp_path.rglob(NAME))


def test_a_folder_under_another_name_has_the_same_lock(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with locked(tmp_path / "run"), pytest.raises(SSLToolError, match="link"):
        locked(tmp_path / "link").__enter__()


@pytest.mark.usefixtures("any_system")
def test_of_several_that_start_together_exactly_one_gets_the_lock(tmp_path):
    for _ in range(20):
        held, refused, ready = [], [], threading.Barrier(4)

        def start(held=held, refused=refused, ready=ready) -> None:
            ready.wait()
            try:
                held.append(RunLock(tmp_path, sleep=lambda seconds: None).__enter__())
            except SSLToolError:
                refused.append(1)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 3)
        held[0].__exit__()
        assert os.listdir(tmp_path) == []


@given(st.one_of(st.binary(max_size=40), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_a_lock_file_with_any_contents_names_no_owner(contents):
    assert Owner.parse(contents if isinstance(contents, bytes) else contents.encode()) is None


@pytest.mark.parametrize("key", ["host", "pid", "start", "since", "token", "place"])
@pytest.mark.parametrize("value", [None, -1, 0, 1.5, [], {}, True, "a\nb", "\x1b[31m", 2**80])
def test_a_lock_file_with_a_wrong_value_names_no_owner(key, value):
    assert Owner.parse(json.dumps(asdict(Owner.this_process()) | {key: value}).encode()) is None


def test_a_lock_file_without_an_owner_is_taken(tmp_path):
    (tmp_path / NAME).write_bytes(b"\x00" * 100)
    with locked(tmp_path) as lock:
        lock.check()


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_file_in_place_of_the_lock_is_refused_and_kept(tmp_path, kind):
    run, precious = tmp_path / "run", tmp_path / "precious"
    run.mkdir()
    precious.write_text("mine")
    {"folder": Path.mkdir, "link": lambda path: path.symlink_to(precious), "pipe": os.mkfifo}[kind](run / NAME)
    with pytest.raises(SSLToolError, match=NAME):
        locked(run).__enter__()
    assert precious.read_text() == "mine" and os.listdir(run) == [NAME]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SSLToolError, match="Permission denied"):
        locked(tmp_path).__enter__()


def test_the_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr("ssltool.runs.lock.BEAT", 0.01)
    with locked(tmp_path):
        os.utime(tmp_path / NAME, ns=(1, 1))
        for _ in range(500):
            if os.stat(tmp_path / NAME).st_mtime_ns != 1:
                break
            threading.Event().wait(0.01)
        assert os.stat(tmp_path / NAME).st_mtime_ns != 1
