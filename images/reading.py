"""Read image files of many formats as upright RGB with 8 or 16 bits per channel.

Pillow decodes 8-bit files, `images.tiff` decodes TIFF, and libpng (imagecodecs) decodes 16-bit PNG.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, NamedTuple

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from images.decoded import Decoded, Samples, page_notes
from images.file_names import printable_name
from images.formats import (
    AVIF_BRANDS,
    HEIC_BRANDS,
    PNG_SIGNATURE,
    TIFF_SIGNATURES,
    is_photo_start,
)
from images.metadata import (
    clean_exif,
    is_rgb_profile,
    read_orientation,
    read_tiff_exif,
    strip_png_metadata,
)
from images.pixels import to_tensor
from images.tiff import read_tiff

# Pillow's warnings concern metadata, which never affect pixels here.
warnings.filterwarnings("ignore", module=r"PIL\.")
# Their log messages do not name the file; real problems raise exceptions.
for name in ("PIL", "imagecodecs"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

# Formats that Pillow may read. Each starts with its own signature, so no file can be taken for
# another format. Pillow's other readers are riskier (PostScript runs a program) or not for photos.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Formats whose further pages or frames are photos too.
MULTI_PAGE_FORMATS = ("GIF", "WEBP", "PNG", "TIFF", "MPO", "HEIF", "AVIF")


class Photo(NamedTuple):
    """A photo with everything that enhancing it should preserve.

    `pixels` is 3 x H x W and `alpha` 1 x H x W or None: uint8, or int32 if `levels`, the largest
    possible value, is 65535. `info` holds `icc_profile` and `exif` in the form that Pillow saves.
    `notes` describes what was left out when reading the file.
    """

    pixels: Tensor
    alpha: Tensor | None
    levels: int
    info: dict[str, bytes]
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> Tensor:
    """Read an image file as 8-bit RGB.

    Gray and palette images are converted to RGB, the alpha channel is dropped, 16 bits are rounded
    to 8, and the EXIF orientation is applied.

    Returns:
        3 x H x W, uint8.

    Raises:
        ValueError: if the file is missing, unreadable or not an image; the message names it.
    """
    return read_image_with_notes(path)[0]


def read_image_with_notes(path: str | Path) -> tuple[Tensor, tuple[str, ...]]:
    """Read an image file like `read_image`, with notes on what was left out."""
    with open_decoded(path, with_alpha=False) as found:
        rgb = found.rgb
        if rgb.dtype == np.uint16:
            rgb = ((rgb.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return to_tensor(rgb), found.notes


def read_photo(path: str | Path) -> Photo:
    """Read a photo upright, keeping its alpha channel, bit depth, ICC profile and EXIF data.

    Raises:
        ValueError: if the file is missing, unreadable or not an image; the message names it.
    """
    with open_decoded(path) as found:
        levels = int(np.iinfo(found.rgb.dtype).max)
        pixels = photo_tensor(found.rgb)
        alpha = None
        if found.alpha is not None:
            # A palette has 8-bit colours, even if its indices and alpha have 16 bits.
            most = int(np.iinfo(found.alpha.dtype).max)
            scaled = (found.alpha.astype(np.uint32) * levels + most // 2) // most
            alpha = photo_tensor(scaled.astype(found.rgb.dtype))
        info: dict[str, bytes] = {}
        notes = list(found.notes)
        if found.profile is not None and is_rgb_profile(found.profile):
            info["icc_profile"] = found.profile
        try:
            exif, lost = clean_exif(found.exif())
        except Exception:  # bad metadata must not lose the pixels
            exif, lost = None, ["all fields"]
        if exif is not None:
            info["exif"] = exif
        if lost:
            notes.append(f"EXIF data are damaged, left out: {', '.join(lost)}")
    return Photo(pixels, alpha, levels, info, tuple(notes))


def photo_tensor(image: Samples) -> Tensor:
    """Convert an H x W x C array of 8 or 16 bits to a C x H x W tensor of uint8 or int32."""
    return to_tensor(image if image.dtype == np.uint8 else image.astype(np.int32))


def probe_size(path: str | Path) -> tuple[int, int] | str:
    """Decode an image and return its height and width, or the problem if that fails."""
    try:
        height, width = read_image(path).shape[1:]
    except ValueError as error:
        return str(error)
    return height, width


@contextlib.contextmanager
def open_decoded(path: str | Path, *, with_alpha: bool = True) -> Iterator[Decoded]:
    """Open and decode an image file.

    Raises:
        ValueError: naming the file, for any exception that a decoder raises.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would block
        raise ValueError(f"{printable_name(path)}: cannot be read as an image (not a regular file)")
    try:
        # Opened here: given a name, Pillow memory-maps some files and loses their orientation.
        with open(path, "rb") as file:
            yield decode(file, with_alpha=with_alpha).upright()
    except FileNotFoundError as error:
        raise ValueError(f"{printable_name(path)}: no such file") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        complete = isinstance(error, UnidentifiedImageError) or reason.startswith("has ")
        about = reason or type(error).__name__
        said = about if complete else f"cannot be read as an image ({about})"
        raise ValueError(f"{printable_name(path)}: {said}") from error


