"""Pack photos into a store, and tell whether a store is still true to its sources."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.store import (
    DTYPES,
    FORMAT,
    HEADER,
    INDEX,
    NAMES,
    Image,
    PackedImages,
    Shard,
    Source,
)
from system.files import file_sha256
from system.workers import map_parallel, num_workers_for

log = logging.getLogger(__name__)


GRAIN = 2 * 10**9  # ns; file systems keep times in steps of up to two seconds (FAT)


class BadImages(ValueError):
    """Some image files cannot be used; all are named."""


def pack(
    folder: Path,
    label: str,
    sources: Sequence[Source],
    make: Callable[[Source], Image],
    *,
    per_shard: int,
    what: str,
    limit: int | None = None,
    key: str = "",
    num_workers: int | None = None,
    reread: bool = False,
) -> PackedImages:
    """Opens a store, after writing what is missing or out of date.

    Args:
        folder: where stores of these photos are.
        label: what the store's own folder begins with; a hash of recipe and key follows.
        sources: the image files.
        make: reads a file and makes the image to keep; a dataclass, whose values are the recipe.
        per_shard: images per file.
        what: the images, for messages.
        limit: only the first so many; they are part of the same store.
        key: tells apart stores of one recipe that must not replace each other.
        num_workers: processes that pack; one per core if None and it is worth it.
        reread: compare the content of all sources, whatever their stamps say.

    Raises:
        BadImages: listing every file that cannot be read.
        ValueError: if the disk is full, or the folder cannot be written to.
    """
    assert is_dataclass(make)
    assert not isinstance(make, type)
    values = {"format": FORMAT, "per_shard": per_shard, "make": type(make).__name__, **asdict(make)}
    recipe = json.dumps(values, sort_keys=True)
    folder = folder / f"{label}-{hashlib.sha256(f'{recipe}{key}'.encode()).hexdigest()[:8]}"
    used = sources[:limit]
    groups = [used[k : k + per_shard] for k in range(0, len(used), per_shard)]
    shards = [folder / f"{k:05}.safetensors" for k in range(len(groups))]
    jobs = list(zip(shards, groups, strict=True))
    found = [current(*job, reread=reread) for job in jobs]
    if None in found:
        with locked(folder):
            stale = [job for job in jobs if current(*job, reread=reread) is None]
            if stale:
                write_shards(folder, stale, make, recipe, what, num_workers)
            found = [Shard(shard) for shard in shards]
    if limit is None:  # files of a time when there were more images
        for path in set(folder.glob("[0-9]*.safetensors")) - set(shards):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return PackedImages([index for index in found if index is not None], len(used))


def current(shard: Path, group: Sequence[Source], *, reread: bool = False) -> "Shard | None":
    """A file's index if it begins with these images, made from these very sources."""
    if not shard.exists():
        return None
    try:
        index = Shard(shard)
    except ValueError:
        return None
    num = len(group)
    if index.names[:num].tolist() != [source.name for source in group]:
        return None
    began, now = time.time_ns(), stats(group)
    seen, before = index.stamps()
    seen = seen[:num]
    if (now[:, 0] != seen[:, 0]).any():
        return None  # of another size
    newest = now[:, 1:3].max(axis=1, initial=0)
    doubtful = reread | (now != seen).any(axis=1) | (newest > before - GRAIN)
    doubts = np.flatnonzero(doubtful)
    if not all(is_source(group[k].path, index.arrays["sha256"][k]) for k in doubts.tolist()):
        return None
    if len(doubts) and num == len(index.names):
        index.keep_stamps(now, began)
    return index


def is_source(path: str, sha256: NDArray[np.uint8]) -> bool:
    """Whether a file has this SHA-256."""
    try:
        return bytes.fromhex(file_sha256(path)) == sha256.tobytes()
    except OSError:
        return False


def stats(group: Sequence[Source]) -> NDArray[np.int64]:
    """Size, times of modification and change, and inode of each file; zeros where there is none."""

    def stat(path: str) -> tuple[int, int, int, int]:
        try:
            found = os.stat(path)
        except OSError:
            return 0, 0, 0, 0
        inode = found.st_ino & (2**63 - 1)  # some network file systems use all 64 bits
        return found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode

    return np.array([stat(source.path) for source in group], np.int64).reshape(-1, 4)


