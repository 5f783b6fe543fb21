"""Image files in and out: what is read is upright 8-bit RGB, what is written is whole or absent."""

import glob
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_image(path: str | Path) -> Tensor:
    """Reads an image file.

    Gray and palette images become RGB, an alpha channel is dropped, 16-bit gray is scaled to 8 bits
    and the EXIF orientation is applied.

    Returns:
        uint8, 3 x H x W.

    Raises:
        ValueError: if the file is missing, unreadable or no image; the message names it.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise ValueError(f"{path}: cannot be read as an image (it is no file)")
    try:
        with Image.open(path) as file:
            file.load()
            image = ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error
    except (
        *(OSError, SyntaxError, ValueError, NotImplementedError),
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    if image.mode == "F":
        raise ValueError(f"{path}: has floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # Pillow would clip 16-bit gray to 255 instead of scaling it
        gray = np.asarray(image, dtype=np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError(f"{path}: has 32-bit pixels, whose range is not known")
        image = Image.fromarray(np.rint(gray / 257).astype(np.uint8))
    return to_tensor(np.array(image.convert("RGB")))


def probe(path: str | Path) -> tuple[int, int] | str:
    """Height and width of an image that can be decoded; what is wrong with any other file."""
    try:
        height, width = read_image(path).shape[1:]
    except ValueError as error:
        return str(error)
    return height, width


def write_image(path: Path, image: Tensor, *, overwrite: bool = False) -> None:
    """Writes a 3 x H x W uint8 image; a reader never sees half a file.

    Raises:
        ValueError: if the file exists and `overwrite` is not set, or the suffix is unknown.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: overwrite=true replaces it")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: allowed suffixes are {' '.join(SUFFIXES)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if path.suffix.lower() in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95  # Pillow's advice for the highest that still pays
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        Image.fromarray(to_array(image)).save(temporary, **options)
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def current_umask() -> int:
    """The permission bits that new files go without (mkstemp leaves files private)."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def find_images(where: str) -> list[Path]:
    """Image files that a path names: a file itself, a folder's images, or a glob's.

    Raises:
        ValueError: if there is none.
    """
    if not where:
        raise ValueError("input= is empty: a file, a folder or a glob is needed")
    path = Path(where).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = list_images(path)
        if not found:
            raise ValueError(f"input={where}: no image in this folder ({' '.join(SUFFIXES)})")
    else:
        found = [Path(p) for p in glob.glob(str(path), recursive=True) if os.path.isfile(p)]
        if not found:
            raise ValueError(f"input={where}: no such file or folder, and no file matches it")
    return sorted(found)


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder by name, without hidden ones and without its subfolders.

    Raises:
        ValueError: if there is no such folder, or it cannot be read.
    """
    return [folder / name for name in image_names(folder)]


def image_names(folder: Path) -> list[str]:
    """As `list_images`, the names alone: a quarter of a million paths take seconds to build."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES)
                and not entry.name.startswith(".")  # macOS leaves ._0001.png beside 0001.png
                and not is_folder(entry)
            )
    except OSError as error:
        raise ValueError(f"{folder}: cannot be read as a folder ({error.strerror})") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; a broken link is none, so that reading it says what is wrong."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """H x W x 3 array to 3 x H x W tensor."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()


def to_array(image: Tensor) -> NDArray[np.uint8]:
    """3 x H x W tensor to H x W x 3 array."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def to_unit(image: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    assert image.dtype == torch.uint8
    return image.float().div_(255.0)  # in place: another 7 MB for each batch cost more than this


def to_bytes(image: Tensor) -> Tensor:
    """Float in [0, 1], clamped and rounded, to uint8."""
    return (image * 255.0).round().clamp(0, 255).to(torch.uint8)
