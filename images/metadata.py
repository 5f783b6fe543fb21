"""Carry over EXIF data, colour profiles and PNG chunks; bad metadata never loses pixels."""

import struct
import zlib
from typing import IO

from PIL import ExifTags, Image

from images.formats import PNG_SIGNATURE

MAX_PROFILE = 2**20  # bytes of an ICC profile; Pillow does not open PNG files with larger ones
# The chunks that determine the pixels of a PNG file.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

# EXIF tags of a TIFF file that describe the photo rather than how its pixels are stored.
DESCRIPTIVE_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
# EXIF directories (IFDs) that are kept besides the main one.
KEPT_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Tags of the main IFD that describe how pixels are stored (TIFF 6.0, appendix A).
STORAGE_TAGS = (254, 255, 258, 259, 262, 273, 274, 277, 278, 279, 284, 317, 320, *range(322, 326),
                330, 338, 339, 347, *range(512, 533), 700, 34377, 34675)  # fmt: skip
SIZE_TAGS = (
    (None, ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength),
    (ExifTags.IFD.Exif, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight),
)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if the EXIF data are damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever Pillow raises about damaged EXIF data
        return 1


def read_tiff_exif(file: IO[bytes]) -> Image.Exif:
    """Read the EXIF data of a TIFF file, without the tags that describe how pixels are stored."""
    file.seek(0)
    found, exif = Image.Exif(), Image.Exif()
    found.load_from_fp(file)
    for tag in DESCRIPTIVE_TAGS:
        if tag in found:
            exif[tag] = found[tag]
    for pointer in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if entries := found.get_ifd(pointer):
            exif.get_ifd(pointer).update(entries)
    return exif


def clean_exif(found: Image.Exif) -> tuple[bytes | None, list[str]]:
    """Encode EXIF data for an upright photo, without thumbnail and tags on pixel storage.

    Returns:
        The encoded data, or None if there are none, and the names of fields that Pillow cannot
        write.
    """
    exif, lost, empty = Image.Exif(), [], True
    for pointer in (None, ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        source = found if pointer is None else found.get_ifd(pointer)
        fields: dict[int, object] = {}
        for tag in list(source):
            if pointer is None and (tag in KEPT_IFDS or tag in STORAGE_TAGS):
                continue
            try:
                value = found.get_ifd(tag) if tag == ExifTags.IFD.Interop else source[tag]
                check_writable(pointer, tag, value)
            except Exception:  # cameras and editors store some fields with wrong types
                lost.append(ExifTags.TAGS.get(tag, f"{tag:#x}"))
            else:
                fields[tag] = value
        if fields:  # otherwise Pillow would write an empty IFD and a pointer to it
            (exif if pointer is None else exif.get_ifd(pointer)).update(fields)
            empty = False
    return (None if empty else exif.tobytes()), lost


def check_writable(pointer: int | None, tag: int, value: object) -> None:
    """Raise whatever Pillow raises when it writes this field."""
    exif = Image.Exif()
    target = exif if pointer is None else exif.get_ifd(pointer)
    target[tag] = value
    exif.tobytes()


def with_size(content: bytes, height: int, width: int) -> bytes:
    """Update the image size in EXIF data, if they contain it."""
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
    """Return whether an ICC profile is for RGB and small enough for any file format."""
    return profile is not None and len(profile) < MAX_PROFILE and profile[16:20] == b"RGB "


def strip_png_metadata(content: bytes) -> tuple[bytes, bytes | None]:
    """Strip the metadata that may prevent Pillow from opening a PNG file.

    Returns:
        A PNG file with the same pixels, and the EXIF data of the original.
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
    """Encode a chunk of a PNG file (specification, section 5.3)."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
