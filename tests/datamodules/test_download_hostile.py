"""Servers that lie, bodies without end, and part files that are something else."""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datamodules import download as module
from datamodules.download import download

BODY = bytes(range(256)) * 400
MD5 = hashlib.md5(BODY).hexdigest()
Answer = Callable[[str, socket.socket], None]


class RawServer:
    """Answers each request by a function that writes to the socket as it likes."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/a.zip"
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += connection.recv(4096)
                self.requests.append(request.decode())
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                try:
                    answer(request.decode(), connection)
                except OSError:
                    continue  # the client has left


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    monkeypatch.setenv("no_proxy", "*")
    one = RawServer()
    yield one
    one.listener.shutdown(socket.SHUT_RDWR)
    one.listener.close()
    one.thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "a.zip"


def says(*headers: str, status: str = "200 OK", body: bytes = BODY) -> Answer:
    def answer(request: str, connection: socket.socket) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode() + body)

    return answer


def without_end(request: str, connection: socket.socket) -> None:
    says(body=b"")(request, connection)
    while True:
        connection.sendall(bytes(1 << 16))


def chunked_without_end(request: str, connection: socket.socket) -> None:
    says("Transfer-Encoding: chunked", body=b"")(request, connection)
    while True:
        connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def get(server: RawServer, target: Path, size: int | None = None) -> None:
    download(server.url, target, md5=MD5, size=size, retries=1, wait=0.01, timeout=2)


def refusal(server: RawServer, target: Path, size: int | None = None) -> str:
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        get(server, target, size)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    return str(caught.value)


@pytest.mark.parametrize("length", ["-5", "many", "1e5", "+102400", "1_0", "0x10", "", "9" * 30])
def test_a_length_that_is_none_is_refused(server: RawServer, target: Path, length: str) -> None:
    server.answers = [says(f"Content-Length: {length}")]
    said = refusal(server, target)
    assert f"the server sent a Content-Length of '{length}'" in said
    assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == []


def test_two_lengths_are_refused(server: RawServer, target: Path) -> None:
    server.answers = [says("Content-Length: 5", f"Content-Length: {len(BODY)}")]
    assert f"Content-Length of '{len(BODY)}' and '5'" in refusal(server, target)
    server.answers = [says(*[f"Content-Length: {len(BODY)}"] * 2)]
    get(server, target)
    assert target.read_bytes() == BODY


def test_another_length_than_known_is_refused_and_the_part_is_kept(
    server: RawServer, target: Path
) -> None:
    part = target.with_name("a.zip.part")
    part.write_bytes(BODY[:1000])
    server.answers = [says("Content-Length: 9", body=b"log in :)")]  # a hotel's page
    said = refusal(server, target, len(BODY))
    assert f"the server has 9 bytes, not {len(BODY)} as expected" in said
    assert part.read_bytes() == BODY[:1000]


@pytest.mark.parametrize("answer", [without_end, chunked_without_end])
def test_a_body_without_end_ends(
    server: RawServer, target: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10**6)
    server.answers = [answer]
    assert "does not end after 1.00 MB; nothing is kept" in refusal(server, target)
    assert list(target.parent.iterdir()) == []
    # Of a file whose size is known no more than that is read.
    assert f"over {len(BODY) / 1000:.2f} kB, expected" in refusal(server, target, len(BODY))


def test_a_huge_length_is_refused_at_once(
    server: RawServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [says(f"Content-Length: {10**17}")]
    assert "more than the 5.00 GB allowed" in refusal(server, target)
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    server.answers = [says(f"Content-Length: {len(BODY)}")]
    get(server, target, len(BODY))  # known to be so large
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Range: bytes 999-102399/102400",),
        ("Content-Range: bytes 1000-102399/102400", "Content-Length: 7"),
        ("Content-Range: bytes 1000-900/102400", "Content-Length: 7"),
        ("Content-Range: bytes 1000-x/102400",),
        ("Content-Range: bytes -1000-102399/102400",),
        (),
    ],
)
def test_a_range_that_was_not_asked_for_is_not_appended(
    server: RawServer, target: Path, headers: tuple[str, ...]
) -> None:
    target.with_name("a.zip.part").write_bytes(BODY[:1000])
    wrong = says(*headers, status="206 Partial Content", body=b"x" * 7)
    server.answers = [wrong, says(f"Content-Length: {len(BODY)}")]
    get(server, target)
    assert target.read_bytes() == BODY
    assert "Range: bytes=1000-" in server.requests[0]
    assert "Range" not in server.requests[1]


def test_a_range_of_a_file_of_another_size_is_refused(server: RawServer, target: Path) -> None:
    target.with_name("a.zip.part").write_bytes(BODY[:1000])
    server.answers = [says("Content-Range: bytes 1000-1006/1007", status="206 Partial Content")]
    assert "the server has 1007 bytes, not 102400" in refusal(server, target, len(BODY))


@pytest.mark.parametrize("place", ["ftp://127.0.0.1:9/a.zip", "file:///etc/passwd", "data:,x"])
def test_redirections_lead_to_the_web_only(server: RawServer, target: Path, place: str) -> None:
    server.answers = [says(f"Location: {place}", "Content-Length: 0", status="302 Found", body=b"")]
    said = refusal(server, target)
    assert server.url in said
    assert "not http or https" in said or "HTTP status 302" in said
    assert len(server.requests) == 1
    assert list(target.parent.iterdir()) == []


def test_no_content_is_no_file(server: RawServer, target: Path) -> None:
    target.with_name("a.zip.part").write_bytes(BODY[:1000])
    server.answers = [says(status="204 No Content", body=b"")]
    assert "HTTP status 204" in refusal(server, target)
    assert target.with_name("a.zip.part").read_bytes() == BODY[:1000]


def soft(part: Path, other: Path) -> None:
    part.symlink_to(other)


def broken(part: Path, other: Path) -> None:
    part.symlink_to(other.with_name("absent"))


def hard(part: Path, other: Path) -> None:
    part.hardlink_to(other)


def pipe(part: Path, other: Path) -> None:
    os.mkfifo(part)


@pytest.mark.parametrize("make", [soft, broken, hard, pipe])
def test_another_file_is_not_written_through_the_part(
    server: RawServer, target: Path, make: Callable[[Path, Path], None]
) -> None:
    other = target.parent.parent / "precious.txt"
    other.write_bytes(b"mine")
    part = target.with_name("a.zip.part")
    make(part, other)
    server.answers = [says(f"Content-Length: {len(BODY)}")]
    said = refusal(server, target)
    assert str(part) in said
    assert "remove it" in said
    assert other.read_bytes() == b"mine"
    assert not other.with_name("absent").exists()
    assert server.requests == []


def test_a_pipe_in_place_of_the_file_is_refused(server: RawServer, target: Path) -> None:
    os.mkfifo(target)
    with pytest.raises(ValueError, match=r"a\.zip is a named pipe"):
        get(server, target)
