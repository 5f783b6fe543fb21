"""Store uploads and results in a folder, with limits on their age and total size.

Each job has a folder whose random name is its token: anyone who knows it can see the job. Paths are
never built from unchecked requests: tokens must have the right format, and file names are looked up
in result.json.
"""

import math
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from system.json_files import write_json
from web.schema import JobResult

TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
UPLOAD_SECONDS = 3600  # after which uploads that no job uses are deleted
UPLOAD_SHARE = 0.25  # of the disk space, so that uploads cannot displace all results
MAX_WAITING = 1000  # uploads that no job uses; few enough to check quickly
BLOCK = 4096  # bytes of disk space that the smallest file takes
UNFINISHED = ("waiting", "working")
MARK = ".serve"  # marks folders that this program may clear


class FullError(ValueError):
    """Raised if there is no room left."""


class Store:
    """Uploads and results on disk.

    Args:
        folder: created if necessary, accessible only to its owner.
        max_bytes: limit on its size; the oldest results are deleted to make room for new ones.
        keep_seconds: age at which results are deleted.
    """

    def __init__(self, folder: Path, *, max_bytes: float, keep_seconds: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.keep_seconds = keep_seconds
        self.uploads = folder / "uploads"  # cannot be a token, since it is shorter
        self.lock = threading.RLock()
        if not is_ours(folder):
            raise ValueError(f"{folder}: contains other files; serve needs a folder to itself")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
        folder.chmod(0o700)
        self.remove_uploads()
        self.uploads.mkdir()
        for job in self.jobs():
            result = self.result(job)
            if result is None:  # the job was never started
                remove(job)
            elif result.state in UNFINISHED:
                ended = {"state": "interrupted", "now": "", "seconds_left": None}
                write_json(job / "result.json", result.model_dump(mode="json") | ended)

    def remove_uploads(self) -> None:
        """Delete all uploads, when the server starts and when it ends."""
        remove(self.uploads)

    def jobs(self) -> Iterator[Path]:
        """Yield the folders of all jobs."""
        for path in self.folder.iterdir():
            if TOKEN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path

    def create(self) -> Path:
        """Create a folder for a new job."""
        job = self.folder / secrets.token_urlsafe(16)
        job.mkdir(mode=0o700)
        return job

    def find(self, token: str) -> Path | None:
        """Return a job's folder, or None if the token is invalid or the job has expired."""
        if not TOKEN.fullmatch(token):
            return None
        job = self.folder / token
        if not job.is_dir() or job.is_symlink() or self.expires(job) < time.time():
            return None
        return job

    def result(self, job: Path) -> JobResult | None:
        """Return the content of a job's result.json, or None if it is missing or damaged."""
        try:
            return JobResult.model_validate_json((job / "result.json").read_bytes())
        except (OSError, ValueError):
            return None

    def expires(self, job: Path) -> float:
        """Return when a job expires, in seconds since 1970."""
        return self.created(job) + self.keep_seconds

    def created(self, job: Path) -> float:
        """Return when a job was created; now, if it is just being created or deleted."""
        result = self.result(job)
        return time.time() if result is None else result.created.timestamp()

    def remove_job(self, job: Path) -> None:
        """Delete a job's results."""
        with self.lock:
            remove(job)

    def new_upload(self) -> Path:
        """Return a new random path for an upload.

        Raises:
            FullError: if waiting uploads take too much room.
        """
        if not self.has_room():
            raise FullError("Too many uploads are waiting; please try again later.")
        return self.uploads / secrets.token_urlsafe(16)

    def has_room(self, *sizes: int) -> bool:
        """Return whether there is room for further uploads of these sizes in bytes."""
        counted = [*map(length, self.uploads.iterdir()), *sizes]
        blocks = sum(max(1, math.ceil(size / BLOCK)) for size in counted)
        return blocks * BLOCK <= UPLOAD_SHARE * self.max_bytes and len(counted) <= MAX_WAITING

    def find_upload(self, name: str) -> Path | None:
        """Return the path of a complete upload, or None."""
        path = self.uploads / name
        return path if TOKEN.fullmatch(name) and path.is_file() and not path.is_symlink() else None

    def clean(self, busy: set[str]) -> None:
        """Delete expired files, and the oldest results if they take too much room.

        Files of `busy` tokens and uploads are kept.

        Raises:
            FullError: if unfinished jobs alone take too much room.
        """
        with self.lock:
            now = time.time()
            for path in self.uploads.iterdir():
                if path.name not in busy and changed(path) < now - UPLOAD_SECONDS:
                    remove(path)
            finished = [job for job in self.jobs() if job.name not in busy]
            for job in finished:
                if self.expires(job) < now:
                    remove(job)
            finished = sorted((job for job in finished if job.exists()), key=self.created)
            room = (1 - UPLOAD_SHARE) * self.max_bytes
            total = sum(size_of(job) for job in self.jobs())
            if total - sum(map(size_of, finished)) > room:  # deleting results would not help
                raise FullError(
                    f"The results would exceed the {room / 1e9:.3g} GB that this server keeps. "
                    "Fewer photos or models may fit."
                )
            while total > room:
                oldest = finished.pop(0)
                total -= size_of(oldest)
                remove(oldest)


def is_ours(folder: Path) -> bool:
    """Return whether this program may clear a folder: it is marked, empty or missing."""
    if not folder.exists():
        return True
    # The lock file is created before the store.
    return {path.name for path in folder.iterdir()} <= {".lock"} or (folder / MARK).is_file()


def length(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it was deleted meanwhile."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def changed(path: Path) -> float:
    """Return when a file was last written, in seconds since 1970; now if it no longer exists."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def size_of(path: Path) -> int:
    """Return the total size in bytes of all files in a folder, without following links."""
    return sum(length(file) for file in path.rglob("*") if not file.is_dir())


def remove(path: Path) -> None:
    """Delete a file, a link (but not its target) or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
