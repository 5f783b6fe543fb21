"""Image files in and out: what is read is upright 8-bit RGB, what is written is whole or absent."""

import contextlib
import glob
import hashlib
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# What Pillow raises where a file is damaged.
DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, NotImplementedError, struct.error)
MAX_PROFILE = 2**20  # bytes of an ICC profile: Pillow would not open the PNG file of a larger one
# What Pillow is asked to read. All begin with letters of their own, so that a file cannot be of two
# kinds; others of its readers look elsewhere, start programs (PostScript) or are no photos.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
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
    image, _ = open_upright(path)
    if image.mode.startswith("I"):  # Pillow would clip 16-bit gray to 255 instead of scaling it
        gray = deep_gray(image, path)
        image = Image.fromarray(np.rint(gray / 257).astype(np.uint8))
    return rgb_tensor(image)


def rgb_tensor(image: Image.Image) -> Tensor:
    """An image without alpha as 3 x H x W uint8; what is RGB already is not copied once more."""
    return to_tensor(np.array(image if image.mode == "RGB" else image.convert("RGB")))


def open_upright(path: str | Path) -> tuple[Image.Image, bool]:
    """Opens and decodes an image file, with its EXIF orientation applied.

    Returns:
        The image, and whether the file has colour of 16 bits, of which Pillow keeps 8.

    Raises:
        ValueError: if the file is missing, unreadable or no image; the message names it.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # reading a pipe would wait for ever
        raise ValueError(f"{path}: cannot be read as an image (it is no file)")
    try:
        with Image.open(path, formats=FORMATS) as file:
            deep = ";16" in str(file.tile) and file.mode in ("LA", "RGB", "RGBA")
            file.load()
            image = upright(file)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image file") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    if image.mode == "F":
        raise ValueError(f"{path}: has floating-point pixels, whose range is not known")
    return image, deep


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF data say; as it is where these are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGED:
        return image


def deep_gray(image: Image.Image, path: str | Path) -> NDArray[np.int64]:
    """The values of a 16-bit gray image, 0 to 65535.

    Raises:
        ValueError: if there are larger ones, or negative ones.
    """
    gray = np.asarray(image, dtype=np.int64)
    if gray.min() < 0 or gray.max() > 65535:
        raise ValueError(f"{path}: has 32-bit pixels, whose range is not known")
    return gray


class Photo(NamedTuple):
    """A photo with everything that has to survive its enhancement.

    `pixels` is 3 x H x W and `alpha` 1 x H x W or None: uint8, or int32 where `levels`, their
    largest value, is 65535. `info` has `icc_profile` and `exif` as Pillow saves them.
    """

    pixels: Tensor
    alpha: Tensor | None
    levels: int
    info: dict[str, Any]


def read_photo(path: str | Path) -> Photo:
    """Reads a photo upright with its alpha channel, 16 bits, ICC profile and EXIF data.

    Raises:
        ValueError: if the file is missing, unreadable or no image; the message names it. 16 bits
            need OpenCV.
    """
    image, deep = open_upright(path)
    info: dict[str, Any] = {}
    # A profile of gray or of printing inks would be wrong for what becomes RGB.
    profile = image.info.get("icc_profile")
    if profile and len(profile) < MAX_PROFILE and image.mode in ("RGB", "RGBA", "P"):
        info["icc_profile"] = profile
    with contextlib.suppress(*DAMAGED):  # without them the photo is still one
        if exif := upright_exif(path, image):
            info["exif"] = exif.tobytes()
    if deep:
        return deep_photo(path, info)
    if image.mode.startswith("I"):
        opencv(path)  # would be missed when the result is written
        gray = torch.from_numpy(deep_gray(image, path)).int()
        return Photo(gray.expand(3, *gray.shape).contiguous(), None, 65535, info)
    if image.has_transparency_data:
        pixels = to_tensor(np.array(image.convert("RGBA")))
        return Photo(pixels[:3], pixels[3:], 255, info)
    return Photo(rgb_tensor(image), None, 255, info)


def upright_exif(path: str | Path, image: Image.Image) -> Image.Exif:
    """The EXIF data of a photo that has been turned upright.

    Those of a TIFF file are among the tags that say how its pixels lie, which are left out.
    """
    if exif := image.getexif():
        return exif
    with Image.open(path, formats=FORMATS) as file:
        found = file.getexif()
        exif = Image.Exif()
        for tag in DESCRIPTIVE:
            if tag in found:
                exif[tag] = found[tag]
        for pointer in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if entries := found.get_ifd(pointer):
                exif.get_ifd(pointer).update(entries)
    return exif


def opencv(path: str | Path) -> Any:  # noqa: ANN401
    """OpenCV, which reads and writes 16-bit colour.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise ValueError(
            f"{path}: 16 bits need OpenCV: pip install opencv-python-headless"
        ) from error
    return cv2


