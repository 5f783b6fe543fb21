"""Pack photos into a binary store, and check whether a store matches its source files."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from datamodules.listing import list_problems
from datamodules.store import (
    DTYPES,
    FORMAT,
    HEADER,
    NAME_ENCODING,
    Image,
    PackedImages,
    Shard,
    Source,
)
from system.files import file_sha256, replacing
from system.locks import locked
from system.workers import map_parallel, num_workers_for

log = logging.getLogger(__name__)

TIME_GRAIN = 2 * 10**9  # ns; file systems store times in steps of up to two seconds (FAT)


class BadImages(ValueError):
    """Raised if image files cannot be used; names all of them."""


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
    """Open a store, after writing the files that are missing or out of date.

    Args:
        folder: folder for the stores of these photos.
        label: start of the name of the store's folder, followed by a hash of recipe and key.
        sources: the image files.
        make: reads a file and returns the image to store; a dataclass whose fields are the recipe.
        per_shard: images per file of the store.
        what: description of the images, for messages.
        limit: open only the first `limit` images; they are part of the same store.
        key: distinguishes stores with the same recipe that must not replace each other.
        num_workers: number of packing processes; chosen by the amount of work if None.
        reread: compare the content of all sources, even if their stamps are unchanged.

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
    found = [load_current(*job, reread=reread) for job in jobs]
    if None in found:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(folder, wait=True))
            except OSError as error:
                raise ValueError(
                    f"{folder}: cannot be written ({error.strerror}); data.store=FOLDER puts the "
                    "binary store elsewhere"
                ) from error
            stale = [job for job in jobs if load_current(*job, reread=reread) is None]
            if stale:
                write_shards(folder, stale, make, recipe, what, num_workers)
            found = [Shard(shard) for shard in shards]
    if limit is None:  # delete files from when there were more images
        for path in set(folder.glob("[0-9]*.safetensors")) - set(shards):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return PackedImages([index for index in found if index is not None], len(used))


def load_current(shard: Path, group: Sequence[Source], *, reread: bool = False) -> "Shard | None":
    """Load the index of a file if its first images were made from exactly these sources."""
    if not shard.exists():
        return None
    try:
        index = Shard(shard)
    except ValueError:
        return None
    num = len(group)
    if index.names[:num].tolist() != [source.name for source in group]:
        return None
    began, now = time.time_ns(), stat_sources(group)
    stamps, taken = index.stamps()
    stamps = stamps[:num]
    if (now[:, 0] != stamps[:, 0]).any():
        return None  # the size of a file has changed
    newest = now[:, 1:3].max(axis=1, initial=0)
    doubtful = reread | (now != stamps).any(axis=1) | (newest > taken - TIME_GRAIN)
    doubts = np.flatnonzero(doubtful)
    hashes = index.arrays["sha256"]
    try:
        if any(file_sha256(group[k].path) != hashes[k].tobytes().hex() for k in doubts.tolist()):
            return None
    except OSError:  # a source that cannot be read
        return None
    if len(doubts) and num == len(index.names):
        index.save_stamps(now, began)
    return index


def stat_sources(group: Sequence[Source]) -> NDArray[np.int64]:
    """Return size, mtime, ctime and inode of each file, N x 4; zeros if a file is missing."""

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
    """Write files of a store in parallel, continuing past images that cannot be read.

    Raises:
        BadImages: listing every image that cannot be read.
        ValueError: if the disk is full.
    """
    for path in folder.glob(".part-*"):  # left behind by killed processes
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
        raise BadImages(list_problems(f"of the {what} cannot be used", bad, len(bad)))


def write_shard(
    job: tuple[Path, Sequence[Source]], *, make: Callable[[Source], Image], recipe: str
) -> list[str]:
    """Write one file of a store unless an image cannot be read.

    Returns:
        The problems with images; the file was written if there are none.
    """
    target, group = job
    # Taken before reading, so that a later change of a source makes the file out of date.
    began, stamps = time.time_ns(), stat_sources(group)
    try:
        with replacing(target) as temporary:
            with open(temporary, "wb") as file:
                write_content(file, group, stamps, make, recipe)
                file.flush()
                os.fsync(file.fileno())
            os.utime(temporary, ns=(began, began))  # the time of the stamps
            for old in target.parent.glob(f"{target.stem}-*.stamps.npy"):
                old.unlink(missing_ok=True)
    except BadImages as error:
        return list(error.args)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free / 1e9
        raise ValueError(
            f"{target}: {error.strerror}; {free:.1f} GB are free; what is "
            "packed so far is kept, and data.store=FOLDER puts a store elsewhere"
        ) from error
    return []


def write_content(
    file: BinaryIO,
    group: Sequence[Source],
    stamps: NDArray[np.int64],
    make: Callable[[Source], Image],
    recipe: str,
) -> None:
    """Write the pixels of all images, the index after them, and the header before them.

    Raises:
        BadImages: with a problem for each image that cannot be read.
    """
    problems, offsets, sizes, hashes = [], [], [], []
    checksum = hashlib.sha256()

    def write(content: bytes | memoryview) -> None:
        file.write(content)
        checksum.update(content)

    file.seek(HEADER)
    for source in group:
        try:
            image = np.ascontiguousarray(make(source))
            hashes.append(bytes.fromhex(file_sha256(source.path)))
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        offsets.append(file.tell() - HEADER)
        sizes.append(image.shape[:2])
        write(image.data)
    if problems:
        raise BadImages(*problems)
    write(bytes(-file.tell() % 8))  # aligns the index
    num_pixels = file.tell() - HEADER
    names = np.array([source.name.encode(*NAME_ENCODING) for source in group])
    arrays: dict[str, NDArray[np.integer]] = {  # in the order of `INDEX_ARRAYS`
        "offsets": np.array(offsets, np.int64),
        "sizes": np.array(sizes, np.int32),
        "names": names.view(np.uint8).reshape(len(names), -1),
        "sources": stamps,
        "sha256": np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32),
    }
    pixels = {"dtype": "U8", "shape": [num_pixels], "data_offsets": [0, num_pixels]}
    header: dict[str, object] = {"__metadata__": {}, "pixels": pixels}
    for name, array in arrays.items():
        start = file.tell() - HEADER
        write(array.tobytes())
        ends = [start, file.tell() - HEADER]
        dtype = DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": ends}
    header["__metadata__"] = {"recipe": recipe, "sha256": checksum.hexdigest()}
    text = json.dumps(header).encode().ljust(HEADER - 8)  # safetensors allows spaces at the end
    assert len(text) == HEADER - 8, "the recipe is too long"
    file.seek(0)
    file.write(len(text).to_bytes(8, "little") + text)
