"""EXIF data, colour profiles and PNG chunks: kept where possible, never at the cost of pixels."""

import struct
import zlib
from typing import IO, Any

from PIL import ExifTags, Image

MAX_PROFILE = 2**20  # bytes of an ICC profile: Pillow would not open the PNG file of a larger one
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks without which a PNG file has other pixels.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

# EXIF tags that TIFF files have beside those of their pixels.
DESCRIPTIVE = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
# Parts of EXIF data that are kept beside the main one.
POINTERS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Tags of the main part that say how the pixels of the file are stored (TIFF 6.0, appendix A).
STORAGE = (254, 255, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, *range(322, 326), 330,
           338, 339, 347, *range(512, 533), 700, 34377, 34675)  # fmt: skip
SIZE_TAGS = (
    (None, ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength),
    (ExifTags.IFD.Exif, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight),
)


def orientation_of(image: Image.Image) -> int:
    """How the image is to be turned, 1 to 8; 1 where its EXIF data are damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow raises about damaged EXIF data
        return 1


def tiff_exif(file: IO[bytes]) -> Image.Exif:
    """Descriptive EXIF data of a TIFF file, whose tags also say how its pixels are stored."""
    file.seek(0)
    found, exif = Image.Exif(), Image.Exif()
    found.load_from_fp(file)
    for tag in DESCRIPTIVE:
        if tag in found:
            exif[tag] = found[tag]
    for pointer in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if entries := found.get_ifd(pointer):
            exif.get_ifd(pointer).update(entries)
    return exif


def exif_bytes(found: Image.Exif) -> tuple[bytes | None, list[str]]:
    """EXIF data of an upright photo, without thumbnail and what describes the old pixels.

    Returns:
        The data, None if there are none; the names of fields that cannot be written again.
    """
    exif, lost, empty = Image.Exif(), [], True
    for pointer in (None, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        source = found if pointer is None else found.get_ifd(pointer)
        fields: dict[int, Any] = {}
        for tag in list(source):
            if pointer is None and (tag in POINTERS or tag in STORAGE):
                continue
            try:
                value = found.get_ifd(tag) if tag == ExifTags.IFD.Interop else source[tag]
                check_writable(pointer, tag, value)
            except Exception:  # cameras and editors store some with other types
                lost.append(ExifTags.TAGS.get(tag, f"{tag:#x}"))
            else:
                fields[tag] = value
        if fields:  # Pillow would write an empty part, and a pointer to it
            (exif if pointer is None else exif.get_ifd(pointer)).update(fields)
            empty = False
    return (None if empty else exif.tobytes()), lost


def check_writable(pointer: int | None, tag: int, value: object) -> None:
    """Let Pillow raise what it has to say about writing a field."""
    exif = Image.Exif()
    target = exif if pointer is None else exif.get_ifd(pointer)
    target[tag] = value
    exif.tobytes()


def of_size(content: bytes, height: int, width: int) -> bytes:
    """EXIF data that state the size of the image that they go with, if they state any."""
    exif = Image.Exif()
    exif.load(content)
    for pointer, *tags in SIZE_TAGS:
        if pointer is not None and pointer not in exif:
            continue
        part = exif if pointer is None else exif.get_ifd(pointer)
        for tag, value in zip(tags, (width, height), strict=True):
            if tag in part:
                part[tag] = value
    return exif.tobytes()


def is_rgb_profile(profile: bytes | None) -> bool:
    """Whether an ICC profile is one of RGB and small enough to be written into any file."""
    return profile is not None and len(profile) < MAX_PROFILE and profile[16:20] == b"RGB "


def png_pixels(content: bytes) -> tuple[bytes, bytes | None]:
    """The pixels of a PNG file alone, without metadata that keep Pillow from opening it.

    Returns:
        A PNG file, and the EXIF data that were in the other.
    """
    parts, exif, position = [PNG_SIGNATURE], None, len(PNG_SIGNATURE)
    while position + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if kind in PNG_PIXELS:
            parts.append(content[position:end])
        elif kind == b"eXIf":
            exif = content[position + 8 : end - 4]
        position = end
    return b"".join(parts), exif


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file (specification, section 5.3)."""
    total = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)
