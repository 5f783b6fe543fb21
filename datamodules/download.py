"""Archives from the web: resumed where they were cut, checked, unpacked whole or not at all."""

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from rich.progress import DownloadColumn, MofNCompleteColumn, TransferSpeedColumn

from system.progress import progress_bar
from system.regular_files import open_regular

log = logging.getLogger(__name__)

USER_AGENT = "neural-image-enhancement"  # some servers turn Python's own away
SCHEMES = ("http", "https")
MAX_BYTES = 5 * 10**9  # of a file whose size is not known; the largest archive of DIV2K has 3.5 GB
CHUNK = 1 << 18  # bytes read at most at once: more than a socket ever holds ready


class Archive(NamedTuple):
    """A zip file on a server.

    Args:
        url: http or https.
        md5: of the zip file, as lowercase hex digits.
        folder: what it unpacks to, relative to the root, as in `DIV2K_train_LR_bicubic/X2`.
        size: bytes of the zip file, where known.
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
    """Downloads an archive and unpacks its folder below `root`, unless something is there already.

    Args:
        archive: what to get.
        root: gets `archive.folder` and, for the time being, the zip file.
        keep: leaves the zip file. One that was there before is left in any case: whoever put it
            there may have no other copy.
        options: of `download`.

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
    """Downloads a file, going on from the `.part` file that an earlier attempt left beside it.

    A target that is there and has the right MD5 is taken as it is, without any network.

    Args:
        url: http or https.
        target: where the whole and checked file appears.
        md5: what it must have, as lowercase hex digits.
        size: bytes, for servers that do not say.
        retries: after a cut connection, in a row without a new byte.
        wait: seconds before the first retry; doubles with each.
        timeout: seconds that a server may be silent.

    Raises:
        ValueError: if there is no connection, the server refuses or gives up, the disk is too
            small, or the size or the checksum is wrong. What has arrived is kept, except after a
            wrong size or checksum.
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
    """What has arrived of a file, with its running MD5.

    Args:
        path: for messages.
        file: open for reading and appending, unbuffered: after a full disk nothing is left to
            write when it is closed.
        known: bytes of the whole file, None where not known.
    """

    def __init__(self, path: Path, file: FileIO, known: int | None) -> None:
        self.path = path
        self.file = file
        self.known = known
        self.total = known  # or what the server says
        file.seek(0)
        self.digest = hashlib.file_digest(file, new_md5)
        self.size = file.tell()

    @property
    def md5(self) -> str:
        """Of the bytes that are there."""
        return self.digest.hexdigest()

    @property
    def extent(self) -> str:
        """How much of the file is there, in words."""
        return f"{amount(self.size)} of {'?' if self.total is None else amount(self.total)}"

    def write(self, chunk: bytes) -> None:
        """Appends.

        Raises:
            ValueError: if the disk is full or fails.
        """
        try:
            rest = memoryview(chunk)
            while rest:  # an almost full disk takes a piece
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise ValueError(
                f"{self.path.parent}: {error.strerror} after {self.extent}; {self.path.name} is "
                "kept, and the same command goes on from there once it can be written"
            ) from error
        self.digest.update(chunk)
        self.size += len(chunk)

    def expect(self, total: int | None, url: str) -> None:
        """Take note of how many bytes a server says that the whole file has.

        Raises:
            ValueError: if they are not as many as the caller knows, or too many.
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
        """Drops what is there."""
        self.file.truncate(0)
        self.digest = new_md5()
        self.size = 0


