"""Runs ``ssltool`` in forks of one process that has imported it, so that a command starts in milliseconds.

``python fork_server.py SOCKET`` serves. ``shim(path, SOCKET)`` writes a program for the ``PATH`` that passes its
arguments, environment, folder and streams to the server and ends with the command's exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(message).to_bytes(8, "big")], [0, 1, 2])
server.sendall(message)
sys.exit(int.from_bytes(server.recv(1) or b"\\xff", "big"))
"""


def shim(program: Path, path: Path) -> None:
    """Writes the program ``program``, which runs a command in the server at ``path``."""
    program.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)


def serve(path: str) -> None:
    """Runs commands until the process is ended."""
    ssltool = importlib.import_module("ssltool")
    for module in pkgutil.walk_packages(ssltool.__path__, "ssltool."):
        importlib.import_module(module.name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
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
    try:
        size, streams, *_ = socket.recv_fds(client, 8, 3)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        with client.makefile("rb") as contents:
            args, folder, environment = json.loads(contents.read(int.from_bytes(size, "big")))
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["ssltool", *args]
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(bytes([code]))
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])
