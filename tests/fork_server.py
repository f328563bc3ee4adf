"""Runs ``ssltool``, or a program that imports it, in forks of one process that has imported it, so that it starts in
milliseconds.

``python fork_server.py SOCKET`` serves; the fixture ``server`` of ``conftest`` starts it. ``shim(path, SOCKET)`` writes
a program for the ``PATH`` that runs ``ssltool`` there. ``run_ranks(SOCKET, ...)`` runs a command on two ranks.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn, TextIO

SHIM = """#!{python} -SE
import os, sys
sys.path.insert(0, {here!r})
import fork_server
sys.exit(fork_server.Command({path!r}, ["ssltool", *sys.argv[1:]], os.environ, [0, 1, 2]).wait())
"""


def shim(program: Path, path: Path) -> None:
    """Writes the program ``program``, which runs ``ssltool`` in the server at ``path``."""
    here = str(Path(__file__).parent)
    program.write_text(SHIM.format(python=sys.executable, here=here, path=str(path)))
    program.chmod(0o755)


class Command:
    """A process of the server at ``path``, in a process group of its own, that runs ``["ssltool", ...]`` or
    ``[PYTHON_FILE, ...]`` in this folder."""

    def __init__(self, path: str, command: list[str], environment: Mapping[str, str], streams: list[int]) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.connect(path)
        message = json.dumps([command, os.getcwd(), dict(environment)]).encode()
        socket.send_fds(self.server, [len(message).to_bytes(8, "big")], streams)
        self.server.sendall(message)
        self.pid = int.from_bytes(self.server.recv(4), "big")
        self.code: int | None = None

    def wait(self, seconds: float | None = None) -> int | None:
        """The exit code, 255 of a process that was killed; None if it still runs after the ``seconds``."""
        if self.code is None:
            self.server.settimeout(seconds)
            try:
                answer = self.server.recv(1)
            except TimeoutError:
                return None
            except ConnectionResetError:  # it was killed before it had read the command
                answer = b""
            self.code = int.from_bytes(answer or b"\xff", "big")
            self.server.close()
        return self.code


@contextmanager
def running(path: Path, *command: object) -> Iterator[tuple[Command, TextIO, TextIO]]:
    """Starts a command and gives what it writes to stdout and stderr; at the end it is killed if it still runs."""
    with ExitStack() as stack:
        pipes = [os.pipe() for _ in range(2)]
        out, err = (stack.enter_context(open(read)) for read, _ in pipes)
        ends = [os.open(os.devnull, os.O_RDONLY), *(write for _, write in pipes)]
        started = Command(str(path), [*map(str, command)], os.environ, ends)
        for end in ends:
            os.close(end)
        try:
            yield started, out, err
        finally:
            if started.wait(0) is None:
                os.kill(started.pid, signal.SIGKILL)


def run_ranks(path: Path, *command: object, ranks: int = 2, limit: float = 600) -> CompletedProcess[str]:
    """Runs a command on several ranks, in the environment that torchrun sets; the streams of all ranks are joined.

    As with torchrun, a rank that fails ends the others, by SIGTERM and after 30 s by SIGKILL. Its exit code is that of
    the result.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    everywhere = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    end = time.monotonic() + limit
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:
        streams, started = [nothing.fileno(), out.fileno(), err.fileno()], []
        for rank in range(ranks):
            variables = everywhere | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
            environment = os.environ | {name: str(value) for name, value in variables.items()}
            started.append(Command(str(path), [*map(str, command)], environment, streams))
        failed = 0
        while None in (codes := [one.wait(0.05) for one in started]):
            failed = failed or max(code or 0 for code in codes)
            if failed or time.monotonic() > end:
                end = min(end, time.monotonic() + 30)
                for one in started:
                    if one.code is None:
                        os.kill(one.pid, signal.SIGKILL if time.monotonic() > end else signal.SIGTERM)
        for stream in (out, err):
            stream.seek(0)
        return CompletedProcess(command, failed or max(codes), out.read(), err.read())


def serve(path: str) -> None:
    """Imports ``ssltool``, and runs commands until the process is ended."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as a command on ranks sets it before it imports torch
    ssltool = importlib.import_module("ssltool")
    for module in pkgutil.walk_packages(ssltool.__path__, "ssltool."):
        if not module.name.startswith("ssltool.integrations."):  # they import other libraries
            importlib.import_module(module.name)
    _read_bundled_images()
    with listening(path) as server:
        print("ready", flush=True)
        answer(server)


def _read_bundled_images() -> None:
    """Reads them before any fork, which then has them."""
    from bundled_reads import read_once

    from ssltool.config import DataSettings
    from ssltool.data import bundled
    from ssltool.data.layouts import fashion_mnist

    fashion_mnist.read_idx = read_once()
    for split in ("train", "val"):
        fashion_mnist.read(bundled.FOLDER, split, DataSettings())


def listening(path: str) -> socket.socket:
    """The socket of a server."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


def answer(server: socket.socket) -> NoReturn:
    """Runs commands in forks of this process until it is ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _command(client)
        client.close()


def _command(client: socket.socket) -> None:
    """Runs one command as its own process would, and ends this one."""
    from ssltool.cli import main

    code = 70
    os.setsid()
    try:
        client.sendall(os.getpid().to_bytes(4, "big"))
        size, streams, *_ = socket.recv_fds(client, 8, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        with client.makefile("rb") as contents:
            (program, *args), folder, environment = json.loads(contents.read(int.from_bytes(size, "big")))
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = [program, *args]
        if program == "ssltool":
            main()
        else:
            runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:
        code = 1
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(bytes([code]))
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
