"""Pack photos into a binary store, and check whether a store matches its source files."""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.listing import list_problems
from datamodules.shard_writer import ShardWriter
from datamodules.store import FORMAT, Image, PackedImages, Shard, Source
from images.reading import read_image
from system.files import file_sha256
from system.locks import locked
from system.workers import map_parallel

log = logging.getLogger(__name__)

# Photos in smaller files take longer in several threads, which wait for Python's lock in between.
MIN_BYTES_FOR_THREADS = 30_000
TIME_GRAIN = 2 * 10**9  # ns; file systems store times in steps of up to two seconds (FAT)


class BadImages(ValueError):
    """Raised if image files cannot be used; names all of them."""


class Photo:
    """A photo to make images from; it is decoded once, however many stores ask for its pixels."""

    def __init__(self, source: Source) -> None:
        self.name, self.path = source

    @cached_property
    def pixels(self) -> Tensor:
        """Decode the file: 3 x H x W, uint8."""
        return read_image(self.path)


Make = Callable[[Photo], Image]


@dataclass(frozen=True)
class Order:
    """A store to open: of which photos, and how its images are made from them.

    Args:
        label: start of the name of the store's folder, followed by a hash of recipe and key.
        sources: the image files.
        make: returns the image to store of a photo; a dataclass whose fields are the recipe.
        what: description of the images, for messages.
        key: distinguishes stores with the same recipe that must not replace each other.
    """

    label: str
    sources: Sequence[Source]
    make: Make
    what: str
    key: str = ""

    def recipe(self, per_shard: int) -> str:
        """Return what the content of the store is a function of, as JSON."""
        assert is_dataclass(self.make)
        assert not isinstance(self.make, type)
        values = {"format": FORMAT, "per_shard": per_shard, "make": type(self.make).__name__}
        return json.dumps(values | asdict(self.make), sort_keys=True)


class Job(NamedTuple):
    """A file of a store: its path, the images in it, and how they are made."""

    path: Path
    group: tuple[Source, ...]
    order: Order
    recipe: str


def pack(
    folder: Path,
    orders: Sequence[Order],
    *,
    per_shard: int,
    limit: int | None = None,
    num_workers: int | None = None,
    reread: bool = False,
) -> list[PackedImages]:
    """Open stores, after writing the files that are missing or out of date.

    Args:
        folder: folder for the stores of these photos.
        orders: the stores.
        per_shard: images per file of a store.
        limit: open only the first `limit` images; they are part of the same store.
        num_workers: number of packing threads; by default, one per core if photos are not tiny.
        reread: compare the content of all sources, even if their stamps are unchanged.

    Raises:
        BadImages: listing every file that cannot be read.
        ValueError: if the disk is full, or the folder cannot be written to.
    """
    stores = [list_jobs(folder, order, per_shard, limit) for order in orders]
    found = [[load_current(job, reread=reread) for job in jobs] for jobs in stores]
    missing = [k for k, shards in enumerate(found) if None in shards]
    if missing:
        with contextlib.ExitStack() as held:
            for place in sorted({stores[k][0].path.parent for k in missing}):
                try:
                    held.enter_context(locked(place, wait=True))
                except OSError as error:
                    raise ValueError(
                        f"{place}: cannot be written ({error.strerror}); data.store=FOLDER puts "
                        "the binary store elsewhere"
                    ) from error
            # By path, because the same store may be asked for twice.
            needed = {job.path: job for k in missing for job in stores[k]}
            stale = [job for job in needed.values() if load_current(job, reread=reread) is None]
            if stale:
                write_shards(stale, num_workers)
            for k in missing:
                found[k] = [Shard(job.path) for job in stores[k]]
    if limit is None:
        for jobs in stores:
            remove_superfluous(jobs)
    num = [len(order.sources[:limit]) for order in orders]
    return [
        PackedImages([shard for shard in shards if shard is not None], num_images)
        for shards, num_images in zip(found, num, strict=True)
    ]


def list_jobs(folder: Path, order: Order, per_shard: int, limit: int | None) -> list[Job]:
    """List the files of a store that hold its first `limit` images."""
    recipe, used = order.recipe(per_shard), order.sources[:limit]
    digest = hashlib.sha256(f"{recipe}{order.key}".encode()).hexdigest()
    place = folder / f"{order.label}-{digest[:8]}"
    groups = [tuple(used[k : k + per_shard]) for k in range(0, len(used), per_shard)]
    return [
        Job(place / f"{k:05}.safetensors", group, order, recipe) for k, group in enumerate(groups)
    ]