def deep_photo(path: str | Path, info: dict[str, Any]) -> Photo:
    """A 16-bit colour image, which Pillow cannot hold."""
    cv2 = opencv(path)
    found = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)  # as it lies
    if found is None or found.dtype != np.uint16:
        raise ValueError(f"{path}: OpenCV cannot read this 16-bit image")
    if found.ndim == 2:
        found = found[..., None]
    orientation = 1
    with contextlib.suppress(*DAMAGED), Image.open(path, formats=FORMATS) as file:
        orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    turned = UPRIGHT.get(orientation, UPRIGHT[1])(found)
    channels = torch.from_numpy(np.ascontiguousarray(turned).astype(np.int32)).permute(2, 0, 1)
    color = channels[:3].flip(0) if len(channels) >= 3 else channels[:1].expand(3, -1, -1)
    alpha = channels[-1:].contiguous() if len(channels) in (2, 4) else None
    return Photo(color.contiguous(), alpha, 65535, info)


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

# From the values of the EXIF tag to upright H x W x C arrays.
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
    write_photo(path, Photo(image, None, 255, {}), overwrite=overwrite)


def write_photo(path: Path, photo: Photo, *, overwrite: bool = False) -> None:
    """Writes a photo with its ICC profile and EXIF data; a reader never sees half a file.

    PNG files keep 16 bits, all others have 8; JPEG files and BMP files have no alpha channel.

    Raises:
        ValueError: if the file exists and `overwrite` is not set, or the suffix is unknown.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: overwrite=true replaces it")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: allowed suffixes are {' '.join(SUFFIXES)}")
    parts = [photo.pixels]
    if photo.alpha is not None and suffix not in (".jpg", ".jpeg", ".bmp"):
        parts.append(photo.alpha)
    image = torch.cat(parts) if len(parts) > 1 else photo.pixels  # a large one is not copied
    options = dict(photo.info)
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95  # Pillow's advice for the highest that still pays
    elif suffix == ".png":
        options["compress_level"] = 4  # a photo in half the time of 6, and 5 % larger
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        if photo.levels > 255 and suffix == ".png":
            Path(temporary).write_bytes(deep_png(path, image, photo.info))
        else:
            if photo.levels > 255:
                image = (image / (photo.levels / 255)).round().to(torch.uint8)
            Image.fromarray(to_array(image)).save(temporary, **options)
        os.chmod(temporary, 0o666 & ~current_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def deep_png(path: Path, image: Tensor, info: dict[str, Any]) -> bytes:
    """A PNG file of 16 bits: 3 or 4 x H x W values up to 65535, with profile and EXIF data."""
    cv2 = opencv(path)
    order = [2, 1, 0, 3][: len(image)]  # OpenCV's is BGR
    pixels = np.ascontiguousarray(image[order].permute(1, 2, 0).numpy().astype(np.uint16))
    encoded: bytes = cv2.imencode(".png", pixels)[1].tobytes()
    chunks = b""
    if "icc_profile" in info:
        chunks += png_chunk(b"iCCP", b"ICC\0\0" + zlib.compress(info["icc_profile"]))
    if "exif" in info:
        chunks += png_chunk(b"eXIf", info["exif"].removeprefix(b"Exif\0\0"))
    header = 8 + 25  # the signature and IHDR, which comes first
    return encoded[:header] + chunks + encoded[header:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file (specification, section 5.3)."""
    total = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)


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
    try:
        path.stat()
    except FileNotFoundError:
        pass  # a glob
    except OSError as error:
        raise ValueError(f"input={where}: cannot be read ({error.strerror})") from error
    if path.is_file():
        return [path]
    if path.exists() and not path.is_dir():
        raise ValueError(f"input={where}: is no file, folder or glob")
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
