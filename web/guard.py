"""What every request has to pass before any route sees it, and what every answer carries.

A page on loopback is reachable from every web page that the same person opens: a foreign `Host`
(DNS rebinding) and a foreign `Origin` (cross-site requests) are refused. Of Gradio's own routes
only those of its API exist; those that serve files, fetch addresses or show its pages do not.
"""

import asyncio
import base64
import binascii
import hmac
import ipaddress
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's routes that its clients use.
GRADIO = ("info", "openapi.json", "upload", "queue/join", "queue/data", "call/", "cancel", "reset")
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
}
JSON_BYTES = 100_000  # of requests that carry no photo
WRONG_SECONDS = 1.0  # that a wrong password waits


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        host: the address that the server listens at; on loopback only names of it are answered.
        login: user and password, or None for no login.
        max_upload: bytes of one photo.
        max_photos: photos of one request of Gradio's upload.
        has_room: whether there is room for another upload.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        login: tuple[str, str] | None,
        max_upload: int,
        max_photos: int,
        has_room: Callable[[], bool],
    ) -> None:
        self.app = app
        self.local = is_loopback(host)
        self.login = login
        self.max_upload = max_upload
        self.max_photos = max_photos
        self.has_room = has_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, hands on the rest."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = await self.refusal(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if refused is not None:
            await refused(scope, receive, send_with_headers)
            return
        await self.app(scope, self.limited(scope, receive), send_with_headers)

    async def refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that must not go on."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.local and not is_loopback(host_name(host)):
            return refuse(403, "This address is not served.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refuse(403, "Requests of other web pages are not answered.")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return refuse(403, "Requests of other web pages are not answered.")
        if self.login and not self.knows(headers.get("authorization", "")):
            if "authorization" in headers:
                await asyncio.sleep(WRONG_SECONDS)
            answer = refuse(401, "A user name and a password are needed.")
            answer.headers["WWW-Authenticate"] = 'Basic realm="Neural Image Enhancement"'
            return answer
        path = scope["path"]
        inner = path.removeprefix("/gradio_api/")
        if inner != path and not inner.startswith(GRADIO):
            return refuse(404, "There is nothing here.")
        if inner == "upload" and not self.has_room():
            return refuse(507, "Too many uploads are waiting here; please try again later.")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.limit(path):
            return too_large(self.limit(path))
        return None

    def limit(self, path: str) -> int:
        """Bytes that a request may have."""
        if path == "/uploads":
            return self.max_upload
        if path == "/gradio_api/upload":
            return self.max_photos * (self.max_upload + 1000)
        return JSON_BYTES

    def limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that ends a body which goes on beyond the limit without having said so."""
        limit, seen = self.limit(scope["path"]), 0

        async def receive_limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > limit else message

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


def refuse(status: int, text: str) -> JSONResponse:
    """An answer with the reason."""
    return JSONResponse({"error": text}, status)


def too_large(limit: int) -> JSONResponse:
    """The answer to a body over a limit."""
    return refuse(413, f"Too large: up to {limit / 1e6:g} MB are accepted.")


def host_name(host: str) -> str:
    """A `Host` header without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a name or an address means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