def remove_superfluous(jobs: Sequence[Job]) -> None:
    """Delete the files of a store from when there were more images."""
    known = {job.path for job in jobs}
    for path in set(jobs[0].path.parent.glob("[0-9]*.safetensors")) - known:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def load_current(job: Job, *, reread: bool = False) -> Shard | None:
    """Load the index of a file if its first images were made from exactly these sources."""
    if not job.path.exists():
        return None
    try:
        index = Shard(job.path)
    except ValueError:
        return None
    group, num = job.group, len(job.group)
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


class Made(NamedTuple):
    """The images of all stores made from a photo, or the problem with each; its stamp and hash."""

    images: list[Image | str]
    stamp: NDArray[np.int64]
    sha256: bytes


def make_images(work: tuple[Source, Sequence[Make]]) -> Made:
    """Read a photo and make the images of all stores from it."""
    source, makes = work
    # Taken before reading, so that a later change of the source makes the file out of date.
    stamp = stat_sources([source])[0]
    photo = Photo(source)
    images: list[Image | str] = []
    for make in makes:
        try:
            images.append(np.ascontiguousarray(make(photo)))
        except (ValueError, OSError) as error:
            images.append(str(error))
    try:
        return Made(images, stamp, bytes.fromhex(file_sha256(source.path)))
    except OSError as error:
        return Made([str(error)] * len(makes), stamp, b"")


def write_shards(jobs: Sequence[Job], num_workers: int | None) -> None:
    """Write files of stores, continuing past images that cannot be read.

    Files of the same photos are written together, so that each photo is read once.

    Raises:
        BadImages: listing every image that cannot be read.
        ValueError: if the disk is full.
    """
    began = time.time_ns()
    together: dict[tuple[Source, ...], list[Job]] = {}
    num_images: Counter[tuple[Path, str]] = Counter()
    for job in jobs:
        together.setdefault(job.group, []).append(job)
        num_images[job.path.parent, job.order.what] += len(job.group)
    for (folder, what), num in num_images.items():
        for path in folder.glob(".part-*"):  # left behind by killed processes
            path.unlink()
        log.info("packing %d %s into %s", num, what, folder)
    makes = {group: [job.order.make for job in shared] for group, shared in together.items()}
    work = [(source, makes[group]) for group in together for source in group]
    if num_workers is None and stat_sources(jobs[0].group)[:, 0].mean() < MIN_BYTES_FOR_THREADS:
        num_workers = 0
    what = jobs[0].order.what if len(num_images) == 1 else "photos"
    bad: dict[str, list[str]] = {}
    listed: set[str] = set()  # a photo that cannot be read is a problem of several stores
    with contextlib.closing(
        map_parallel(make_images, work, f"packing {what}", num_workers=num_workers)
    ) as made:
        for shared in together.values():
            for job, problems in zip(shared, write_together(shared, made, began), strict=True):
                new = [problem for problem in problems if problem not in listed]
                listed.update(new)
                if new:
                    bad.setdefault(job.order.what, []).extend(new)
    if bad:
        lists = [
            list_problems(f"of the {what} cannot be used", b, len(b)) for what, b in bad.items()
        ]
        raise BadImages("\n".join(lists))


def write_together(jobs: Sequence[Job], made: Iterator[Made], began: int) -> list[list[str]]:
    """Write files of the same photos, each unless one of its images cannot be made.

    Args:
        jobs: the files, whose groups are the same.
        made: their images; no more than those of these photos are taken.
        began: when packing began, in ns, which is the time that the files are given.

    Returns:
        The problems with images of each file.
    """
    problems: list[list[str]] = [[] for _ in jobs]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(ShardWriter(job.path, job.recipe)) for job in jobs]
        for source, photo in zip(jobs[0].group, made, strict=False):
            for file, image, found in zip(files, photo.images, problems, strict=True):
                if isinstance(image, str):
                    found.append(image)
                else:
                    file.add(source.name, image, photo.stamp, photo.sha256)
        for file, found in zip(files, problems, strict=True):
            if not found:
                file.finish(began)
    return problems
