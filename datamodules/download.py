"""Download files over http and https: resume, retry, limit the size and verify the checksum.

pooch 1.9 was tried and does not fit: a cut download starts over from the first byte, and nothing
bounds how much a server may send.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from rich.progress import DownloadColumn, TransferSpeedColumn

from datamodules.disk import amount, need_space
from datamodules.unpacking import is_taken, unpack
from system.locks import lock
from system.progress import Bar
from system.regular_files import open_regular

log = logging.getLogger(__name__)

USER_AGENT = "neural-image-enhancement"  # some servers reject Python's default
SCHEMES = ("http", "https")
MAX_BYTES = 5 * 10**9  # limit for files of unknown size; the largest DIV2K archive has 3.5 GB
CHUNK = 1 << 18  # bytes read at most at once: more than a socket ever holds ready


class Archive(NamedTuple):
    """Describe a zip file on a server.

    Args:
        url: http or https.
        md5: of the zip file, as lowercase hex digits.
        folder: the folder to unpack, such as `DIV2K_train_LR_bicubic/X2`; its name in the zip file
            and below the root.
        size: bytes of the zip file, if known.
    """

    url: str
    md5: str
    folder: str
    size: int | None = None


def fetch(
    archive: Archive,
    root: Path,
    *,
    keep: bool = False,
    **options: Any,  # noqa: ANN401
) -> None:
    """Download an archive and unpack its folder below `root`, unless that folder has content.

    Args:
        archive: what to get.
        root: where `archive.folder` and, until it is unpacked, the zip file go.
        keep: keep the zip file. One that was there before is always kept: it may be the user's
            only copy.
        options: passed to `download`.

    Raises:
        ValueError: as `download` and `unpack` do.
    """
    if is_taken(root / archive.folder):
        return
    target = root / PurePosixPath(urlsplit(archive.url).path).name
    was_there = target.exists()
    download(archive.url, target, md5=archive.md5, size=archive.size, **options)
    unpack(target, archive.folder, root)
    if not (keep or was_there):
        target.unlink()


def download(
    url: str,
    target: Path,
    *,
    md5: str,
    size: int | None = None,
    retries: int = 5,
    wait: float = 1.0,
    timeout: float = 30.0,
) -> None:
    """Download a file, resuming from the `.part` file of an earlier attempt.

    A target that exists and has the right MD5 is used as it is, without network access.

    Args:
        url: http or https.
        target: where the file appears once it is complete and verified.
        md5: the expected MD5 sum, as lowercase hex digits.
        size: expected bytes, for servers that do not send a length.
        retries: consecutive attempts without a new byte before giving up.
        wait: seconds before the first retry; doubles each time.
        timeout: seconds to wait for a silent server.

    Raises:
        ValueError: if the server cannot be reached or refuses, the disk is too small, or the size
            or the checksum is wrong. The part downloaded so far is kept, unless its size or
            checksum is wrong.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"{url}: only http and https URLs can be downloaded")
    if target.exists():
        with open_regular(target) as file:
            found = hashlib.file_digest(file, new_md5).hexdigest()
        if found != md5:
            raise ValueError(
                f"{target} exists and is not what {url} should hold: its MD5 is {found}, "
                f"expected {md5}; move it away"
            )
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_part(target, size) as part:
        if part.md5 != md5:
            complete(url, target, part, retries=retries, wait=wait, timeout=timeout)
        if part.md5 != md5:
            part.path.unlink()
            raise ValueError(
                f"{url}: the checksum is wrong: MD5 {part.md5} over {amount(part.size)}, "
                f"expected {md5}; the file is removed, and the same command starts again"
            )
        os.replace(part.path, target)


class Part:
    """The part of a file downloaded so far, with its running MD5.

    Args:
        path: for messages.
        file: open for reading and appending; unbuffered, so that closing it on a full disk has
            nothing left to write.
        known: bytes of the whole file, if known.
    """

    def __init__(self, path: Path, file: FileIO, known: int | None) -> None:
        self.path = path
        self.file = file
        self.known = known
        self.total = known  # else what the server states
        file.seek(0)
        self.digest = hashlib.file_digest(file, new_md5)
        self.size = file.tell()

    @property
    def md5(self) -> str:
        """MD5 sum of the bytes downloaded so far."""
        return self.digest.hexdigest()

    @property
    def extent(self) -> str:
        """Describe the progress, such as `1.05 MB of 2.00 MB`."""
        return f"{amount(self.size)} of {'?' if self.total is None else amount(self.total)}"

    def write(self, chunk: bytes) -> None:
        """Append bytes.

        Raises:
            ValueError: if the disk is full or fails.
        """
        try:
            rest = memoryview(chunk)
            while rest:  # an almost full disk accepts only some of it
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise ValueError(
                f"{self.path.parent}: {error.strerror} after {self.extent}; {self.path.name} is "
                "kept, and the same command goes on from there once it can be written"
            ) from error
        self.digest.update(chunk)
        self.size += len(chunk)

    def expect(self, total: int | None, url: str) -> None:
        """Record the size that the server states for the whole file.

        Raises:
            ValueError: if it is not the size the caller expects, or exceeds the limit.
        """
        if total is None:
            return
        if total != (total if self.known is None else self.known):
            raise ValueError(f"{url}: the server has {total} bytes, not {self.known} as expected")
        if self.known is None and total > MAX_BYTES:
            raise ValueError(
                f"{url}: {amount(total)} are more than the {amount(MAX_BYTES)} allowed"
            )
        self.total = total

    def restart(self) -> None:
        """Discard the bytes downloaded so far."""
        self.file.truncate(0)
        self.digest = new_md5()
        self.size = 0