@contextlib.contextmanager
def open_part(target: Path, total: int | None) -> Iterator[Part]:
    """Open the unfinished file of a target, and remove it at the end if it is empty.

    Raises:
        ValueError: if it is a link or not a plain file: another file would be written.
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
        lock(file, path)
        part = Part(path, file, total)
        try:
            yield part
        finally:
            if not part.size:
                path.unlink(missing_ok=True)


def complete(
    url: str, target: Path, part: Part, *, retries: int, wait: float, timeout: float
) -> None:
    """Requests what a part lacks, again and again as long as that gets anywhere."""
    bar = progress_bar(DownloadColumn(), TransferSpeedColumn())
    by_hand = f"or put the file at {target} by hand"
    failures, furthest, connected = 0, part.size, False
    with bar:
        task = bar.add_task(target.name, total=part.total, completed=part.size)
        while True:
            try:
                for _ in receive(url, part, timeout):
                    bar.update(task, total=part.total, completed=part.size)
                return
            except urllib.error.HTTPError as error:
                error.close()
                reason = f"HTTP status {error.code} ({error.reason})"
                connected = True
                if error.code == 416 and part.size:  # nothing there: the part is too long
                    part.restart()
                    continue
                if error.code < 500 and error.code not in (408, 429):  # not "later, please"
                    raise ValueError(f"{url}: {reason}") from error
            except urllib.error.URLError as error:
                reason = f"no connection ({error.reason})"
                # A known host that does not answer may come back. No such host, no network and no
                # valid certificate stay so, unless it has worked a moment ago.
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
    """Appends what one connection gives, and yields now and then.

    Raises:
        ValueError: if the size is not the expected one, or the rest does not fit on the disk.
        OSError: if the connection fails or ends too early.
        http.client.HTTPException: likewise.
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
        elif response.status == 200:  # all of it, whether or not a range was asked for
            part.expect(length, url)
            part.restart()
        else:
            raise ValueError(f"{url}: HTTP status {response.status} ({response.reason})")
        if part.total is not None:
            need_space(part.path.parent, part.total - part.size, url)
        while part.total is None or part.size < part.total:
            # Not read(): it drops what it has when the connection breaks off.
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
    """Follows redirections to http and https only; Python's own takes ftp, too."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Make the request for the new address.

        Raises:
            ValueError: if it is neither http nor https.
        """
        if urlsplit(newurl).scheme not in SCHEMES:
            raise ValueError(f"{req.full_url}: redirects to {newurl}, which is not http or https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def content_length(url: str, response: http.client.HTTPResponse) -> int | None:
    """Number of bytes that a response says it has; None if it does not say.

    Raises:
        ValueError: if what it says is not a number of bytes.
    """
    stated = {text.strip() for text in response.headers.get_all("Content-Length", [])}
    if not stated:
        return None
    if len(stated) > 1 or not re.fullmatch(r"\d{1,18}", min(stated), re.ASCII):
        shown = " and ".join(sorted(repr(text[:40]) for text in stated))
        raise ValueError(f"{url}: the server sent a Content-Length of {shown}")
    return int(min(stated))


def unpack(archive: Path, folder: str, root: Path) -> None:
    """Unpacks one folder of a zip file; it appears when it is whole.

    Args:
        archive: the zip file.
        folder: in the zip file, and relative to the root.
        root: gets `folder`, and until then a hidden folder.

    Raises:
        ValueError: if the folder is there already, or not in the archive; if the archive is
            damaged or has members outside of itself; if the disk is full.
    """
    final = root / folder
    if is_taken(final):
        raise ValueError(f"{final} exists: move it away to unpack {archive}")
    root.mkdir(parents=True, exist_ok=True)
    name = f".{folder.replace('/', '_')}."
    temporary = root / f"{name}{os.getpid()}"
    with open(archive, "rb") as file:
        lock(file, archive)
        for path in root.iterdir():  # nobody else unpacks this archive, so they are of dead runs
            if re.fullmatch(re.escape(name) + r"\d+", path.name):
                shutil.rmtree(path)
        try:
            with zipfile.ZipFile(file) as zipped:
                members = members_of(zipped, archive, folder)
                need_space(root, sum(member.file_size for member in members), archive)
                extract(zipped, archive, members, temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            os.rename(temporary / folder, final)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(f"{archive}: not a zip file, or damaged ({error})") from error
        except OSError as error:
            reason = error.strerror or error
            raise ValueError(f"{root}: {reason} while unpacking {archive}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def members_of(zipped: zipfile.ZipFile, archive: Path, folder: str) -> list[zipfile.ZipInfo]:
    """The files of a folder in a zip file.

    Raises:
        ValueError: if there are none, or any member of the archive would leave its folder.
    """
    paths = [PurePosixPath(name) for name in zipped.namelist()]
    for path in paths:
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive}: holds {path}, which would leave its folder")
    wanted = PurePosixPath(folder)
    members = zipped.infolist()
    found = [
        member
        for member, path in zip(members, paths, strict=True)
        if wanted in path.parents and not member.is_dir()
    ]
    if not found:
        depth = len(wanted.parts)
        held = sorted({"/".join(path.parts[:depth]) for path in paths}) or ["nothing"]
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        raise ValueError(f"{archive}: has no folder {folder}; it holds {', '.join(held[:5])}{more}")
    return found


def extract(
    zipped: zipfile.ZipFile, archive: Path, members: Sequence[zipfile.ZipInfo], where: Path
) -> None:
    """Extracts members under a progress bar.

    Raises:
        ValueError: naming a member that is damaged or of an unknown kind.
        zipfile.BadZipFile: likewise.
        OSError: if the disk is full or fails.
    """
    with progress_bar(MofNCompleteColumn()) as bar:
        for member in bar.track(members, description=f"unpacking {archive.name}"):
            try:
                zipped.extract(member, where)
            except (zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
                raise ValueError(f"{archive}: cannot unpack {member.filename} ({error})") from error


def is_taken(folder: Path) -> bool:
    """Whether there is anything but an empty folder."""
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def lock(file: IO[bytes], path: Path) -> None:
    """Holds an open file against a second process until it is closed.

    Raises:
        ValueError: if another process holds it, or has just finished with it and taken it away.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = path.exists()
    except BlockingIOError:
        held = False
    except OSError:  # a file system without locks
        held = True
    if not held:
        raise ValueError(f"{path}: another process is busy with it")


def need_space(folder: Path, num_bytes: int, what: str | Path) -> None:
    """Refuses to begin what would fill the disk.

    Raises:
        ValueError: if fewer bytes are free for this user.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder}: {what} needs {amount(num_bytes)}, and {amount(free)} are free there"
        )


def amount(num_bytes: int) -> str:
    """Bytes for people, in powers of 1000 as servers and disks count."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} bytes"


def new_md5() -> "hashlib._Hash":
    """An MD5 that also machines in FIPS mode allow: it finds damage, it is no protection."""
    return hashlib.md5(usedforsecurity=False)
