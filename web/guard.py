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
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Where our own routes begin; of all others that Gradio brings only `config` is for its clients,
OURS = (
    *("", "api", "config", "examples", "favicon.ico", "jobs", "models", "openapi.json"),
    *("results", "uploads", "web"),
)
# and of those below /gradio_api these.
GRADIO = ("info", "openapi.json", "upload", "queue/join", "queue/data", "call/", "cancel", "reset")
CALLS = ("/gradio_api/call/", "/gradio_api/queue/join")
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
WRONG_SECONDS = 1.0  # that a wrong password waits, one after the other
BODY_SECONDS = 600  # that an upload may take
UPLOADS = ("/uploads", "/gradio_api/upload")
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.-]+?)\.?)(?::\d+)?")


class Guard:
    """An ASGI application around another.

    Args:
        app: what is guarded.
        host: the address that the server listens at; on loopback only names of it are answered.
        login: user and password, or None for no login.
        hosts: other names that are answered: those under which a proxy serves this.
        max_upload: bytes of one photo.
        max_photos: photos of one request of Gradio's upload.
        has_room: whether there is room for uploads of so many bytes.
        is_upload: whether a path is that of a file which Gradio has received. Gradio itself would
            copy any file of the machine, and fetch any address, that a call names (`_check_allowed`
            looks at nothing in a mounted application).
        clear_parts: removes what uploads to Gradio that have broken off have left.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        login: tuple[str, str] | None,
        hosts: Collection[str],
        max_upload: int,
        max_photos: int,
        has_room: Callable[[int], bool],
        is_upload: Callable[[str], bool],
        clear_parts: Callable[[], None],
    ) -> None:
        self.app = app
        self.local = is_loopback(host)
        self.login = login
        self.hosts = hosts
        self.max_upload = max_upload
        self.max_photos = max_photos
        self.has_room = has_room
        self.is_upload = is_upload
        self.clear_parts = clear_parts
        self.arriving = 0  # bytes that the uploads under way may bring
        self.under_way = 0  # uploads to Gradio
        self.turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, hands on the rest."""
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

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            elif head:
                message = {**message, "body": b""}
            await send(message)

        receive = self.limited(scope, receive)
        if refused is None and scope["path"].startswith(CALLS) and scope["method"] == "POST":
            body = await whole_body(receive)
            receive = replay(body, receive)
            if not all(self.is_upload(path) for path in paths_in(body)):
                refused = refuse(422, "Send photos as files (in Python: handle_file).")
        if refused is not None:
            await refused(scope, receive, send_with_headers)
        elif scope["path"] in UPLOADS:
            await self.take_upload(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)

    async def take_upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands on an upload if there is room for it beside those that are under way."""
        length = Headers(scope=scope).get("content-length")
        expected = self.limit(scope["path"]) if length is None else int(length)
        if not self.has_room(self.arriving + expected):
            full = refuse(507, "Too many uploads are waiting here; please try again later.")
            await full(scope, receive, send)
            return
        to_gradio = scope["path"] != "/uploads"
        self.arriving += expected
        self.under_way += to_gradio
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self.app(scope, receive, send)
        except TimeoutError:
            await refuse(408, "The photo took too long to arrive.")(scope, receive, send)
        finally:
            self.arriving -= expected
            self.under_way -= to_gradio
            if to_gradio and not self.under_way:
                self.clear_parts()

    async def refusal(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that must not go on."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        name = host_name(host)
        if self.local and not is_loopback(name) and name not in self.hosts:
            return refuse(403, "This address is not served.")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return refuse(403, "Requests of other web pages are not answered.")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD"):
            return refuse(403, "Requests of other web pages are not answered.")
        if self.login and not self.knows(headers.get("authorization", "")):
            if "authorization" in headers:
                async with self.turn:
                    await asyncio.sleep(WRONG_SECONDS)
            answer = refuse(401, "A user name and a password are needed.")
            answer.headers["WWW-Authenticate"] = 'Basic realm="Neural Image Enhancement"'
            return answer
        path = scope["path"]
        inner = path.removeprefix("/gradio_api/")
        ours = path.startswith("/") and path[1:].partition("/")[0] in OURS
        if not (inner.startswith(GRADIO) if inner != path else ours):
            return refuse(404, "There is nothing here.")
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


async def whole_body(receive: Receive) -> bytes:
    """A request's body; of one that breaks off what there was."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def replay(body: bytes, receive: Receive) -> Receive:
    """`receive` of a request whose body has been read."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def paths_in(body: bytes) -> Iterator[str]:
    """What a JSON text has under `path`, at any depth; none of what is no JSON."""
    try:
        left: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if "path" in item:
                yield str(item["path"])
            left += item.values()
        elif isinstance(item, list):
            left += item


def refuse(status: int, text: str) -> JSONResponse:
    """An answer with the reason; of what is too large nothing more is read."""
    headers = {"Connection": "close"} if status == 413 else None
    return JSONResponse({"error": text}, status, headers)


def too_large(limit: int) -> JSONResponse:
    """The answer to a body over a limit."""
    return refuse(413, f"Too large: up to {limit / 1e6:g} MB are accepted.")


def host_name(host: str) -> str:
    """A `Host` header without the port; nothing for what is none."""
    found = HOST.fullmatch(host.lower())
    return (found[1] or found[2]) if found else ""


def is_loopback(name: str) -> bool:
    """Whether a name or an address means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
