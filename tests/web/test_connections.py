"""Clients that hold connections without going on, and the log meanwhile."""

import contextlib
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.web.conftest import Serve, Server
from tests.web.test_app import picture
from web import connections
from web.connections import Quiet

HEAD = "POST /uploads HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000\r\n\r\n"


def connect(server: Server, text: str = "") -> socket.socket:
    """A connection on which something was sent."""
    connection = socket.create_connection(address(server.base), timeout=20)
    connection.sendall(text.format(server.base[7:]).encode())
    return connection


def address(base: str) -> tuple[str, int]:
    host, _, port = base.removeprefix("http://").partition(":")
    return host, int(port)


def answer(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.fixture
def limited(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of eight connections and little patience."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.5)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr("web.guard.PATIENCE", 1.5)
    with serve(tmp_path / "store") as server:
        yield server


def test_half_a_head_is_closed_in_time_even_if_it_goes_on_slowly(limited: Server) -> None:
    began = time.monotonic()
    silent, half, slow = connect(limited), connect(limited, "GET / HT"), connect(limited)
    with contextlib.suppress(OSError):  # closed by the server
        while time.monotonic() - began < 10:
            slow.sendall(b"G")
            time.sleep(0.2)
    assert answer(silent) == answer(half) == answer(slow) == b""
    assert 1.4 < time.monotonic() - began < 8


def test_a_body_that_does_not_come_or_only_drips_is_answered_408(limited: Server) -> None:
    for path in ("/uploads", "/jobs"):
        silent, drip = (connect(limited, HEAD.replace("/uploads", path)) for _ in range(2))
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 2.5:
                drip.sendall(b"\0")
                time.sleep(0.2)
        assert b" 408 " in answer(silent)
        assert b" 408 " in answer(drip)
    # The rest of a body that nobody asked for keeps no connection open.
    ignored = connect(limited, HEAD.replace("POST /uploads", "GET /models"))
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 10:
            ignored.sendall(b"\0")
            time.sleep(0.2)
    assert b" 200 " in answer(ignored)
    assert time.monotonic() - began < 8
    assert list(limited.store.uploads.iterdir()) == []


def test_a_refused_body_is_read_so_that_its_client_sees_the_answer(server: Server) -> None:
    for _ in range(5):
        assert server.upload(b"\0" * 3_000_000).status_code == 413


@pytest.mark.parametrize("begun", ["", "GET / HTTP/1.1\r\nHo", HEAD])
def test_a_new_client_takes_the_place_of_a_silent_one(limited: Server, begun: str) -> None:
    limited.client.get("/models")
    held = [connect(limited, begun) for _ in range(20)]
    time.sleep(0.2)
    with httpx.Client(base_url=limited.base) as visitor:
        assert visitor.get("/").status_code == 200
    answers = [answer(connection) for connection in held]
    assert answers[0] == b""


def test_a_client_that_reads_nothing_is_dropped(
    limited: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 1)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(address(limited.base))
    request = f"GET /examples/coffee.png HTTP/1.1\r\nHost: {limited.base[7:]}\r\n\r\n"
    connection.sendall(request.encode() * 200)  # one after the other, up to 12 MB
    time.sleep(4)
    with pytest.raises(OSError, match=r"reset|Broken"):  # noqa: PT012
        for _ in range(100):
            connection.sendall(b"x" * 1000)
            time.sleep(0.01)


def test_the_log_counts_what_repeats() -> None:
    records = [
        logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, "Bad %d", (k,), None)
        for k in range(1001)
    ]
    quiet = Quiet()
    passed = [record for record in records[:1000] if quiet.filter(record)]
    assert [record.getMessage() for record in passed] == ["Bad 0"]
    quiet.seen = {key: (since - 61, held) for key, (since, held) in quiet.seen.items()}
    assert quiet.filter(records[1000])
    expected = "Bad 1000 (999 more like this since the last one)"
    assert records[1000].getMessage() == expected


def test_wrong_passwords_of_one_client_do_not_pile_up(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path / "store", login=("ann", "secret")) as server:
        wrong = "Authorization: Basic eDp5\r\n"
        text = f"GET / HTTP/1.1\r\nHost: {server.base[7:]}\r\nConnection: close\r\n{wrong}\r\n"
        held = [connect(server, text) for _ in range(30)]
        answers = [answer(connection)[:12] for connection in held]
        assert answers.count(b"HTTP/1.1 401") == 5
        assert answers.count(b"HTTP/1.1 429") == 25
        assert server.client.get("/models").status_code == 200


@pytest.mark.slow
def test_400_half_open_connections_under_a_limit_of_256_files(
    folder: Path, enhancers: dict[str, str], scorer_file: Path
) -> None:
    """With the real command: the limit holds for a whole process."""
    words = ["serve", "port=0", f"checkpoint={enhancers['edsr_0']}"]
    words += [f"scorer.checkpoint={scorer_file}"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)),
        )
    held = []
    try:
        while not (found := re.search(r"http://(\S+)", (folder / "log").read_text())):
            assert process.poll() is None
            time.sleep(0.1)
        base = found[0]
        for k in range(400):
            connection = socket.create_connection(address(base), timeout=20)
            connection.sendall(b"GET / HTTP/1.1\r\nHo" if k % 2 else b"")
            held.append(connection)
        for _ in range(5):
            began = time.monotonic()
            with httpx.Client(base_url=base, timeout=20) as visitor:
                assert visitor.get("/").status_code == 200
                sent = visitor.post("/uploads", content=picture())
                assert sent.status_code == 201
            assert time.monotonic() - began < 5
        for _ in range(2000):  # no HTTP at all
            with contextlib.suppress(OSError), socket.create_connection(address(base)) as other:
                other.sendall(b"\x16\x03\x01\r\n\r\n")
        assert httpx.get(base).status_code == 200
        assert (folder / "log").stat().st_size < 2000
    finally:
        for connection in held:
            connection.close()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert "Traceback" not in (folder / "log").read_text()