@contextlib.contextmanager
def open_part(target: Path, total: int | None) -> Iterator[Part]:
    """Open the `.part` file of a target; remove it at the end if it is empty.

    Raises:
        ValueError: if it is a link or not a plain file, so that writing would change another file.
    """
    path = target.with_name(f"{target.name}.part")
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise ValueError(
                f"{path} is a link, which is not written through: remove it"
            ) from error
        raise
    with FileIO(descriptor, "ab+") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise ValueError(f"{path} is not a plain file, or has a second name: remove it")
        if not (lock(file) and path.exists()):  # held, or just finished and removed
            raise ValueError(f"{path}: in use by another process")
        part = Part(path, file, total)
        try:
            yield part
        finally:
            if not part.size:
                path.unlink(missing_ok=True)


def complete(
    url: str, target: Path, part: Part, *, retries: int, wait: float, timeout: float
) -> None:
    """Request the rest of a file, retrying as long as attempts make progress."""
    by_hand = f"or put the file at {target} by hand"
    failures, furthest, connected = 0, part.size, False
    columns = DownloadColumn(), TransferSpeedColumn()
    with Bar(target.name, part.total, *columns, done=part.size) as bar:
        while True:
            try:
                for _ in receive(url, part, timeout):
                    bar.update(part.size, part.total)
                return
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"HTTP status {error.code} ({error.reason})"
                connected = True
                if error.code == 416 and part.size:  # the part is longer than the file
                    part.restart()
                    continue
                if error.code < 500 and error.code not in (408, 429):  # not "later, please"
                    raise ValueError(f"{url}: {reason}") from error
            except urllib.error.URLError as error:
                reason = f"no connection ({error.reason})"
                # A host that refuses or times out may recover. An unknown host, no network or an
                # invalid certificate will not, unless the connection worked a moment ago.
                if not (connected or isinstance(error.reason, ConnectionError | TimeoutError)):
                    raise ValueError(f"{url}: {reason}; try again later, {by_hand}") from error
            except (http.client.HTTPException, OSError) as error:
                reason = f"the connection was cut ({error or type(error).__name__})"
                connected = True
            failures = 1 if part.size > furthest else failures + 1
            furthest = max(furthest, part.size)
            if failures > retries:
                raise ValueError(
                    f"{url}: {reason} in attempt {failures} without progress, {part.extent} are "
                    f"there; the same command goes on from there, {by_hand}"
                )
            pause = wait * 2 ** (failures - 1)
            log.warning("%s: %s after %s; again in %g s", url, reason, part.extent, pause)
            time.sleep(pause)


def receive(url: str, part: Part, timeout: float) -> Iterator[None]:
    """Append the bytes of one connection, yielding after each chunk.

    Raises:
        ValueError: if the size is wrong, or the rest does not fit on the disk.
        OSError: if the connection fails or ends too early.
        http.client.HTTPException: if the response is malformed.
    """
    headers = {"User-Agent": USER_AGENT}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    request = urllib.request.Request(url, headers=headers)
    response: http.client.HTTPResponse
    with urllib.request.build_opener(WebRedirects).open(request, timeout=timeout) as response:
        length = content_length(url, response)
        if response.status == 206:
            sent = re.fullmatch(
                r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers["Content-Range"] or "", re.ASCII
            )
            first, last = (int(sent[1]), int(sent[2])) if sent else (-1, -1)
            if sent is None or first != part.size or length not in (None, last - first + 1):
                part.restart()
                raise ConnectionError("the server sent another range than asked for")
            part.expect(None if sent[3] == "*" else int(sent[3]), url)
        elif response.status == 200:  # the whole file, even if a range was requested
            part.expect(length, url)
            part.restart()
        else:
            raise ValueError(f"{url}: HTTP status {response.status} ({response.reason})")
        if part.total is not None:
            need_space(part.path.parent, part.total - part.size, url)
        while part.total is None or part.size < part.total:
            # Not read(), which loses its buffer when the connection breaks.
            rest = CHUNK if part.total is None else part.total - part.size
            chunk = response.read1(min(CHUNK, rest))
            if not chunk:
                break
            part.write(chunk)
            if part.size > MAX_BYTES and part.total is None:
                part.restart()
                raise ValueError(f"{url}: does not end after {amount(MAX_BYTES)}; nothing is kept")
            yield
    if part.total is not None and part.size < part.total:
        raise ConnectionError("it ended too early")


class WebRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to http and https only; Python's default also follows ftp."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request for the new address.

        Raises:
            ValueError: if it is neither http nor https.
        """
        if urlsplit(newurl).scheme not in SCHEMES:
            raise ValueError(f"{req.full_url}: redirects to {newurl}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def content_length(url: str, response: http.client.HTTPResponse) -> int | None:
    """Return the Content-Length of a response, or None if it has none.

    Raises:
        ValueError: if the header is not a number of bytes.
    """
    stated = {text.strip() for text in response.headers.get_all("Content-Length", [])}
    if not stated:
        return None
    if len(stated) > 1 or not re.fullmatch(r"\d{1,18}", min(stated), re.ASCII):
        shown = " and ".join(sorted(repr(text[:40]) for text in stated))
        raise ValueError(f"{url}: the server sent a Content-Length of {shown}")
    return int(min(stated))


def new_md5() -> "hashlib._Hash":
    """Return an MD5 that FIPS mode allows: it detects damage and is not meant as protection."""
    return hashlib.md5(usedforsecurity=False)
