"""Binary store of decoded images, from which patches are read without decoding.

"All images are saved as binary files to improve the training speed" (paper). A store is a folder of
safetensors files, `00000.safetensors` and so on, which any safetensors reader can open. Each
contains up to `per_shard` images:

- `pixels`: uint8, one image after another, each H x W x 3, RGB, row by row;
- `offsets` (int64, N), `sizes` (int32, N x 2: height, width), `names` (uint8, N x length, UTF-8,
  padded with zeros): start, size and name of each image;
- `sources` (int64, N x 4: bytes, mtime and ctime in ns, inode), `sha256` (uint8, N x 32): stamps
  and hash of the file that each image was made from;
- in the metadata, `recipe` (how images are made from files) and `sha256` (checksum of all data
  after the header).

Files are written under a temporary name and renamed, so they are never incomplete. Packing again
writes only files that are missing or whose sources have changed. If stamps are inconclusive,
because a source was moved or was written just before packing, its SHA-256 is compared, and the new
stamps are saved beside the file (`00000-<checksum>.stamps.npy`). The name of a store's folder ends
with a hash of the recipe, so that images made in different ways never overwrite each other.
"""

import contextlib
import hashlib
import json
import logging
import mmap
import os
import resource
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.files import replacing
from system.workers import map_parallel

log = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # H x W x 3, RGB

FORMAT = 2  # part of the recipe; to be raised with each change of the layout
HEADER = 4096  # bytes before the pixels; safetensors allows spaces after the JSON
DTYPES = {"uint8": "U8", "int32": "I32", "int64": "I64"}
NAME_ENCODING = ("utf-8", "surrogateescape")  # as Python decodes file names
INDEX_ARRAYS = ("offsets", "sizes", "names", "sources", "sha256")
# Without releases, the pages read by a worker would add up to the whole store in its memory usage.
READS_BETWEEN_RELEASES = 128


class Source(NamedTuple):
    """Name of an image and path of its file."""

    name: str
    path: str


class Images(Protocol):
    """Decoded images in memory or on disk."""

    names: NDArray[np.str_]
    sizes: NDArray[np.int64]  # N x 2: height, width

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the content."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int) -> Image:
        """Return a view of an image, to read parts of it."""

    def read(self, k: int) -> Image:
        """Return an image, to read all of it."""

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """Return all pixels of all images as one tensor, and the start of each image."""


class MemoryImages:
    """Images in memory."""

    def __init__(self, images: Sequence[Image], names: Sequence[str]) -> None:
        self.images = images
        self.names = np.array(names, dtype=np.str_)
        self.sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of names, sizes and pixels."""
        total = hashlib.sha256("\0".join(self.names).encode(*NAME_ENCODING) + self.sizes.tobytes())
        for image in self.images:
            total.update(np.ascontiguousarray(image).data)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> Image:
        return self.images[k]

    def read(self, k: int) -> Image:
        """Return an image."""
        return self.images[k]

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """Return all pixels of all images as one tensor, and the start of each image."""
        ends = np.cumsum(self.sizes.prod(axis=1) * 3)
        pixels = np.concatenate([image.reshape(-1) for image in self.images])
        return torch.from_numpy(pixels).to(device), np.concatenate([[0], ends[:-1]])


class PackedImages:
    """Memory-mapped images of a store: reading a patch touches only the bytes of its rows.

    Reading uses no additional memory, and copies in other processes share the pages.

    Args:
        indices: indices of the files of the store, in order.
        num_images: use only the first `num_images` images.
    """

    def __init__(self, indices: "Sequence[Shard]", num_images: int) -> None:
        self.shards = [index.path for index in indices]

        def joined(name: str) -> NDArray[np.integer]:
            return np.concatenate([index.arrays[name] for index in indices])[:num_images]

        self.names = np.concatenate([index.names for index in indices])[:num_images]
        self.sizes = joined("sizes").astype(np.int64)
        self.file_offsets = joined("offsets") + HEADER
        counts = [len(index.arrays["offsets"]) for index in indices]
        self.shard_of = np.repeat(np.arange(len(counts)), counts)[:num_images]
        self.num_pixels = [index.num_pixels for index in indices]
        self.checksums = [index.sha256 for index in indices]
        # For run folders: depends on the content of the sources, not on where they are.
        total = hashlib.sha256(indices[0].recipe.encode())
        total.update("\0".join(self.names).encode(*NAME_ENCODING))
        total.update(joined("sha256").tobytes())
        self.fingerprint = total.hexdigest()
        self.num_reads = 0
        self.map()

    def __len__(self) -> int:
        return len(self.file_offsets)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"maps": []}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        if [Shard(path).sha256 for path in self.shards] != self.checksums:
            raise ValueError(f"{self.shards[0].parent}: was repacked while in use")
        self.map()

    def map(self) -> None:
        """Map the files into memory; maps stay valid if a file is replaced."""
        raise_file_limit(len(self.shards))
        self.maps: list[mmap.mmap] = []
        for path in self.shards:
            with open(path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Otherwise the kernel reads 128 KiB around each uncached row of a patch.
            mapped.madvise(mmap.MADV_RANDOM)
            self.maps.append(mapped)

    def __getitem__(self, k: int) -> Image:
        """Return a read-only view of an image."""
        self.num_reads += 1
        if self.num_reads % READS_BETWEEN_RELEASES == 0:
            self.release()
        height, width = self.sizes[k].tolist()
        return np.ndarray((height, width, 3), np.uint8, self.mapped(k), int(self.file_offsets[k]))

    def mapped(self, k: int) -> mmap.mmap:
        """Return the mapped file that contains an image."""
        return self.maps[int(self.shard_of[k])]

    def read(self, k: int) -> Image:
        """Return a copy of an image, requesting all its pages at once."""
        image = self[k]
        start = int(self.file_offsets[k])
        first = start - start % mmap.PAGESIZE
        self.mapped(k).madvise(mmap.MADV_WILLNEED, first, start + image.nbytes - first)
        return image.copy()

    def release(self) -> None:
        """Release pages that were read from this process; the kernel keeps them in its cache."""
        for mapped in self.maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def flat(self, device: torch.device) -> tuple[Tensor, NDArray[np.int64]]:
        """Return all pixels of all images as one tensor, and the start of each image."""
        starts = np.concatenate([[0], np.cumsum(self.num_pixels)])
        pixels = torch.empty(int(starts[-1]), dtype=torch.uint8, device=device)
        for k, num in enumerate(self.num_pixels):
            part = np.fromfile(self.shards[k], np.uint8, num, offset=HEADER)
            pixels[starts[k] : starts[k] + num] = torch.from_numpy(part)
        return pixels, starts[self.shard_of] + self.file_offsets - HEADER


def raise_file_limit(num: int) -> None:
    """Raise the limit of open files if possible, because Python keeps each mapped file open.

    Tried: at the usual limit of 1024, opening a store of 1100 files fails otherwise. So many hold
    70,000 photos of 64 per file; LSDIR has 85,000.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = soft + num  # other stores are open as well
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    with contextlib.suppress(OSError, ValueError):  # opening the files fails with a clear message
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