def decode(file: IO[bytes], *, with_alpha: bool) -> Decoded:
    """Decode an open image file, choosing the decoder by its content."""
    start = file.read(32)
    file.seek(0)
    if start.startswith(TIFF_SIGNATURES):
        found = read_tiff(file)
        if found is not None:
            return found
        file.seek(0)
    try:
        try:
            return decode_with_pillow(file, start, with_alpha=with_alpha)
        except Exception:
            if not start.startswith(PNG_SIGNATURE):
                raise
            file.seek(0)  # perhaps because of its metadata: try without them
            content, kept = strip_png_metadata(file.read())
            found = decode_with_pillow(BytesIO(content), start, with_alpha=with_alpha, exif=kept)
            note = "metadata left out: damaged, or larger than 1 MB"
            return found._replace(notes=(*found.notes, note))
    except UnidentifiedImageError as error:
        known = "cannot be read as an image (damaged, or of an unknown kind)"
        message = known if is_photo_start(start) else "not an image file"
        raise UnidentifiedImageError(message) from error


def decode_with_pillow(
    file: IO[bytes], start: bytes, *, with_alpha: bool, exif: bytes | None = None
) -> Decoded:
    """Decode a file with Pillow; `exif` replaces EXIF data that were stripped from it."""
    with Image.open(file, formats=pillow_formats(start)) as image:
        if exif is not None:
            image.info["exif"] = b"Exif\0\0" + exif
        if image.format == "PNG" and start[24] == 16:  # Pillow would reduce it to 8 bits
            return decode_png16(file, image)
        key = image.info.get("transparency")
        if (
            image.format == "PNG"
            and start[24] in (2, 4)
            and start[25] == 0
            and isinstance(key, int)
        ):
            # Pillow scales the gray samples to 0..255, but not the transparent value.
            image.info["transparency"] = key * 255 // (2 ** start[24] - 1)
        found = convert_pillow(image, with_alpha=with_alpha)
        # The tags of a TIFF file also describe how its pixels are stored.
        is_tiff = image.format == "TIFF"
        return found._replace(exif=partial(read_tiff_exif, file)) if is_tiff else found


def pillow_formats(start: bytes) -> tuple[str, ...]:
    """Return the Pillow formats allowed for a file, given its first 32 bytes.

    Raises:
        ValueError: naming the package to install, if the decoder is missing.
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


def convert_pillow(image: Image.Image, *, with_alpha: bool) -> Decoded:
    """Convert an open 8-bit image, or a 16-bit gray one, to RGB."""
    num_more = getattr(image, "n_frames", 1) - 1 if image.format in MULTI_PAGE_FORMATS else 0
    image.load()
    alpha = None
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
    if image.mode == "F":
        raise ValueError("has floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):  # Pillow would clip 16-bit gray to 255 instead of scaling it
        rgb: Samples
        gray = np.asarray(image, dtype=np.int64)
        if gray.min() < 0 or gray.max() > 65535:
            raise ValueError("has 32-bit pixels, whose range is not known")
        rgb = np.repeat(gray.astype(np.uint16)[..., None], 3, axis=2)
    elif with_alpha and image.has_transparency_data:
        channels = np.array(image.convert("RGBA"))
        rgb, alpha = channels[..., :3], channels[..., 3:]
    else:
        rgb = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    notes, orientation = page_notes(num_more), read_orientation(image)
    return Decoded(rgb, alpha, orientation, image.getexif, profile, notes)


def decode_png16(file: IO[bytes], image: Image.Image) -> Decoded:
    """Decode a 16-bit PNG file, which Pillow has opened but would reduce to 8 bits."""
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    orientation = read_orientation(image)
    file.seek(0)
    content, _ = strip_png_metadata(file.read())  # libpng prints warnings about metadata
    samples = imagecodecs.png_decode(content)  # adds an alpha channel if there is a tRNS chunk
    if samples.ndim == 2:
        samples = samples[..., None]
    num_colors = 3 if samples.shape[2] >= 3 else 1
    rgb = samples[..., :3] if num_colors == 3 else np.repeat(samples[..., :1], 3, axis=2)
    alpha = samples[..., num_colors:] if samples.shape[2] > num_colors else None
    return Decoded(rgb, alpha, orientation, image.getexif, profile, ())
