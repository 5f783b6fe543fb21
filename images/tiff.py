"""Decode the first page of a TIFF file to RGB, for any bit depth and layout.

TIFF 6.0 (Adobe, 1992) and its supplements. Pillow reduces colours to 8 bits, misreads planes and
orientations of uncompressed files, and supports neither 12 bits nor 16-bit WhiteIsZero. tifffile
returns the samples as stored, and this module interprets them.
"""

import logging
import struct
from functools import partial
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from images.decoded import Decoded, Samples, page_notes
from images.metadata import read_tiff_exif

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # real problems raise exceptions

# Number of colour samples for each photometric interpretation that can be converted to RGB.
NUM_COLORS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.SEPARATED: 4,
    PHOTOMETRIC.CIELAB: 3,
    PHOTOMETRIC.ICCLAB: 3,
}
ASSOCIATED, UNASSOCIATED = 1, 2  # values of ExtraSamples; 0 means unspecified
DNG_VERSION, INK_SET, ORIENTATION = 50706, 332, 274  # tags
CMYK = 1  # value of InkSet
NO_PICTURE = "a TIFF file without a picture: damaged, or cut off after its header"
# From CIE XYZ (white D50) to linear sRGB, with Bradford adaptation to D65 (brucelindbloom.com).
XYZ_TO_RGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
D50 = np.array([0.96422, 1.0, 0.82521])


def read_tiff(file: IO[bytes]) -> Decoded | None:
    """Decode the first page of a TIFF file.

    Returns:
        The page; None for JPEG compression and YCbCr pixels, which Pillow decodes.

    Raises:
        ValueError: if the pixels cannot be converted to RGB.
    """
    try:
        tiff = TiffFile(file)
        page, num_more = main_page(tiff)
    except (LookupError, struct.error) as error:
        raise ValueError(NO_PICTURE) from error
    with tiff:
        if DNG_VERSION in page.tags or page.photometric in (
            PHOTOMETRIC.CFA,
            PHOTOMETRIC.LINEAR_RAW,
        ):
            raise ValueError("camera raw: develop it to JPEG, PNG or TIFF first")
        jpeg = (COMPRESSION.JPEG, COMPRESSION.OJPEG)
        if page.photometric == PHOTOMETRIC.YCBCR or page.compression in jpeg:
            return None
        check_decodable(page, tiff.filehandle.size)
        samples = page.asarray()
        orientation = page.tags.valueof(ORIENTATION)
        if isinstance(orientation, tuple):  # of several values, which only damaged files have
            orientation = orientation[0]
        orientation = orientation if isinstance(orientation, int) else 1
        profile = page.iccprofile if page.photometric in PROFILE_KINDS else None
        rgb, alpha = to_rgb(page, samples)
        num_unused = page.samplesperpixel - NUM_COLORS[page.photometric] - (alpha is not None)
    notes = page_notes(num_more)
    if num_unused:
        notes += (f"{num_unused} channels are neither colour nor alpha, left out",)
    return Decoded(rgb, alpha, orientation, partial(read_tiff_exif, file), profile, notes)


# Profiles for gray or printing inks do not apply to pixels converted to RGB.
PROFILE_KINDS = (PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)


def main_page(tiff: TiffFile) -> tuple[TiffPage, int]:
    """Return the first full-size page of a file and the number of further ones.

    Reduced copies of other pages (thumbnails, pyramids) do not count. Cameras may store a thumbnail
    first, with the full-size page in a directory below it.
    """
    pages = [tiff.pages[k] for k in range(len(tiff.pages))]
    pages = [page for page in pages if isinstance(page, TiffPage)] or [tiff.pages.first]
    below = [page for parent in pages if is_reduced(parent) for page in parent.pages or ()]
    whole = [page for page in (*pages, *below) if not is_reduced(page)] or pages[:1]
    assert isinstance(whole[0], TiffPage)
    return whole[0], len(whole) - 1


def is_reduced(page: object) -> bool:
    """Return whether a page is a reduced copy of another."""
    return bool(getattr(page, "subfiletype", 0) & 1)


def check_decodable(page: TiffPage, file_size: int) -> None:
    """Check that a page can be decoded, before anything large is allocated.

    Raises:
        ValueError: if it cannot.
    """
    if not page.imagewidth or not page.imagelength:
        raise ValueError(NO_PICTURE)
    name = getattr(page.photometric, "name", page.photometric)
    if page.photometric not in NUM_COLORS:
        raise ValueError(f"TIFF pixels of kind {name} are not supported")
    if page.tags.valueof(INK_SET, CMYK) != CMYK and page.photometric == PHOTOMETRIC.SEPARATED:
        raise ValueError("TIFF pixels of printing inks other than CMYK are not supported")
    if page.dtype is None or page.dtype.kind in "fc":
        raise ValueError("has floating-point pixels, whose range is not known")
    if page.dtype.kind == "i" or page.dtype.itemsize > 2 or not isinstance(page.bitspersample, int):
        kind = "signed " if page.dtype.kind == "i" else ""
        raise ValueError(f"has {kind}{page.bitspersample}-bit pixels, whose range is not known")
    if page.axes not in ("YX", "YXS", "SYX") or page.samplesperpixel < NUM_COLORS[page.photometric]:
        raise ValueError(f"TIFF pixels with {page.samplesperpixel} samples, {name}: not supported")
    most = 2 * (Image.MAX_IMAGE_PIXELS or 2**31)  # the limit at which Pillow raises
    largest = max(page.imagewidth * page.imagelength, page.tilewidth * page.tilelength)
    if largest > most or page.samplesperpixel > 16:
        raise ValueError(
            f"{page.imagewidth} x {page.imagelength} pixels, {page.samplesperpixel} samples each: "
            "could be a decompression bomb"
        )
    ends = zip(page.dataoffsets, page.databytecounts, strict=True)
    if not page.dataoffsets or any(start + count > file_size or not count for start, count in ends):
        raise ValueError("image file is truncated")