def write_shards(
    folder: Path,
    jobs: Sequence[tuple[Path, Sequence[Source]]],
    make: Callable[[Source], Image],
    recipe: str,
    what: str,
    num_workers: int | None,
) -> None:
    """Writes files of a store, in parallel, and goes on past what cannot be read.

    Raises:
        BadImages: listing every image that cannot be read.
        ValueError: if the disk is full.
    """
    for path in folder.glob(".*.safetensors.*"):  # left behind by a process that was killed
        path.unlink()
    log.info("packing %d %s into %s", sum(len(group) for _, group in jobs), what, folder)
    if num_workers is None:
        num_workers = num_workers_for(source.path for _, group in jobs for source in group)
    write = partial(write_shard, make=make, recipe=recipe)
    bad = [
        problem
        for problems in map_parallel(write, jobs, f"packing {what}", num_workers=num_workers)
        for problem in problems
    ]
    if bad:
        raise BadImages("\n  ".join([f"{len(bad)} of the {what} cannot be used:", *bad]))


def write_shard(
    job: tuple[Path, Sequence[Source]], *, make: Callable[[Source], Image], recipe: str
) -> list[str]:
    """Writes one file of a store unless an image cannot be read.

    Returns:
        What is wrong with the images; the file was written if nothing is.
    """
    target, group = job
    temporary = target.with_name(f".{target.name}.{platform.node()}.{os.getpid()}")
    bad, offsets, sizes, hashes = [], [], [], []
    total = hashlib.sha256()
    position = 0
    # Before reading: a change in between makes the file out of date.
    began, sources = time.time_ns(), stats(group)
    try:
        with open(temporary, "wb") as file:
            file.seek(HEADER)
            for source in group:
                try:
                    image = make(source)
                    hashes.append(bytes.fromhex(file_sha256(source.path)))
                except (ValueError, OSError) as error:
                    bad.append(str(error))
                    continue
                content = np.ascontiguousarray(image).data
                file.write(content)
                total.update(content)
                offsets.append(position)
                sizes.append(image.shape[:2])
                position += content.nbytes
            if bad:
                return bad
            padding = bytes(-position % 8)  # the index that follows is aligned
            names = [source.name.encode(*NAMES) for source in group]
            width = max(map(len, names))
            arrays: dict[str, NDArray[Any]] = {
                "offsets": np.array(offsets, np.int64),
                "sources": sources,
                "sizes": np.array(sizes, np.int32),
                "names": np.array(names, f"S{width}").view(np.uint8).reshape(-1, width),
                "sha256": np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
            }
            ordered = {name: arrays[name] for name in INDEX}
            for part in (padding, *(array.tobytes() for array in ordered.values())):
                file.write(part)
                total.update(part)
            file.seek(0)
            file.write(header(position + len(padding), ordered, recipe, total.hexdigest()))
            file.flush()
            os.fsync(file.fileno())
        os.utime(temporary, ns=(began, began))  # when the stamps were taken
        for old in target.parent.glob(f"{target.stem}-*.stamps.npy"):
            old.unlink(missing_ok=True)
        os.replace(temporary, target)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free / 1e9
        raise ValueError(
            f"{target}: cannot be written ({error.strerror}; {free:.1f} GB are free); what is "
            "packed so far is kept, and data.store=FOLDER puts a store elsewhere"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return []


def header(num_pixels: int, arrays: dict[str, NDArray[Any]], recipe: str, sha256: str) -> bytes:
    """The first `HEADER` bytes of a safetensors file: length, JSON, spaces."""
    entries: dict[str, Any] = {"__metadata__": {"recipe": recipe, "sha256": sha256}}
    entries["pixels"] = {"dtype": "U8", "shape": [num_pixels], "data_offsets": [0, num_pixels]}
    end = num_pixels
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        dtype = DTYPES[array.dtype.name]
        entries[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode().ljust(HEADER - 8)
    assert len(text) == HEADER - 8, "the recipe is too long"
    return len(text).to_bytes(8, "little") + text


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process packs into a folder, and keeps others out.

    Raises:
        ValueError: if the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  # closing it ends the lock
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written ({error.strerror}); data.store=FOLDER puts the binary "
            "store elsewhere"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process that packs into %s", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield
