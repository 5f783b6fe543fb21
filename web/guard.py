"""What every request has to pass before any route sees it, and what every answer carries.

The page is reachable from every web page that somebody opens who can reach the server: a foreign
`Host` (DNS rebinding) and a foreign `Origin` (cross-site requests) are refused. Bodies are limited
in bytes and in time.
"""

import asyncio
import base64
import binascii
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
    "Referrer-Policy": "no-referrer",  # a result's address is the right to see it
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Vary": "Accept",  # refusals are pages or JSON
}
JSON_BYTES = 100_000  # of requests that carry no photo
WRONG_SECONDS = 1.0  # that a wrong password waits, one after the other
WRONG_WAITING = 5  # wrong passwords of one client that may wait at a time
BODY_SECONDS = 600  # that a body may take,
PATIENCE = 20  # the first of them at any rate,
BODY_RATE = 1000  # then with so many bytes a second on average
MAX_UPLOADS = 32  # under way at a time
LENGTH = re.compile(r"[0-9]{1,15}")


class Guard:
    """An ASGI application around another.

    Args:
        app: what is guarded.
        host: the address that the server listens at; on loopback only names of it are answered,
            elsewhere also this machine's own name and the address that was connected to.
        login: user and password, or None for no login.
        hosts: other names and addresses that are answered, those of a proxy for example.
        max_upload: bytes of one photo.
        has_room: whether there is room for uploads of these many bytes each.
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
        self.arriving: list[int] = []  # bytes that each upload under way may bring
        self.wrong: Counter[str] = Counter()  # wrong passwords that wait, by client
        self.turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is refused, hand on the rest."""
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
        """Hand on an upload if there is room for it beside those that are under way."""
        length = Headers(scope=scope).get("content-length")
        expected = self.max_upload if length is None else int(length)
        if len(self.arriving) >= MAX_UPLOADS or not self.has_room(*self.arriving, expected):
            full = refuse(scope, 507, "Too many uploads are waiting here; please try again later.")
            await full(scope, receive, send)
            return
        self.arriving.append(expected)
        try:
            await self.app(scope, receive, send)
        finally:
            self.arriving.remove(expected)

    async def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that must not go on."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host_name(host)
        if not self.serves(name, scope):
            hint = f" To allow {name}, start it with hosts=[{name}]." if name else ""
            return refuse(scope, 403, f"This server does not answer to that name.{hint}")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refuse(scope, 403, "Requests of other web pages are not answered.")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return refuse(scope, 403, "Requests of other web pages are not answered.")
        if self.login and (answer := await self.stranger(scope)):
            return answer
        if not scope["path"].startswith("/"):  # OPTIONS *, for example
            return refuse(scope, 404, NOTHING)
        length = headers.get("content-length", "0")
        if not LENGTH.fullmatch(length):
            return refuse(scope, 400, "Content-Length is not a number of bytes.")
        limit = self.limit(scope)
        return refuse(scope, 413, too_large(limit)) if int(length) > limit else None

    def serves(self, name: str, scope: Scope) -> bool:
        """Whether a request may name this server so: a web page cannot make other names its own."""
        if is_loopback(name) or name in self.hosts:
            return True
        return not self.local and same_address(name, (scope.get("server") or ("",))[0])

    async def stranger(self, scope: Scope) -> Response | None:
        """The answer to who does not know the password; it takes a while after a wrong one."""
        headers = Headers(scope=scope)
        client = (scope.get("client") or ("",))[0]
        if self.wrong[client] >= WRONG_WAITING:  # not even the right one, which would tell
            return refuse(scope, 429, "Too many wrong passwords; please try again later.")
        if self.knows(headers.get("authorization", "")):
            return None
        if "authorization" in headers:
            self.wrong[client] += 1
            try:
                async with self.turn:
                    await asyncio.sleep(WRONG_SECONDS)
            finally:
                self.wrong[client] -= 1
                self.wrong += Counter()  # forgets those at 0
        answer = refuse(scope, 401, "A user name and a password are needed.")
        answer.headers["WWW-Authenticate"] = 'Basic realm="Neural Image Enhancement"'
        return answer

    def limit(self, scope: Scope) -> int:
        """Bytes that a request's body may have."""
        return self.max_upload if is_upload(scope) else JSON_BYTES

    def limited(self, scope: Scope, receive: Receive, started: Callable[[], bool]) -> Receive:
        """`receive` that ends a body which is too large or too slow.

        Args:
            scope: of the request.
            receive: the server's.
            started: whether the answer is on its way, so that there cannot be another one.
        """
        limit, seen, whole = self.limit(scope), 0, False
        began = time.monotonic()

        async def receive_limited() -> Message:
            nonlocal seen, whole
            if whole:  # what comes now is the end of the connection
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

    def knows(self, authorization: str) -> bool:
        """Whether a header carries the user and the password, in a time that tells nothing."""
        assert self.login is not None
        kind, _, coded = authorization.partition(" ")
        try:
            given = base64.b64decode(coded, validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, ":".join(self.login).encode())


def is_upload(scope: Scope) -> bool:
    """Whether a request brings a photo."""
    return bool(scope["path"] == "/uploads" and scope["method"] == "POST")


def too_large(limit: int) -> str:
    """What is said of a body over a limit."""
    return f"Too large: up to {limit / 1e6:g} MB are accepted."
