"""The folder of uploads and results: random names, an age, and a size that it never exceeds.

Each job has a folder whose name, the token, is the right to see it. Nothing that a request names is
ever joined to a path: a token has to have the form of one, and files are looked up in result.json.
"""

import datetime
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runs.run_folder import read_json
from system.json_files import write_json

TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
UPLOAD_SECONDS = 3600  # uploads that no job has taken by then are removed
UPLOAD_SHARE = 0.25  # of the room, so that uploads alone cannot push results out
MAX_WAITING = 1000  # uploads that no job has taken: looking for room stays fast
BLOCK = 4096  # bytes of the disk that the smallest file takes
UNFINISHED = ("waiting", "working")
MARK = ".serve"  # is in folders that are this program's to clear


class FullError(ValueError):
    """There is no room left."""


class Store:
    """Uploads and results on disk.

    Args:
        folder: is created, readable for its owner only.
        max_bytes: of everything in it; the oldest results make room for new ones.
        keep_seconds: age at which results are removed.
    """

    def __init__(self, folder: Path, *, max_bytes: float, keep_seconds: float) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.keep_seconds = keep_seconds
        self.uploads = folder / "uploads"  # shorter than a token, so that it is none
        self.lock = threading.RLock()
        if not is_ours(folder):
            raise ValueError(f"{folder}: holds other files; serve needs a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
        folder.chmod(0o700)
        self.remove_uploads()
        self.uploads.mkdir()
        for job in self.jobs():
            result = self.result(job)
            if result is None:  # no job gets that far without one
                remove(job)
            elif result["state"] in UNFINISHED:
                ended = {"state": "interrupted", "now": "", "seconds_left": None}
                write_json(job / "result.json", result | ended)

    def remove_uploads(self) -> None:
        """Remove all uploads, when the server begins and when it ends."""
        remove(self.uploads)

    def jobs(self) -> Iterator[Path]:
        """Folders of jobs."""
        for path in self.folder.iterdir():
            if TOKEN.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path

    def create(self) -> Path:
        """A new job's folder."""
        job = self.folder / secrets.token_urlsafe(16)
        job.mkdir(mode=0o700)
        return job

    def find(self, token: str) -> Path | None:
        """A job's folder; None for what is no token, and for what has expired."""
        if not TOKEN.fullmatch(token):
            return None
        job = self.folder / token
        if not job.is_dir() or job.is_symlink() or self.expires(job) < time.time():
            return None
        return job

    def result(self, job: Path) -> dict[str, Any] | None:
        """A job's result.json; None where there is none, or a damaged one."""
        try:
            found = read_json(job / "result.json")
            if found is None or not {"state", "photos"} <= found.keys():
                return None
            datetime.datetime.fromisoformat(found["created"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found

    def expires(self, job: Path) -> float:
        """When a job's results are removed, in seconds since 1970."""
        return self.created(job) + self.keep_seconds

    def created(self, job: Path) -> float:
        """When a job was asked for; of one that is just being created or deleted, now."""
        result = self.result(job)
        if result is None:
            return time.time()
        return datetime.datetime.fromisoformat(result["created"]).timestamp()

    def remove_job(self, job: Path) -> None:
        """Removes a job's results."""
        with self.lock:
            remove(job)

    def new_upload(self) -> Path:
        """Where an upload goes.

        Raises:
            FullError: if those that wait take too much room.
        """
        if not self.has_room():
            raise FullError("Too many uploads are waiting here; please try again later.")
        return self.uploads / secrets.token_urlsafe(16)

    def has_room(self, *sizes: int) -> bool:
        """Whether there is room for uploads of these many bytes beside those that wait."""
        counted = [on_disk(size) for size in (*map(length, self.uploads.iterdir()), *sizes)]
        return sum(counted) <= UPLOAD_SHARE * self.max_bytes and len(counted) <= MAX_WAITING

    def find_upload(self, name: str) -> Path | None:
        """An upload that is complete."""
        path = self.uploads / name
        return path if TOKEN.fullmatch(name) and path.is_file() and not path.is_symlink() else None

    def clean(self, busy: set[str]) -> None:
        """Removes what is too old, and the oldest results where there is too much.

        Args:
            busy: tokens and uploads of the jobs that are not finished.

        Raises:
            FullError: if that does not help: what is left belongs to jobs that are not finished.
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
            if total - sum(map(size_of, finished)) > room:  # removing others' would not help
                raise FullError(
                    f"The results would exceed the {room / 1e9:.3g} GB that this server keeps. "
                    "Fewer photos or models may fit."
                )
            while total > room:
                oldest = finished.pop(0)
                total -= size_of(oldest)
                remove(oldest)


def is_ours(folder: Path) -> bool:
    """Whether a folder is this program's to clear: marked, empty or not there yet."""
    if not folder.exists():
        return True
    # The lock is taken before the store is made.
    return {path.name for path in folder.iterdir()} <= {".lock"} or (folder / MARK).is_file()


def on_disk(size: int) -> int:
    """Bytes of the disk that a file of some bytes takes."""
    return max(1, -(-size // BLOCK)) * BLOCK


def length(path: Path) -> int:
    """Bytes of a file; 0 if it was removed meanwhile."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def changed(path: Path) -> float:
    """When a file was last written, in seconds since 1970; now if it was removed meanwhile."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def size_of(path: Path) -> int:
    """Bytes of all files in a folder, at any depth; links count as themselves."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # removed meanwhile
                continue
    return total


def remove(path: Path) -> None:
    """Removes a file, a link (never what it points to) or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
