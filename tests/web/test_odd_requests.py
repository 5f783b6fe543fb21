"""Requests that no browser sends: none is answered with an error of the server's own."""

import asyncio
import json
import socket
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from images.reading import read_photo
from tests.web.conftest import Serve, Server
from tests.web.test_app import picture

Headers = list[tuple[bytes, bytes]]
Request = tuple[str, bytes, Headers, list[bytes]]  # method, target, headers, parts of the body

JSON: Headers = [(b"content-type", b"application/json")]
TOKEN = b"A" * 22


def ask(app: Any, request: Request) -> tuple[int, bytes]:  # noqa: ANN401
    """Status and body that an application answers with, without a server between."""
    method, target, headers, parts = request
    raw, _, query = target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": percent_decoded(raw),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1234),
        "state": {},
    }
    left = list(parts)
    answered: dict[str, Any] = {"body": b""}

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        body = left.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        answered["status"] = message.get("status", answered.get("status"))
        answered["body"] += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return answered["status"], answered["body"]


def percent_decoded(raw: bytes) -> str:
    """As uvicorn does it."""
    return urllib.parse.unquote(raw.decode("ascii"))


def odd_bodies(photo: str) -> Iterable[bytes]:
    """Bodies of POST /jobs."""
    good = {"photos": [photo], "task": "super-resolution", "scale": 2, "models": ["edsr-gamma-0"]}
    yield from (b"", b"{", b"[]", b"null", b"1e999", b"NaN", b'"x"', b"\xff\xfe{", b"\0", b"{}")
    yield b"\xef\xbb\xbf" + json.dumps({**good, "photos": []}).encode()
    yield json.dumps({**good, "photos": []}).encode("utf-16")
    yield b"[" * 90_000
    yield b'{"photos":' * 9000
    yield b'{"photos": [' + b"9" * 90_000 + b"]}"
    odd: list[Any] = [
        *(None, True, -1, 0, 1.5, 10**400, 2**63, "2", "", [], {}, [[]], [None], [1], ["x"]),
        *(["\ud800"], "\ud800", ["\0"], ["../.."], ["x" * 40], {"a": "b"}, [{}], float("nan")),
    ]
    for key in good:
        for value in odd:
            wanted = {**good, "photos": ["x"], key: value}
            if key != "photos":
                wanted["photos"] = [photo]
            if key == "models" and value is None:  # all of them: a job
                continue
            yield json.dumps(wanted).encode()
    yield json.dumps({**good, "photos": [], "\ud800": 1}).encode()


def odd_requests(photo: str) -> Iterable[Request]:
    """Some two hundred."""
    for body in odd_bodies(photo):
        yield "POST", b"/jobs", JSON, [body]
    types = [
        *(
            b"",
            b"/",
            b";",
            b"text/plain",
            b"application/json; charset=utf-7",
            b"\xff\xfe",
            b"a" * 9000,
        ),
        *(b"application/json;;;", b"multipart/form-data", b"multipart/form-data; boundary="),
        b"multipart/form-data; boundary=" + b"x" * 70_000,
        b'multipart/form-data; boundary="a\\"b"',
        b"multipart/form-data; boundary=\xe4\xf6",
        b"application/x-www-form-urlencoded; charset*=utf-8''%ff",
        b"application/json; charset*0=a; charset*1*=%%%",
        b"*/*",
    ]
    for kind in types:
        for path in (b"/jobs", b"/uploads"):
            body = b'--x\r\nContent-Disposition: form-data; name="a"; filename="\xff"\r\n\r\n1\r\n'
            yield "POST", path, [(b"content-type", kind)], [body]
    lengths = [
        *(b"-1", b"+5", b"", b" ", b"1e3", b"0x10", b"\xb2", b"9" * 5000, b"1, 1", b"1.0", b"NaN"),
    ]
    for length in lengths:
        for path in (b"/jobs", b"/uploads"):
            yield "POST", path, [*JSON, (b"content-length", length)], [b"x"]
    names = [
        *(b"%", b"%zz", b"%ff%fe", b"\xff", "é水.png".encode(), b"utf-8''%e6%b0%b4", b"x" * 9000),
        *(b"%00", b"utf-8''", b"iso-8859-1'en'%A3", b"%ed%a0%80", b"utf-16''%d8%00", b"/", b"."),
        *(b"..", b"%f0%9f%91%a9%e2%80%8d%f0%9f%92%bb", b"=?utf-8?b?w6k=?=", b"\xe2\x80\xae"),
    ]
    for name in names:
        yield "POST", b"/uploads", [(b"x-file-name", name)], [b"no photo"]
        yield "POST", b"/uploads", [(b"x-file-name", name)], [picture(4, 4)]
    paths = [
        *(
            b"",
            b"*",
            b"//",
            b"/%",
            b"/%zz",
            b"/%ff",
            b"/%00",
            b"/..",
            b"/../../etc/passwd",
            b"/\x7e",
        ),
        *(b"http://evil.example/", b"/models/", b"/models%0a", b"/" + b"a" * 9000, b"/" * 500),
        *(b"/results/", b"/results/%00", b"/results/" + TOKEN, b"/results/%ff" * 2, b"/uploads"),
        *(b"/results/" + TOKEN + b"/x.png?download=%ff", b"/results/" + TOKEN + b"/all.zip"),
        *(b"/api?x=%ff&&&=&x", b"/?" + b"&" * 5000, b"/examples/%2e%2e.png", b"/examples/.png"),
        *(b"/web/%2e%2e%2fapp.py", b"/web/", b"/openapi.json", b"/gradio_api/info", b"/config"),
    ]
    for path in paths:
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "TRACE", "BREW", "HEAD"):
            yield method, path, [], [b""]
    for header in [
        *((b"range", b"bytes=" + b"9" * 5000 + b"-"), (b"range", b"x"), (b"range", b"bytes=5-1")),
        *((b"range", b"bytes=" + b"0-1," * 2000), (b"if-range", b"\xff"), (b"accept", b"\xff")),
        *((b"authorization", b"Basic \xff"), (b"cookie", b"\xff=;;="), (b"te", b"x"), (b"x", b"")),
        *((b"host", b"localhost:99999999"), (b"origin", b"\xff"), (b"sec-fetch-site", b"\xff")),
        *((b"x-forwarded-for", b"\xff"), (b"if-modified-since", b"x"), (b"expect", b"x")),
    ]:
        for path in (b"/", b"/web/style.css", b"/api"):
            yield "GET", path, [header], [b""]


