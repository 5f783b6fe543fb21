"""The binary store: decoded images that are read without decoding, patch by patch.

"All images are saved as binary files to improve the training speed" (paper). A store is a folder of
safetensors files, `00000.safetensors` and so on, so any safetensors reader opens it. Each holds up
to `per_shard` images:

- `pixels`: uint8, the images one after the other, each H x W x 3, RGB, row by row;
- `offsets` (int64, N), `sizes` (int32, N x 2: height, width), `names` (uint8, N x length, UTF-8,
  padded with zeros): where each image begins, its size and its name;
- `sources` (int64, N x 4: bytes, times of modification and change in ns, inode), `sha256` (uint8,
  N x 32): the file that each image was made from;
- in the metadata, `recipe` (what was done to the files) and `sha256` (of all that follows).

A file is written under a temporary name and renamed, so it is whole or absent; packing again writes
only the files that are missing, or whose sources have changed. Where stamps leave doubt, because a
source was moved or written just before it was packed, its SHA-256 is compared, and what was found
out is kept beside the file (`00000-<checksum>.stamps.npy`). The name of a store's folder ends in
a hash of the recipe, so that images made in different ways never overwrite each other.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import mmap
import os
import platform
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images import file_sha256
from datamodules.parallel import each, workers_for

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # H x W x 3, RGB

FORMAT = 2  # part of the recipe: a change of the layout above makes old files invalid
HEADER = 4096  # bytes before the pixels; safetensors allows spaces after the JSON
DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64"}
NAMES = ("utf-8", "surrogateescape")  # how Python holds file names that are not UTF-8
INDEX = ("offsets", "sizes", "names", "sources", "sha256")
GRAIN = 2 * 10**9  # ns; file systems keep times in steps of up to two seconds (FAT)
# A worker that has touched every page of a store would show the whole store as its memory.
READS_BETWEEN_RELEASES = 128


class Source(NamedTuple):
    """An image file and the name of its image."""

    name: str
    path: str


class Images(Protocol):
    """Decoded images, in memory or on disk."""

    names: NDArray[np.str_]
    sizes: NDArray[np.int64]  # N x 2: height, width

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int) -> Image:
        """A view of one image, for reading parts of it."""

    def whole(self, k: int) -> Image:
        """One image, for reading all of it."""

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """All pixels of all images as one tensor, and where each image begins."""


class MemoryImages:
    """Images in memory."""

    def __init__(self, images: Sequence[Image], names: Sequence[str]) -> None:
        self.images = images
        self.names = np.array(names, dtype=np.str_)
        self.sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, sizes and pixels."""
        total = hashlib.sha256("\0".join(self.names).encode(*NAMES) + self.sizes.tobytes())
        for image in self.images:
            total.update(np.ascontiguousarray(image).data)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Image:
        return self.images[k]

    def whole(self, k: int) -> Image:
        """One image."""
        return self.images[k]

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """All pixels of all images as one tensor, and where each image begins."""
        ends = np.cumsum(self.sizes.prod(axis=1) * 3)
        pixels = np.concatenate([image.reshape(-1) for image in self.images])
        return torch.from_numpy(pixels).to(device), np.concatenate([[0], ends[:-1]])


class PackedImages:
    """Images of a store, memory-mapped: reading a patch touches the bytes of its rows.

    Nothing in it grows by reading, and copies in other processes share it.

    Args:
        indices: of the files of the store, in order.
        num_images: use the first so many.
    """

    def __init__(self, indices: "Sequence[Shard]", num_images: int) -> None:
        self.shards = [index.path for index in indices]

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([index.arrays[name] for index in indices])[:num_images]

        self.names = np.concatenate([index.names for index in indices])[:num_images]
        self.sizes = joined("sizes").astype(np.int64)
        self.places = joined("offsets") + HEADER  # in their files
        counts = [len(index.arrays["offsets"]) for index in indices]
        self.shard_of = np.repeat(np.arange(len(counts)), counts)[:num_images]
        self.num_pixels = [index.num_pixels for index in indices]
        self.checksums = [index.sha256 for index in indices]
        # What went in, for run folders: same content, same fingerprint, wherever it lies.
        total = hashlib.sha256(indices[0].recipe.encode())
        total.update("\0".join(self.names).encode(*NAMES))
        total.update(joined("sha256").tobytes())
        self.fingerprint = total.hexdigest()
        self.num_reads = 0
        self.map()

    def __len__(self) -> int:
        return len(self.places)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"maps": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if [Shard(path).sha256 for path in self.shards] != self.checksums:
            raise ValueError(f"{self.shards[0].parent}: was packed anew while it was in use")
        self.map()

    def map(self) -> None:
        """Maps the files; what is mapped stays as it is even if a file is replaced."""
        allow_open_files(len(self.shards))
        self.maps: list[mmap.mmap] = []
        for path in self.shards:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Else the kernel reads 128 KiB around every row of a patch that is not in its cache.
            mapped.madvise(mmap.MADV_RANDOM)
            self.maps.append(mapped)

    def __getitem__(self, k: int) -> Image:
        """A view of one image; read-only."""
        self.num_reads += 1
        if self.num_reads % READS_BETWEEN_RELEASES == 0:
            self.release()
        height, width = self.sizes[k].tolist()
        return np.ndarray((height, width, 3), np.uint8, self.mapped(k), int(self.places[k]))

    def mapped(self, k: int) -> mmap.mmap:
        """The file that holds an image."""
        return self.maps[int(self.shard_of[k])]

    def whole(self, k: int) -> Image:
        """A copy of one image, for which all its pages are asked for at once."""
        image = self[k]
        start = int(self.places[k])
        first = start - start % mmap.PAGESIZE
        self.mapped(k).madvise(mmap.MADV_WILLNEED, first, start + image.nbytes - first)
        return image.copy()

    def release(self) -> None:
        """Gives pages that were read back to the kernel, which keeps them in its cache."""
        for mapped in self.maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """All pixels of all images as one tensor, and where each image begins."""
        starts = np.concatenate([[0], np.cumsum(self.num_pixels)])
        pixels = torch.empty(int(starts[-1]), dtype=torch.uint8, device=device)
        for k, num in enumerate(self.num_pixels):
            part = np.fromfile(self.shards[k], np.uint8, num, offset=HEADER)
            pixels[starts[k] : starts[k] + num] = torch.from_numpy(part)
        return pixels, starts[self.shard_of] + self.places - HEADER