class Shard:
    """Index of one file of a store.

    Raises:
        ValueError: if the file is incomplete or not part of a store.
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
                self.arrays = {
                    name: read_array(file, header[name]["dtype"], header[name]["shape"])
                    for name in INDEX_ARRAYS
                }
                self.recipe: str = header["__metadata__"]["recipe"]
                self.sha256: str = header["__metadata__"]["sha256"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a file of a binary store ({error})") from error

    def stamps(self) -> tuple[NDArray[np.int64], int]:
        """Return the latest stamps of the sources, and when they were taken, in ns."""
        with contextlib.suppress(OSError, ValueError):
            kept = np.load(self.stamps_path)
            if kept.dtype == np.int64 and kept.shape == (len(self.arrays["sources"]) + 1, 4):
                return kept[1:], int(kept[0, 0])
        return self.arrays["sources"].astype(np.int64), self.path.stat().st_mtime_ns

    def save_stamps(self, stamps: NDArray[np.int64], taken: int) -> None:
        """Save new stamps of sources whose content was compared, if the folder is writable."""
        with (
            contextlib.suppress(OSError),
            replacing(self.stamps_path) as temporary,
            open(temporary, "wb") as file,
        ):
            np.save(file, np.concatenate([[[taken, 0, 0, 0]], stamps]))

    @property
    def stamps_path(self) -> Path:
        """Return the path of later stamps, which are valid only for this content of the file."""
        return self.path.with_name(f"{self.path.stem}-{self.sha256[:16]}.stamps.npy")

    @cached_property
    def names(self) -> NDArray[np.str_]:
        """Decode the names of the images."""
        raw = self.arrays["names"]
        return np.char.decode(raw.view(f"S{raw.shape[1]}")[:, 0], *NAME_ENCODING)


def read_array(file: BinaryIO, code: str, shape: Sequence[int]) -> NDArray[np.integer]:
    """Read the next tensor of a file; tensors have to be read in the order of the file."""
    dtype = next(name for name, known in DTYPES.items() if known == code)
    array: NDArray[np.integer] = np.fromfile(file, dtype, int(np.prod(shape)))
    return array.reshape(shape)


def find_corrupt(shards: Sequence[Path]) -> list[Path]:
    """Return the files of a store whose content does not match their checksum."""
    whole = map_parallel(is_intact, shards, "verifying the store")
    return [path for path, good in zip(shards, whole, strict=True) if not good]


def is_intact(shard: Path) -> bool:
    """Return whether the content of a file matches its checksum."""
    try:
        expected = Shard(shard).sha256
    except ValueError:
        return False
    with open(shard, "rb") as file:
        file.seek(HEADER)
        return hashlib.file_digest(file, "sha256").hexdigest() == expected
