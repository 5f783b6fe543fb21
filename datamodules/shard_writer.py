"""Write one file of a binary store, image by image; `datamodules.store` describes its content."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from datamodules.store import DTYPES, HEADER, NAME_ENCODING, Image
from system.files import temporary_path


class ShardWriter:
    """Writes a file under a temporary name; leaving its context unfinished removes it.

    Args:
        path: the file, whose folder exists.
        recipe: how its images are made, for the header.

    Raises:
        ValueError: if the file cannot be written, because the disk is full for example.
    """

    def __init__(self, path: Path, recipe: str) -> None:
        self.path, self.recipe = path, recipe
        self.names: list[bytes] = []
        self.offsets: list[int] = []
        self.sizes: list[tuple[int, ...]] = []
        self.stamps: list[NDArray[np.int64]] = []
        self.hashes: list[bytes] = []
        self.checksum = hashlib.sha256()
        self.temporary = temporary_path(path)
        with self.explained():
            self.file = open(self.temporary, "wb")  # noqa: SIM115 (closed by the context)
            self.file.seek(HEADER)

    def __enter__(self) -> Self:
        """Return this object."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove what is unfinished."""
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the disk into messages that say what to do."""
        try:
            yield
        except OSError as error:
            free = shutil.disk_usage(self.path.parent).free / 1e9
            raise ValueError(
                f"{self.path}: cannot be written: {error.strerror}; {free:.1f} GB are free; what "
                "is packed so far is kept, and data.store=FOLDER puts a store elsewhere"
            ) from error

    def add(self, name: str, image: Image, stamp: NDArray[np.int64], sha256: bytes) -> None:
        """Write an image, H x W x 3, and remember the stamp and the hash of its source."""
        self.names.append(name.encode(*NAME_ENCODING))
        self.offsets.append(self.file.tell() - HEADER)
        self.sizes.append(image.shape[:2])
        self.stamps.append(stamp)
        self.hashes.append(sha256)
        with self.explained():
            self.write(image.data)

    def write(self, content: bytes | memoryview) -> None:
        """Write a part of the content and include it in the checksum."""
        self.file.write(content)
        self.checksum.update(content)

    def finish(self, began: int) -> None:
        """Write the index and the header, and put the file in its place.

        Args:
            began: time that the file is given, in ns; no stamp was taken before it.
        """
        with self.explained():
            self.write_index()
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.utime(self.temporary, ns=(began, began))
            for old in self.path.parent.glob(f"{self.path.stem}-*.stamps.npy"):
                old.unlink(missing_ok=True)
            os.replace(self.temporary, self.path)

    def write_index(self) -> None:
        """Write the index after the pixels, and the header before them."""
        self.write(bytes(-self.file.tell() % 8))  # aligns the index
        num_pixels = self.file.tell() - HEADER
        names = np.array(self.names)
        arrays: dict[str, NDArray[np.integer]] = {  # in the order of `INDEX_ARRAYS`
            "offsets": np.array(self.offsets, np.int64),
            "sizes": np.array(self.sizes, np.int32),
            "names": names.view(np.uint8).reshape(len(names), -1),
            "sources": np.array(self.stamps, np.int64),
            "sha256": np.frombuffer(b"".join(self.hashes), np.uint8).reshape(-1, 32),
        }
        pixels = {"dtype": "U8", "shape": [num_pixels], "data_offsets": [0, num_pixels]}
        header: dict[str, object] = {"__metadata__": {}, "pixels": pixels}
        for name, array in arrays.items():
            start = self.file.tell() - HEADER
            self.write(array.tobytes())
            ends = [start, self.file.tell() - HEADER]
            dtype = DTYPES[array.dtype.name]
            header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": ends}
        header["__metadata__"] = {"recipe": self.recipe, "sha256": self.checksum.hexdigest()}
        text = json.dumps(header).encode().ljust(HEADER - 8)  # safetensors allows spaces at the end
        assert len(text) == HEADER - 8, "the recipe is too long"
        self.file.seek(0)
        self.file.write(len(text).to_bytes(8, "little") + text)
