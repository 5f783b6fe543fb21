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
import hashlib
import json
import logging
import mmap
import os
import platform
import resource
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.workers import map_parallel, num_workers_for

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # H x W x 3, RGB

FORMAT = 2  # part of the recipe: a change of the layout above makes old files invalid
HEADER = 4096  # bytes before the pixels; safetensors allows spaces after the JSON
DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64"}
NAMES = ("utf-8", "surrogateescape")  # how Python holds file names that are not UTF-8
INDEX = ("offsets", "sizes", "names", "sources", "sha256")
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


def damaged(shards: Sequence[Path]) -> list[Path]:
    """Files of a store whose content is not what was written, by their checksum."""
    num_workers = num_workers_for(shards)
    whole = map_parallel(is_whole, shards, "verifying the store", num_workers=num_workers, chunk=4)
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
