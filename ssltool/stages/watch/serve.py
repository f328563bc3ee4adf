"""Serves the page of ``watch`` until it is stopped."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

from ssltool.config import WatchConfig
from ssltool.errors import SSLToolError
from ssltool.stages.watch.run_index import RunIndex

if TYPE_CHECKING:
    import uvicorn

NEEDED = ("starlette", "uvicorn")

WAITING = 128
"""Connections that may wait to be accepted."""


def run(config: WatchConfig, announce: Callable[[str], object]) -> None:
    """Serves the page. ``announce`` gets its address once connections are accepted. SIGINT and SIGTERM end it.

    Raises:
        SSLToolError: if a folder does not exist, the port is taken, or the web server is not installed.
    """
    config.check()
    require_server()
    server, listener = prepare(config)
    address = address_of(config, listener)
    announce(address)
    if config.open and has_screen():
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with listener:
        server.run(sockets=[listener])


def prepare(config: WatchConfig) -> tuple[uvicorn.Server, socket.socket]:
    """The server, and the socket on which it will listen, which is open already."""
    import uvicorn

    from ssltool.stages.watch.app import application

    index = RunIndex(config.runs)
    listener = listen(config.host or "127.0.0.1", config.port)
    index.refresh()
    app = application(index, every=config.every, host=config.host, token=config.token)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=2
    )
    return uvicorn.Server(settings), listener


def require_server() -> None:
    """Checks that the web server is installed.

    Raises:
        SSLToolError: if not, with what installs it.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SSLToolError(
            f"the page needs {' and '.join(missing)}: pip install 'ssltool[watch]'; --terminal needs neither"
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a port of an address; port 0 is a free one.

    Raises:
        SSLToolError: if the address is not one of this machine, or the port is taken.
    """
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(WAITING)
        except OSError as error:
            reason = error.strerror or error
            raise SSLToolError(
                f"cannot listen on port {port} of {host}: {reason}; choose another --port, or 0"
            ) from error
        stack.pop_all()  # it stays open
    return listener


def address_of(config: WatchConfig, listener: socket.socket) -> str:
    """The address of the page, with the token."""
    host = config.host or "127.0.0.1"
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    query = "" if config.token is None else f"?token={config.token}"
    return f"http://{name}:{listener.getsockname()[1]}/{query}"


def has_screen() -> bool:
    """Whether a browser has a window to open; otherwise Python would start one in this terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
