"""Which requests are answered: those that name this machine and, if there is a token, have it.

A page of another site could make a browser ask a server on this machine under the other site's name (DNS rebinding), so
the Host header is checked. Every answer forbids scripts and styles that are not files of this server.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

COOKIE = "ssltool-watch"


class Guard:
    """Middleware in front of ``app``, which listens on ``host``; ``token`` is None if none is needed.

    The address with ``?token=`` sets a cookie and leads to the address without it, so that the token is not left in the
    browser's history. Programs send ``Authorization: Bearer TOKEN``.
    """

    def __init__(self, app: ASGIApp, host: str | None, token: str | None) -> None:
        self.app, self.host, self.token = app, host, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope) or self._login(scope)
        await (answer or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        if len(names) != 1 or not self._is_ours(names[0]):
            return PlainTextResponse("this server is not the host that was asked for\n", 421)
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin not in (None, f"{scope['scheme']}://{names[0]}"):
            return PlainTextResponse("pages of other sites may not do this\n", 403)
        return None

    def _is_ours(self, given: str) -> bool:
        name = host_name(given)
        if name is None:
            return False
        if name in LOCAL or name == (self.host or "").lower():
            return True
        return self.host in ANY and (_is_address(name) or name == socket.gethostname().lower())

    def _login(self, scope: Scope) -> Any:
        """What a request without a cookie gets if there is a token: a cookie, or a refusal."""
        if self.token is None:
            return None
        headers = Headers(scope=scope)
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._matches(cookie_parser(headers.get("cookie", "")).get(COOKIE, "")) or self._matches(bearer):
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["method"] == "GET" and scope["path"] == "/" and self._matches(given[0]):
            found = RedirectResponse("/", 303)
            found.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return found
        return PlainTextResponse("open the address that ssltool watch printed, with its token\n", 401)

    def _matches(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), (self.token or "").encode())


def host_name(given: str) -> str | None:
    """The name in a Host header, in lower case and without the port; None if it is malformed."""
    name, bracket, port = given.rpartition("]") if given.startswith("[") else given.partition(":")
    if given.startswith("["):
        name = name[1:]
        if not bracket or (port and not port.startswith(":")):
            return None
        port = port[1:]
    return name.lower() if name and (not port or (port.isascii() and port.isdecimal())) else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
