"""Read image files: every kind becomes upright RGB, of 8 bits or of 16, or is refused by name.

Pillow decodes ordinary files of 8 bits; `images.tiff` decodes TIFF and libpng (imagecodecs)
PNG of 16 bits.
"""

import contextlib
import logging
import os
import struct
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from images.file_names import shown
from images.metadata import (
    PNG_SIGNATURE,
    exif_bytes,
    is_rgb_profile,
    orientation_of,
    png_pixels,
    tiff_exif,
)
from images.pixels import to_tensor
from images.tiff import SIGNATURES, read_tiff

# About metadata, which never decide over pixels.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Lines about damage that name no file; what matters is raised.
for name in ("PIL", "imagecodecs"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# What Pillow raises where a file is damaged.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, NotImplementedError, struct.error)
# What Pillow is asked to read. All begin with letters of their own, so that a file cannot be of two
# kinds; others of its readers look elsewhere, start programs (PostScript) or are no photos.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # that are written
# That are read. HEIC and AVIF need a decoder that not every installation has.
READ_SUFFIXES = (*SUFFIXES, ".jfif", ".jpe", ".mpo", ".gif", ".heic", ".heif", ".hif", ".avif")
# Brands of the container that HEIC and AVIF share (ISO/IEC 23008-12), at bytes 8 to 12.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
WITH_PAGES = (
    "GIF",
    "WEBP",
    "PNG",
    "TIFF",
    "MPO",
    "HEIF",
    "AVIF",
)  # whose further frames are photos

# From the values of the orientation tag to upright H x W x C arrays; others leave them as they are.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}


class Photo(NamedTuple):
    """A photo with everything that has to survive its enhancement.

    `pixels` is 3 x H x W and `alpha` 1 x H x W or None: uint8, or int32 where `levels`, their
    largest value, is 65535. `info` has `icc_profile` and `exif` as Pillow saves them. `notes` says
    what of the file was left out.
    """

    pixels: Tensor
    alpha: Tensor | None
    levels: int
    info: dict[str, Any]
    notes: tuple[str, ...] = ()


class Decoded(NamedTuple):
    """An upright picture: `rgb` H x W x 3 and `alpha` H x W x 1 or None, uint8 or uint16."""

    rgb: NDArray[Any]
    alpha: NDArray[Any] | None
    exif: Callable[[], Image.Exif]
    profile: bytes | None
    notes: tuple[str, ...]


def read_image(path: str | Path) -> Tensor:
    """Read an image file.

    Gray and palette images become RGB, an alpha channel is dropped, 16 bits are rounded to 8 and
    the EXIF orientation is applied.

    Returns:
        uint8, 3 x H x W.

    Raises:
        ValueError: if the file is missing, unreadable or no image; the message names it.
    """
    return read_noted(path)[0]


def read_noted(path: str | Path) -> tuple[Tensor, tuple[str, ...]]:
    """Read an image file as `read_image` does, with notes on what was left out of it."""
    with decoded(path, with_alpha=False) as found:
        rgb = found.rgb
        if rgb.dtype == np.uint16:
            rgb = ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return to_tensor(rgb), found.notes


def read_photo(path: str | Path) -> Photo:
    """Read a photo upright with its alpha channel, 16 bits, ICC profile and EXIF data.

    Raises:
        ValueError: if the file is missing, unreadable or no image; the message names it.
    """
    with decoded(path) as found:
        levels = int(np.iinfo(found.rgb.dtype).max)
        pixels = photo_tensor(found.rgb)
        alpha = None
        if found.alpha is not None:
            factor = levels // int(np.iinfo(found.alpha.dtype).max)  # 257 for palettes of 16 bits
            alpha = photo_tensor(found.alpha.astype(found.rgb.dtype) * factor)
        info: dict[str, Any] = {}
        notes = list(found.notes)
        if is_rgb_profile(found.profile):
            info["icc_profile"] = found.profile
        try:
            exif, lost = exif_bytes(found.exif())
        except Exception:  # metadata never decide over pixels
            exif, lost = None, ["all fields"]
        if exif is not None:
            info["exif"] = exif
        if lost:
            notes.append(f"EXIF data are damaged, left out: {', '.join(lost)}")
    return Photo(pixels, alpha, levels, info, tuple(notes))


def photo_tensor(image: NDArray[Any]) -> Tensor:
    """H x W x C array of 8 or 16 bits to C x H x W tensor of uint8 or int32."""
    return to_tensor(image) if image.dtype == np.uint8 else to_tensor(image.astype(np.int32))


def probe(path: str | Path) -> tuple[int, int] | str:
    """Height and width of an image that can be decoded; what is wrong with any other file."""
    try:
        height, width = read_image(path).shape[1:]
    except ValueError as error:
        return str(error)
    return height, width


@contextlib.contextmanager
def decoded(path: str | Path, *, with_alpha: bool = True) -> Iterator[Decoded]:
    """Open and decode an image file.

    Whatever a decoder raises about a file is that file's problem; this is the one place where it
    becomes a `ValueError` that names the file.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise ValueError(f"{shown(path)}: cannot be read as an image (not a regular file)")
    try:
        # Not by its name: Pillow would map the pixels of some files, and lose their orientation.
        with open(path, "rb") as file:
            yield decode(file, with_alpha=with_alpha)
    except FileNotFoundError as error:
        raise ValueError(f"{shown(path)}: no such file") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    except OSError as error:
        raise ValueError(
            f"{shown(path)}: cannot be read as an image ({error.strerror or error})"
        ) from error
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        said = reason if reason.startswith("has ") else f"cannot be read as an image ({reason})"
        raise ValueError(f"{shown(path)}: {said}") from error


def decode(file: IO[bytes], *, with_alpha: bool) -> Decoded:
    """Decode an image file by its content."""
    start = file.read(32)
    file.seek(0)
    if start.startswith(SIGNATURES):
        page = read_tiff(file)
        if page is not None:
            turn = UPRIGHT.get(page.orientation, UPRIGHT[1])
            alpha = None if page.alpha is None else turn(page.alpha)
            exif = partial(tiff_exif, file)
            notes = page_notes(page.num_more)
            if page.num_unused:
                notes += (f"{page.num_unused} channels are neither colour nor alpha, left out",)
            return Decoded(turn(page.rgb), alpha, exif, page.profile, notes)
        file.seek(0)
    try:
        if not start.startswith(PNG_SIGNATURE):
            return open_pillow(file, start, with_alpha=with_alpha)
        try:
            return open_pillow(file, start, with_alpha=with_alpha)
        except Exception:  # by its metadata, perhaps: they never decide over pixels
            file.seek(0)
            content, kept = png_pixels(file.read())
            found = open_pillow(BytesIO(content), start, with_alpha=with_alpha, exif=kept)
            note = "metadata left out: damaged, or larger than 1 MB"
            return found._replace(notes=(*found.notes, note))
    except UnidentifiedImageError as error:
        known = "cannot be read as an image (damaged, or of an unknown kind)"
        message = known if is_photo_start(start) else "not an image file"
        raise UnidentifiedImageError(message) from error


def open_pillow(
    file: IO[bytes], start: bytes, *, with_alpha: bool, exif: bytes | None = None
) -> Decoded:
    """Decode a file that Pillow can open; EXIF data may have been found elsewhere in it."""
    with Image.open(file, formats=formats_of(start)) as image:
        if exif is not None:
            image.info["exif"] = b"Exif\0\0" + exif
        if image.format == "PNG" and start[24] == 16:  # of which Pillow keeps 8
            return deep_png(file, image)
        key = image.info.get("transparency")
        if (
            image.format == "PNG"
            and start[24] in (2, 4)
            and start[25] == 0
            and isinstance(key, int)
        ):
            # Pillow scales the gray samples to 0..255, but not the one that is transparent.
            image.info["transparency"] = key * 255 // (2 ** start[24] - 1)
        found = from_pillow(image, with_alpha=with_alpha)
        # Among the tags of a TIFF file are those that say how its pixels are stored.
        is_tiff = image.format == "TIFF"
        return found._replace(exif=partial(tiff_exif, file)) if is_tiff else found


def formats_of(start: bytes) -> tuple[str, ...]:
    """Formats of Pillow that may read a file which begins like this.

    Raises:
        ValueError: if a decoder is not installed, saying which.
    """
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    if brand in AVIF_BRANDS:
        if "AVIF" not in Image.registered_extensions().values():
            raise ValueError("AVIF needs a newer Pillow: pip install 'pillow>=11.3'")
        return ("AVIF",)
    if brand in HEIC_BRANDS:
        try:
            import pillow_heif
        except ImportError as error:
            raise ValueError("HEIC needs a decoder: pip install pillow-heif") from error
        pillow_heif.register_heif_opener()
        return ("HEIF",)
    return FORMATS


def is_photo_start(start: bytes) -> bool:
    """Whether the first 32 bytes of a file are those of a photo."""
    return (
        start.startswith((PNG_SIGNATURE, b"\xff\xd8\xff", b"GIF8", *SIGNATURES))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
        or (start[4:8] == b"ftyp" and start[8:12] in (*HEIC_BRANDS, *AVIF_BRANDS))
    )


def from_pillow(image: Image.Image, *, with_alpha: bool) -> Decoded:
    """An open image of 8 bits, or a gray one of 16."""
    num_more = getattr(image, "n_frames", 1) - 1 if image.format in WITH_PAGES else 0
    image.load()
    turn = UPRIGHT.get(orientation_of(image), UPRIGHT[1])
    alpha = None
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    if image.mode == "F":
        raise ValueError("has floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # Pillow would clip 16-bit gray to 255 instead of scaling it
        gray = np.asarray(image, dtype=np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("has 32-bit pixels, whose range is not known")
        rgb = np.repeat(gray.astype(np.uint16)[..., None], 3, axis=2)
    elif with_alpha and image.has_transparency_data:
        channels = np.array(image.convert("RGBA"))
        rgb, alpha = channels[..., :3], turn(channels[..., 3:])
    else:
        rgb = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return Decoded(turn(rgb), alpha, image.getexif, profile, page_notes(num_more))


def deep_png(file: IO[bytes], image: Image.Image) -> Decoded:
    """A PNG file of 16 bits, opened by Pillow, which would keep 8 of them."""
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    orientation = orientation_of(image)
    file.seek(0)
    content, _ = png_pixels(file.read())  # libpng prints what it has to say about metadata
    samples = imagecodecs.png_decode(content)  # with an alpha channel where it has tRNS
    if samples.ndim == 2:
        samples = samples[..., None]
    samples = UPRIGHT.get(orientation, UPRIGHT[1])(samples)
    num_colors = 3 if samples.shape[2] >= 3 else 1
    rgb = samples[..., :3] if num_colors == 3 else np.repeat(samples[..., :1], 3, axis=2)
    alpha = samples[..., num_colors:] if samples.shape[2] > num_colors else None
    return Decoded(rgb, alpha, image.getexif, profile, ())


def page_notes(num_more: int) -> tuple[str, ...]:
    """What to say about pages after the first."""
    if not num_more:
        return ()
    return (f"the first of {num_more + 1} pages or frames; the others are left out",)
