"""Check every request before it reaches a route, and add security headers to every answer.

Any web page open in a browser that can reach the server could send it requests. Requests with a
foreign `Host` (DNS rebinding) or a foreign `Origin` (cross-site requests) are therefore refused.
Bodies are limited in size and in time.
"""

import asyncio
import base64
import hmac
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.hosts import host_name, is_loopback, same_address
from web.pages import NOTHING, refuse

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # anyone who knows a result's address can see it
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Vary": "Accept",  # errors are pages or JSON
}
JSON_BYTES = 100_000  # in the body of a request without a photo
WRONG_SECONDS = 1.0  # delay of each wrong password, one after the other
WRONG_WAITING = 5  # delayed wrong passwords per client
BODY_SECONDS = 600  # limit for receiving a body;
PATIENCE = 20  # these first seconds are always allowed,
BODY_RATE = 1000  # then this average number of bytes per second is required
MAX_UPLOADS = 32  # arriving at the same time
LENGTH = re.compile(r"[0-9]{1,15}")


class Guard:
    """An ASGI application that guards another.

    Args:
        app: the guarded application.
        host: the address that the server binds to. On loopback only its names are answered,
            otherwise also this machine's name and the IP address of the connection.
        login: user and password, or None for no login.
        hosts: further names and addresses to answer to, such as a proxy's.
        max_upload: bytes of one photo.
        has_room: returns whether there is room for uploads of the given sizes in bytes.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        login: tuple[str, str] | None,
        hosts: Collection[str],
        max_upload: int,
        has_room: Callable[..., bool],
    ) -> None:
        self.app = app
        self.local = is_loopback(host)
        self.login = login
        self.hosts = set(hosts) if self.local else {*hosts, socket.gethostname().lower()}
        self.max_upload = max_upload
        self.has_room = has_room
        self.arriving: list[int] = []  # bytes expected from each upload in progress
        self.wrong: Counter[str] = Counter()  # delayed wrong passwords, by client
        self.delaying = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer requests that are refused, and pass on the others."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = await self.refusal(scope)
        head = scope["method"] == "HEAD"
        if head:
            scope = {**scope, "method": "GET"}
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        receive = self.limited(scope, receive, lambda: started)
        if refused is not None:
            await refused(scope, receive, send_with_headers)
        elif is_upload(scope):
            await self.take_upload(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    async def take_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an upload if there is room for it in addition to those in progress."""
        length = Headers(scope=scope).get("content-length")
        expected = self.max_upload if length is None else int(length)
        if len(self.arriving) >= MAX_UPLOADS or not self.has_room(*self.arriving, expected):
            full = refuse(scope, 507, "Too many uploads are waiting; please try again later.")
            await full(scope, receive, send)
            return
        self.arriving.append(expected)
        try:
            await self.app(scope, receive, send)
        finally:
            self.arriving.remove(expected)

    async def refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that must be refused, or None."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host_name(host)
        if not self.serves(name, scope):
            hint = f" To allow {name}, start it with hosts=[{name}]." if name else ""
            return refuse(scope, 403, f"This server does not accept requests for that name.{hint}")
        origin = headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        cross = headers.get("sec-fetch-site") == "cross-site"
        if foreign or (cross and scope["method"] not in ("GET", "HEAD")):
            return refuse(scope, 403, "Requests from other web pages are refused.")
        if self.login and (answer := await self.login_refusal(scope)):
            return answer
        if not scope["path"].startswith("/"):  # OPTIONS *, for example
            return refuse(scope, 404, NOTHING)
        length = headers.get("content-length", "0")
        if not LENGTH.fullmatch(length):
            return refuse(scope, 400, "Content-Length is not a number of bytes.")
        limit = self.limit(scope)
        return refuse(scope, 413, too_large(limit)) if int(length) > limit else None

    def serves(self, name: str, scope: Scope) -> bool:
        """Return whether a request may use this name: one that no other web page can claim."""
        if is_loopback(name) or name in self.hosts:
            return True
        return not self.local and same_address(name, (scope.get("server") or ("",))[0])

    async def login_refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request without the right password, delayed after a wrong one."""
        headers = Headers(scope=scope)
        client = (scope.get("client") or ("",))[0]
        if self.wrong[client] >= WRONG_WAITING:
            # Even the right password is refused; otherwise an attacker could detect it.
            return refuse(scope, 429, "Too many wrong passwords; please try again later.")
        if self.is_login(headers.get("authorization", "")):
            return None
        if "authorization" in headers:
            self.wrong[client] += 1
            try:
                async with self.delaying:
                    await asyncio.sleep(WRONG_SECONDS)
            finally:
                self.wrong[client] -= 1
                self.wrong += Counter()  # removes counts of 0
        answer = refuse(scope, 401, "A user name and a password are required.")
        answer.headers["WWW-Authenticate"] = 'Basic realm="Neural Image Enhancement"'
        return answer

    def limit(self, scope: Scope) -> int:
        """Return the maximum number of bytes in a request's body."""
        return self.max_upload if is_upload(scope) else JSON_BYTES

    def limited(self, scope: Scope, receive: Receive, started: Callable[[], bool]) -> Receive:
        """Wrap `receive` so that it refuses bodies that are too large or too slow.

        Once an answer is `started`, no other can be sent.
        """
        limit, seen, whole = self.limit(scope), 0, False
        began = time.monotonic()

        async def receive_limited() -> Message:
            nonlocal seen, whole
            if whole:  # what follows is the end of the connection
                return await receive()
            left = min(BODY_SECONDS, PATIENCE + seen / BODY_RATE) - (time.monotonic() - began)
            try:
                async with asyncio.timeout(left):
                    message = await receive()
                seen += len(message.get("body", b""))
                if seen <= limit:
                    whole = not message.get("more_body", False)
                    return message
                refused = HTTPException(413, too_large(limit))
            except TimeoutError:
                refused = HTTPException(408, "The request took too long to arrive.")
            if started():
                return {"type": "http.disconnect"}
            raise refused

        return receive_limited

    def is_login(self, authorization: str) -> bool:
        """Compare a header with the user and password, in constant time."""
        assert self.login is not None
        kind, _, coded = authorization.partition(" ")
        expected = base64.b64encode(":".join(self.login).encode())
        return kind.lower() == "basic" and hmac.compare_digest(coded.encode(), expected)


def is_upload(scope: Scope) -> bool:
    """Return whether a request uploads a photo."""
    return bool(scope["path"] == "/uploads" and scope["method"] == "POST")


def too_large(limit: int) -> str:
    """Return the message for a body over the limit."""
    return f"Too large: up to {limit / 1e6:g} MB are accepted."
