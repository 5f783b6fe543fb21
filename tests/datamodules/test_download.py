import fcntl
import hashlib
import io
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import rich

from datamodules.download import Archive, download, fetch
from datamodules.unpacking import unpack

BODY = np.random.default_rng(0).bytes(100_000)
MD5 = hashlib.md5(BODY).hexdigest()
FOLDER = "DIV2K_train_LR_bicubic/X2"


class Answer(NamedTuple):
    """How the server treats one request.

    `cut` is the number of bytes after which it closes the connection, `stall` that after which it
    falls silent; `framing` is how the client learns of the end.
    """

    status: int = 200
    ranges: bool = True
    shift: int = 0  # the range sent begins so many bytes later than the one asked for
    cut: int | None = None
    stall: int | None = None
    framing: str = "length"  # length, chunked, close


class Server(ThreadingHTTPServer):
    """Gives `body` under any path, following the script first; notes the Range of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.script: list[Answer] = []
        self.usual = Answer()
        self.ranges: list[str | None] = []
        self.closing = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client left: it may
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/a.zip"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", server.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server.ranges.append(asked)
        answer = server.script.pop(0) if server.script else server.usual
        start, status, total = 0, answer.status, len(server.body)
        if asked and answer.ranges and status == 200:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) + answer.shift  # type: ignore[index]
            status = 206 if start < total else 416
        body = server.body[start:] if status in (200, 206) else b"sorry"
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if answer.framing == "length":
            self.send_header("Content-Length", str(len(body)))
        if answer.framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        sent = body[: answer.cut if answer.stall is None else answer.stall]
        if answer.framing == "chunked":
            for k in range(0, len(sent), 1000):
                piece = sent[k : k + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if len(sent) == len(body):
                self.wfile.write(b"0\r\n\r\n")
        else:
            self.wfile.write(sent)
        if answer.stall is not None:
            self.wfile.flush()
            server.closing.wait()
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        # A short poll: shutdown() waits for its end.
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "a.zip"


@pytest.fixture
def part(target: Path) -> Path:
    target.parent.mkdir()
    return target.with_name("a.zip.part")


def get(server: Server, target: Path, *, md5: str = MD5, retries: int = 2) -> None:
    download(server.url, target, md5=md5, retries=retries, wait=0.01, timeout=0.3)


def message(server: Server, target: Path, *, md5: str = MD5, retries: int = 2) -> str:
    """What a download says that fails: always one line."""
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        get(server, target, md5=md5, retries=retries)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_plain_download_and_no_second_one(server: Server, target: Path) -> None:
    get(server, target)
    assert target.read_bytes() == BODY
    assert names(target.parent) == ["a.zip"]
    get(server, target)
    assert server.ranges == [None]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_every_framing_is_read_to_its_end(server: Server, target: Path, framing: str) -> None:
    server.usual = Answer(framing=framing)
    get(server, target)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "broken",
    [
        Answer(cut=30_000),
        Answer(cut=30_000, framing="chunked"),
        Answer(stall=30_000),
        Answer(stall=30_000, framing="chunked"),
    ],
)
def test_a_cut_connection_is_resumed_where_it_was_cut(
    server: Server, target: Path, broken: Answer
) -> None:
    server.script = [broken]
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=30000-"]


def test_with_a_known_size_a_server_need_not_say_it(server: Server, target: Path) -> None:
    server.script = [Answer(cut=30_000, framing="close")]
    download(server.url, target, md5=MD5, size=len(BODY), wait=0.01)
    assert server.ranges == [None, "bytes=30000-"]


def test_progress_resets_the_count_of_retries(server: Server, target: Path) -> None:
    server.script = [Answer(cut=5_000)] * 15
    get(server, target, retries=1)
    assert server.ranges[1:] == [f"bytes={5_000 * k}-" for k in range(1, 16)]


def test_the_part_of_an_earlier_process_is_continued(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:40_000])
    get(server, part.with_suffix(""))
    assert part.with_suffix("").read_bytes() == BODY
    assert server.ranges == ["bytes=40000-"]
    assert not part.exists()


def test_a_complete_part_needs_no_network(server: Server, part: Path) -> None:
    part.write_bytes(BODY)
    get(server, part.with_suffix(""))
    assert names(part.parent) == ["a.zip"]
    assert server.ranges == []


@pytest.mark.parametrize("content", [BODY + b"more", b"x" * len(BODY)])
def test_a_part_past_the_end_is_started_over(server: Server, part: Path, content: bytes) -> None:
    part.write_bytes(content)
    get(server, part.with_suffix(""), retries=0)
    assert part.with_suffix("").read_bytes() == BODY
    assert server.ranges == [f"bytes={len(content)}-", None]


def test_a_server_without_ranges_starts_over(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:40_000])
    server.usual = Answer(ranges=False)
    get(server, part.with_suffix(""))
    assert part.with_suffix("").read_bytes() == BODY
    assert server.ranges == ["bytes=40000-"]


def test_a_server_without_ranges_that_always_cuts_is_given_up(server: Server, target: Path) -> None:
    server.usual = Answer(ranges=False, cut=1000)
    assert "without progress" in message(server, target)
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"]


def test_another_range_than_asked_for_is_not_used(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:40_000])
    server.script = [Answer(shift=5)]
    get(server, part.with_suffix(""))
    assert part.with_suffix("").read_bytes() == BODY
    assert server.ranges == ["bytes=40000-", None]


def test_redirections_keep_the_range(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:40_000])
    url = server.url.replace("a.zip", "moved")
    download(url, part.with_suffix(""), md5=MD5, wait=0.01)
    assert server.ranges == ["bytes=40000-"]


def test_a_wrong_checksum_leaves_nothing(server: Server, target: Path) -> None:
    said = message(server, target, md5="0" * 32)
    for fact in (server.url, MD5, "0" * 32, "100.00 kB"):
        assert fact in said
    assert names(target.parent) == []
    assert server.ranges == [None]


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_final(server: Server, target: Path, status: int) -> None:
    server.usual = Answer(status=status)
    said = message(server, target)
    assert server.url in said
    assert f"HTTP status {status}" in said
    assert server.ranges == [None]
    assert names(target.parent) == []


def test_an_overloaded_server_is_asked_again(
    server: Server, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [Answer(status=503), Answer(status=429)]
    get(server, target)
    assert target.read_bytes() == BODY
    pauses = [record.getMessage().rpartition("again in ")[2] for record in caplog.records]
    assert pauses == ["0.01 s", "0.02 s"]


def test_giving_up_keeps_the_part_and_the_next_call_goes_on(server: Server, target: Path) -> None:
    server.script = [Answer(cut=1000), Answer(cut=0), Answer(status=500)]
    said = message(server, target)
    for fact in (server.url, "HTTP status 500", "1.00 kB of 100.00 kB", "the same command goes on"):
        assert fact in said
    assert target.with_name("a.zip.part").read_bytes() == BODY[:1000]
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, *["bytes=1000-"] * 3]


def test_a_refused_connection_is_tried_again_and_names_the_way_out(
    target: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:  # bound, so that nobody else gets it, but not listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.zip"
        with pytest.raises(ValueError, match="refused") as caught:
            download(url, target, md5=MD5, retries=2, wait=0.01)
    assert url in str(caught.value)
    assert f"put the file at {target} by hand" in str(caught.value)
    assert len(caplog.records) == 2
    assert names(target.parent) == []


def test_without_a_network_it_ends_at_once(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    # TCP to the broadcast address fails in the kernel, with or without a network.
    with pytest.raises(ValueError, match=r"no connection \(.+ by hand") as caught:
        download("http://255.255.255.255/a.zip", target, md5=MD5, wait=1000)
    assert str(target) in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "file:///a.zip", "a.zip"])
def test_other_kinds_of_urls_are_refused(target: Path, url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{url}: only http and https")):
        download(url, target, md5=MD5)
    assert not target.parent.exists()


def test_a_wrong_file_in_place_is_refused_and_stays(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    said = message(server, target)
    for fact in (str(target), MD5, hashlib.md5(b"mine").hexdigest()):
        assert fact in said
    assert target.read_bytes() == b"mine"
    assert server.ranges == []


def test_two_processes_do_not_write_one_part(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:40_000])
    with open(part, "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert f"{part}: in use by another process" in message(server, part.with_suffix(""))
    get(server, part.with_suffix(""))


def test_a_file_too_big_for_the_disk_is_not_begun(server: Server, small_disk: Path) -> None:
    server.body = BODY * 20
    said = message(server, small_disk / "a.zip")
    for fact in (str(small_disk), "2.00 MB", "1.05 MB are free"):
        assert fact in said
    assert names(small_disk) == []
    assert server.ranges == [None]


def test_only_the_rest_has_to_fit_on_the_disk(server: Server, small_disk: Path) -> None:
    server.body = BODY * 10
    (small_disk / "a.zip.part").write_bytes(server.body[:900_000])
    get(server, small_disk / "a.zip", md5=hashlib.md5(server.body).hexdigest())
    assert server.ranges == ["bytes=900000-"]


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_disk_that_fills_up_keeps_the_part(
    server: Server, small_disk: Path, framing: str
) -> None:
    server.body = BODY * 20
    server.usual = Answer(framing=framing)
    md5 = hashlib.md5(server.body).hexdigest()
    said = message(server, small_disk / "a.zip", md5=md5)
    for fact in (f"{small_disk}: No space left", "a.zip.part is kept", "the same command"):
        assert fact in said
    size = (small_disk / "a.zip.part").stat().st_size
    assert 900_000 < size <= 1 << 20
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    get(server, small_disk / "a.zip", md5=md5)
    assert (small_disk / "a.zip").read_bytes() == server.body
    assert server.ranges == [None, f"bytes={size}-"]


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


PHOTOS = {f"{FOLDER}/0001x2.png": b"first photo", f"{FOLDER}/0002x2.png": b"second photo"}
ZIP = zip_of({f"{FOLDER}/": b"", "readme.txt": b"not asked for", **PHOTOS})
UNPACKED = ["DIV2K_train_LR_bicubic", FOLDER, *PHOTOS]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    path.write_bytes(ZIP)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_the_folder_is_unpacked_and_nothing_else(archive: Path, root: Path) -> None:
    unpack(archive, FOLDER, root)
    assert names(root) == UNPACKED
    assert {name: (root / name).read_bytes() for name in PHOTOS} == PHOTOS


def test_a_folder_that_exists_is_refused(archive: Path, root: Path) -> None:
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "mine.png").touch()
    with pytest.raises(ValueError, match=f"{FOLDER} exists"):
        unpack(archive, FOLDER, root)
    assert [path.name for path in (root / FOLDER).iterdir()] == ["mine.png"]


def test_an_empty_folder_is_filled(archive: Path, root: Path) -> None:
    (root / FOLDER).mkdir(parents=True)
    unpack(archive, FOLDER, root)
    assert names(root) == UNPACKED


def test_another_content_is_named(archive: Path, root: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder X3; it holds DIV2K_.+, readme\.txt$"):
        unpack(archive, "X3", root)
    with pytest.raises(ValueError, match=r"it holds DIV2K_train_LR_bicubic/X2, readme\.txt$"):
        unpack(archive, "DIV2K_train_LR_bicubic/X3", root)
    archive.write_bytes(zip_of({}))
    with pytest.raises(ValueError, match="it holds nothing"):
        unpack(archive, FOLDER, root)
    archive.write_bytes(zip_of({f"{k}.png": b"" for k in range(9)}))
    with pytest.raises(ValueError, match=r"holds 0\.png, .*4\.png and 4 more$"):
        unpack(archive, FOLDER, root)
    assert names(root) == []


@pytest.mark.parametrize("evil", ["../out.png", f"{FOLDER}/../../../out.png", "/tmp/out.png"])
def test_members_that_would_leave_are_refused(archive: Path, root: Path, evil: str) -> None:
    archive.write_bytes(zip_of({**PHOTOS, evil: b"evil"}))
    with pytest.raises(ValueError, match=re.escape(f"holds {evil}, which would leave")):
        unpack(archive, FOLDER, root)
    assert names(root) == []
    assert not list(archive.parent.rglob("out.png"))


def test_an_unpacking_that_breaks_off_leaves_nothing(archive: Path, root: Path) -> None:
    archive.write_bytes(ZIP.replace(b"second photo", b"sEcond photo"))
    with pytest.raises(ValueError, match=r"a\.zip: .*CRC.*0002x2\.png"):
        unpack(archive, FOLDER, root)
    assert names(root) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", ZIP[:100], ZIP[:-30]],
    ids=["empty", "a page", "beginning", "no end"],  # not the bytes, which hold the time
)
def test_damaged_zips_are_named(archive: Path, root: Path, content: bytes) -> None:
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip: not a zip file, or damaged"):
        unpack(archive, FOLDER, root)
    assert names(root) == []


def test_no_damage_of_a_byte_escapes(archive: Path, root: Path) -> None:
    for position in range(len(ZIP)):
        damaged = bytearray(ZIP)
        damaged[position] ^= 0xFF
        archive.write_bytes(damaged)
        try:
            unpack(archive, FOLDER, root / str(position))
        except ValueError as error:
            assert "a.zip" in str(error)  # noqa: PT017
            assert not (root / str(position) / FOLDER).exists()
        else:  # of those there are: times, permissions, the text file
            for name, content in PHOTOS.items():
                unpacked = root / str(position) / name
                assert not unpacked.exists() or unpacked.read_bytes() == content


def test_leftovers_of_dead_runs_go(archive: Path, root: Path) -> None:
    (root / ".DIV2K_train_LR_bicubic_X2.123" / FOLDER).mkdir(parents=True)
    (root / f".DIV2K_train_LR_bicubic_X2.{os.getpid()}" / FOLDER).mkdir(parents=True)
    (root / ".DIV2K_train_LR_bicubic_X3.123").mkdir()
    unpack(archive, FOLDER, root)
    assert names(root) == sorted([".DIV2K_train_LR_bicubic_X3.123", *UNPACKED])


def test_two_processes_do_not_unpack_one_archive(archive: Path, root: Path) -> None:
    with open(archive, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"a\.zip: in use by another process"):
            unpack(archive, FOLDER, root)


def test_an_archive_too_big_for_the_disk_is_not_begun(archive: Path, small_disk: Path) -> None:
    archive.write_bytes(zip_of({f"{FOLDER}/{k}.png": BODY for k in range(20)}))
    with pytest.raises(ValueError, match=r"a\.zip needs 2\.00 MB, and 1\.05 MB are free"):
        unpack(archive, FOLDER, small_disk)
    assert names(small_disk) == []


def test_a_disk_that_fills_up_keeps_nothing_unpacked(archive: Path, small_disk: Path) -> None:
    # 300 files of a byte take 300 pages of 4096 bytes, which the check before cannot know.
    archive.write_bytes(zip_of({f"{FOLDER}/{k}.png": b"." for k in range(300)}))
    with pytest.raises(ValueError, match=r"disk: No space left on device while unpacking .*a\.zip"):
        unpack(archive, FOLDER, small_disk)
    assert names(small_disk) == []


@pytest.fixture
def remote(server: Server) -> Archive:
    server.body = ZIP
    return Archive(server.url, hashlib.md5(ZIP).hexdigest(), FOLDER, len(ZIP))


def test_fetching_once(server: Server, remote: Archive, root: Path) -> None:
    fetch(remote, root)
    assert names(root) == UNPACKED
    fetch(remote, root)
    assert server.ranges == [None]


def test_fetching_can_keep_the_archive(remote: Archive, root: Path) -> None:
    fetch(remote, root, keep=True)
    assert names(root) == [*UNPACKED, "a.zip"]


def test_an_archive_put_there_by_hand_is_used_and_stays(
    server: Server, remote: Archive, archive: Path
) -> None:
    fetch(remote, archive.parent)
    assert names(archive.parent) == [*UNPACKED, "a.zip"]
    assert server.ranges == []


def test_fetching_goes_on_after_a_cut(server: Server, remote: Archive, root: Path) -> None:
    server.script = [Answer(cut=100)]
    with pytest.raises(ValueError, match="the same command goes on"):
        fetch(remote, root, retries=0)
    assert names(root) == ["a.zip.part"]
    fetch(remote, root)
    assert names(root) == UNPACKED
    assert server.ranges == [None, "bytes=100-"]


def test_bars_are_for_terminals_only(
    remote: Archive, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(remote, root / "silent")
    assert capsys.readouterr() == ("", "")
    rich.reconfigure(force_terminal=True)
    try:
        fetch(remote, root / "terminal")
    finally:
        rich.reconfigure()
    shown = capsys.readouterr().out
    assert "a.zip" in shown
    assert "unpacking a.zip" in shown
