"""Write image files atomically, without overwriting others unless asked."""

import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from images.file_names import printable_name
from images.formats import SUFFIXES
from images.metadata import png_chunk, with_size
from images.pixels import to_array
from images.reading import Photo
from system.files import replacing

# Largest side in pixels that a format supports.
MAX_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # libjpeg's JPEG_MAX_DIMENSION
NO_ALPHA = (".jpg", ".jpeg", ".bmp")


def check_side(path: Path, height: int, width: int) -> None:
    """Check that an image is not too large for the format of a file.

    Raises:
        ValueError: if it is too wide or too high.
    """
    most = MAX_SIDE.get(path.suffix.lower())
    if most is not None and max(height, width) > most:
        raise ValueError(
            f"{printable_name(path)}: would be {width} x {height}, and {path.suffix[1:]} files "
            f"have up to {most} pixels a side; format=png allows more"
        )


def write_image(path: Path, image: Tensor, *, overwrite: bool = False) -> None:
    """Write a 3 x H x W uint8 image.

    Raises:
        ValueError: if the file exists and `overwrite` is not set, or the suffix is unknown.
    """
    write_photo(path, Photo(image, None, 255, {}), overwrite=overwrite)


def write_photo(path: Path, photo: Photo, *, overwrite: bool = False) -> list[str]:
    """Write a photo with its ICC profile and EXIF data.

    PNG files keep 16 bits; all other formats get 8. JPEG and BMP files have no alpha channel.

    Returns:
        A message for each kind of metadata that could not be written.

    Raises:
        ValueError: if the file exists and `overwrite` is not set, the suffix is unknown, or the
            image is too large for the format.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{printable_name(path)} exists: overwrite=true replaces it")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{printable_name(path)}: allowed suffixes are {' '.join(SUFFIXES)}")
    height, width = photo.pixels.shape[1:]
    check_side(path, height, width)
    info, lost = dict(photo.info), []
    if "exif" in info:
        try:
            info["exif"] = with_size(info["exif"], height, width)
        except Exception:  # bad metadata must not lose the pixels
            del info["exif"]
            lost.append("EXIF data")
    with replacing(path) as temporary:
        for key, what in (("exif", "EXIF data"), ("icc_profile", "colour profile"), ("", "")):
            try:
                encode(temporary, suffix, photo._replace(info=info))
                break
            except Exception:
                if not info:
                    raise
                if info.pop(key, None):
                    lost.append(what)
    return [f"{what}: not kept; {suffix[1:]} files cannot store it" for what in lost]


def encode(path: Path, suffix: str, photo: Photo) -> None:
    """Write a photo in the format given by a suffix."""
    parts = [photo.pixels]
    if photo.alpha is not None and suffix not in NO_ALPHA:
        parts.append(photo.alpha)
    image = torch.cat(parts) if len(parts) > 1 else photo.pixels  # avoids copying a large image
    if photo.levels > 255 and suffix == ".png":
        path.write_bytes(encode_png16(image, photo.info))
        return
    if photo.levels > 255:
        image = (image / (photo.levels / 255)).round().to(torch.uint8)
    options: dict[str, bytes | int] = {**photo.info}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95  # Pillow advises against more
    elif suffix == ".png":
        options["compress_level"] = 4  # takes half the time of 6 for files 5 % larger
    Image.fromarray(to_array(image)).save(path, Image.registered_extensions()[suffix], **options)


def encode_png16(image: Tensor, info: dict[str, bytes]) -> bytes:
    """Encode a 16-bit PNG file: 3 or 4 x H x W values up to 65535, with profile and EXIF data."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy().astype(np.uint16))
    encoded: bytes = bytes(imagecodecs.png_encode(pixels, level=4))
    chunks = b""
    if "icc_profile" in info:
        chunks += png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(info["icc_profile"]))
    if "exif" in info:
        chunks += png_chunk(b"eXIf", info["exif"].removeprefix(b"Exif\0\0"))
    header = 8 + 25  # signature and IHDR, the first chunk
    return encoded[:header] + chunks + encoded[header:]