def to_rgb(page: TiffPage, samples: Samples) -> tuple[Samples, Samples | None]:
    """Convert the samples of a page to RGB and alpha."""
    if page.axes == "SYX":
        samples = np.moveaxis(samples, 0, -1)
    elif page.axes == "YX":
        samples = samples[..., None]
    bits, num_colors = page.bitspersample, NUM_COLORS[page.photometric]
    colors, alpha = samples[..., :num_colors], None
    extras = [int(kind) for kind in page.extrasamples][: samples.shape[2] - num_colors]
    for k, kind in enumerate(extras):
        if kind in (ASSOCIATED, UNASSOCIATED):
            alpha = to_full_range(samples[..., num_colors + k, None], bits)
            break
    if page.photometric == PHOTOMETRIC.PALETTE:
        assert page.colormap is not None
        palette = page.colormap
        if palette.max() > 255:  # otherwise it has 8 bits despite the specification, as in libtiff
            palette = palette // 256
        return palette[:, colors[..., 0]].astype(np.uint8).transpose(1, 2, 0), alpha
    if page.photometric in (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB):
        if bits not in (8, 16):
            raise ValueError(f"TIFF pixels of kind Lab with {bits} bits are not supported")
        return lab_to_rgb(colors, signed=page.photometric == PHOTOMETRIC.CIELAB), alpha
    colors = to_full_range(colors, bits)
    if alpha is not None and kind == ASSOCIATED:
        colors = unpremultiply(colors, alpha)
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        colors = np.invert(colors)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        colors = cmyk_to_rgb(colors)
    return (np.repeat(colors, 3, axis=2) if colors.shape[2] == 1 else colors), alpha


def to_full_range(samples: Samples, bits: int) -> Samples:
    """Scale samples of any bit depth to the full range of 8 bits, or of 16 if they have more."""
    if bits in (8, 16):
        return samples
    levels, dtype = (255, np.uint8) if bits < 8 else (65535, np.uint16)
    largest = 2**bits - 1
    full: Samples = (samples.astype(np.uint32) * levels + largest // 2) // largest
    return full.astype(dtype)


def unpremultiply(colors: Samples, alpha: Samples) -> Samples:
    """Divide premultiplied colours by alpha."""
    levels = np.iinfo(colors.dtype).max
    wide, below = colors.astype(np.uint32), np.maximum(alpha, 1).astype(np.uint32)
    divided: Samples = np.minimum((wide * levels + below // 2) // below, levels)
    return divided.astype(colors.dtype)


def cmyk_to_rgb(inks: Samples) -> Samples:
    """Convert CMYK to RGB by Pillow's formula (1 - c) (1 - k)."""
    levels = np.iinfo(inks.dtype).max
    light = (levels - inks[..., 3:]).astype(np.uint32)
    absorbed = (inks[..., :3].astype(np.uint32) * light + levels // 2) // levels
    passed: Samples = light - absorbed
    return passed.astype(inks.dtype)


def lab_to_rgb(samples: Samples, *, signed: bool) -> Samples:
    """Convert CIE L*a*b* (white D50) to sRGB, clipping colours outside its gamut.

    Args:
        samples: H x W x 3, uint8 or uint16.
        signed: whether a and b are two's complement (CIELAB) or offset (ICCLAB).
    """
    levels = int(np.iinfo(samples.dtype).max)
    per_unit = 1 if levels == 255 else 256
    white = levels if signed or levels == 255 else 65280
    lightness = samples[..., :1] * (100 / white)
    stored: NDArray[np.integer] = np.ascontiguousarray(samples[..., 1:])
    if signed:
        stored = stored.view(np.int8 if levels == 255 else np.int16)
    ab = stored.astype(np.float64) / per_unit - (0 if signed else 128)
    y = (lightness + 16) / 116
    f = np.concatenate([y + ab[..., :1] / 500, y, y - ab[..., 1:] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, (f - 4 / 29) * (108 / 841)) * D50
    linear = np.clip(xyz @ XYZ_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    encoded: Samples = np.rint(srgb * levels).astype(samples.dtype)
    return encoded