def test_no_odd_request_is_an_error_of_the_server(server: Server) -> None:
    photo = server.upload(picture()).json()["id"]
    requests = list(odd_requests(photo))
    assert len(requests) > 200
    for request in requests:
        status, body = ask(server.app, request)
        assert 200 <= status < 500, (request, status, body)
        assert b"Traceback" not in body
    assert ask(server.app, ("GET", b"/", [], [b""]))[0] == 200


def test_a_reason_with_a_lone_surrogate_is_given(server: Server) -> None:
    wanted = {"photos": [], "task": "\ud800", "scale": 2, "models": ["x"]}
    status, body = ask(server.app, ("POST", b"/jobs", JSON, [json.dumps(wanted).encode()]))
    assert status == 422
    assert "error" in json.loads(body)


def test_a_body_in_parts_that_is_too_large_is_answered_413(server: Server) -> None:
    for path, limit in ((b"/jobs", 100_000), (b"/uploads", 2_000_000)):
        parts = [b" " * 50_000] * (limit // 50_000) + [b"x"]
        status, body = ask(server.app, ("POST", path, JSON, parts))
        assert status == 413
        assert json.loads(body)["error"].startswith("Too large")
    assert [path for path in server.store.uploads.iterdir() if path.suffix] == []


RAW = [
    b"",
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\nx",
    b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nx\r\n",
    b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"f" * 5000,
    b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab\r\n",
    b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary="
    + b"x" * 70_000
    + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET " + b"/a" * 20_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
]


def test_raw_bytes_are_no_error_of_the_server(server: Server) -> None:
    host, _, port = server.base.removeprefix("http://").partition(":")
    for sent in RAW:
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            parts = b""
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    parts += part
            except ConnectionError:
                pass
        assert not parts.startswith(b"HTTP/1.1 5"), (sent[:80], parts[:80])
        assert b"Internal Server Error" not in parts
    assert server.client.get("/models").status_code == 200


@pytest.mark.parametrize(
    "error", [OSError("x"), RuntimeError("x"), ValueError("x"), KeyError("x"), MemoryError()]
)
def test_whatever_a_decoder_raises_is_the_files_problem(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sent = [server.upload(picture()).json()["id"] for _ in range(2)]

    def broken(path: Path) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("web.uploads.read_photo", broken)
        answer = server.upload(picture())
        assert answer.status_code == 422
        assert answer.json()["error"].endswith(".")
        patch.setattr("web.uploads.sizes", broken)
        patch.setattr("web.uploads.png_size", lambda path: None)
        assert server.upload(picture()).status_code == 415
    real = read_photo
    monkeypatch.setattr(
        "web.processing.read_photo",
        lambda path: broken(path) if path.name == sent[0] else real(path),
    )
    answer = server.client.post("/jobs", json={"photos": sent, "models": ["edsr-gamma-0"]})
    found = server.finished(answer.json()["token"])
    assert found["state"] == "done"
    assert [photo["error"] is None for photo in found["photos"]] == [False, True]


def test_a_picture_that_has_gone_is_not_an_error_of_the_server(server: Server) -> None:
    token = server.job(picture())
    server.finished(token)
    (server.store.folder / token / "1-original.png").unlink()
    assert server.client.get(f"/results/{token}/1-original.png").status_code == 404


def test_the_cap_on_the_disk_holds_for_uploads_that_wait(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", max_disk=400_000) as server:  # uploads have a quarter
        cap = 100_000
        for content in (picture(4, 4), picture(60, 60)):
            statuses = [server.upload(content).status_code for _ in range(60)]
            assert set(statuses) == {201, 507}
            waiting = list(server.store.uploads.iterdir())
            assert sum(path.stat().st_blocks * 512 for path in waiting) <= cap
            for path in waiting:
                path.unlink()