def allow_open_files(num: int) -> None:
    """Raises the limit of open files as far as it may: Python keeps one open per mapped file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = soft + num  # other stores are open as well
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # then opening says what is wrong
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Shard:
    """The index of one file of a store.

    Raises:
        ValueError: if the file is not whole, or no such file.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if int.from_bytes(file.read(8), "little") != HEADER - 8:
                    raise ValueError("it does not begin like one")
                header = json.loads(file.read(HEADER - 8))
                end = max(value["data_offsets"][1] for key, value in header.items()
                          if key != "__metadata__")  # fmt: skip
                if os.fstat(file.fileno()).st_size != HEADER + end:
                    raise ValueError("it is cut off")
                self.num_pixels = header["pixels"]["shape"][0]
                file.seek(HEADER + self.num_pixels)
                self.arrays = {name: read_array(file, header[name]) for name in INDEX}
                self.recipe: str = header["__metadata__"]["recipe"]
                self.sha256: str = header["__metadata__"]["sha256"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: no file of a binary store ({error})") from error

    def stamps(self) -> tuple[NDArray[np.int64], int]:
        """Stamps of the sources, and when they were taken, in ns."""
        with contextlib.suppress(OSError, ValueError):
            kept = np.load(self.stamps_path)
            if kept.dtype == np.int64 and kept.shape == (len(self.arrays["sources"]) + 1, 4):
                return kept[1:], int(kept[0, 0])
        return self.arrays["sources"], self.path.stat().st_mtime_ns

    def keep_stamps(self, stamps: NDArray[np.int64], taken: int) -> None:
        """Keeps stamps of sources whose content has been compared, if the folder allows it."""
        temporary = self.path.with_name(f".{self.path.name}.stamps.{platform.node()}.{os.getpid()}")
        with contextlib.suppress(OSError):
            with open(temporary, "wb") as file:
                np.save(file, np.concatenate([[[taken, 0, 0, 0]], stamps]))
            os.replace(temporary, self.stamps_path)

    @property
    def stamps_path(self) -> Path:
        """Where later stamps are, for this content alone."""
        return self.path.with_name(f"{self.path.stem}-{self.sha256[:16]}.stamps.npy")

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """The images' names."""
        raw = self.arrays["names"]
        return np.char.decode(raw.view(f"S{raw.shape[1]}")[:, 0], *NAMES)


def read_array(file: Any, entry: dict[str, Any]) -> NDArray[Any]:  # noqa: ANN401
    """The next tensor of a file, in the order in which they were written."""
    dtype = next(name for name, code in DTYPES.items() if code == entry["dtype"])
    count = int(np.prod(entry["shape"]))
    return np.fromfile(file, dtype, count).reshape(entry["shape"])


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
        num_workers = workers_for(source.path for _, group in jobs for source in group)
    write = partial(write_shard, make=make, recipe=recipe)
    bad = [
        problem
        for problems in each(write, jobs, f"packing {what}", num_workers=num_workers)
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


def damaged(shards: Sequence[Path]) -> list[Path]:
    """Files of a store whose content is not what was written, by their checksum."""
    num_workers = workers_for(shards)
    whole = each(is_whole, shards, "verifying the store", num_workers=num_workers, chunk=4)
    return [path for path, good in zip(shards, whole, strict=True) if not good]


def is_whole(shard: Path) -> bool:
    """Whether the checksum of a file is right."""
    try:
        expected = Shard(shard).sha256
    except ValueError:
        return False
    with open(shard, "rb") as file:
        file.seek(HEADER)
        return hashlib.file_digest(file, "sha256").hexdigest() == expected


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
