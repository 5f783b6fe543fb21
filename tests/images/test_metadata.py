"""Metadata never decide over pixels, neither reading nor writing."""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

from images.metadata import MAX_PROFILE
from images.reading import Photo, read_image, read_photo
from images.writing import write_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
EXIF, GPS = ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def tiff_block(entries: list[tuple[int, int, int, bytes]], order: str = "<") -> bytes:
    """EXIF data from (tag, type, count, 4 bytes)."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    body = struct.pack(order + "IH", 8, len(entries))
    body += b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + body + bytes(200)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif_of(path: Path) -> Image.Exif:
    """EXIF data of a file, loaded for good."""
    with Image.open(path) as image:
        exif = image.getexif()
        exif.get_ifd(EXIF), exif.get_ifd(GPS)
        return exif


ODD = [
    [(0x010F, 5, 1, struct.pack("<I", 60))],  # Make as a fraction
    [(0x010F, 3, 1, struct.pack("<I", 9)), (0x0110, 12, 1, struct.pack("<I", 60))],
    [(0x0131, 2, 2**31, struct.pack("<I", 8))],  # a text of two gigabytes
    [(0x0132, 99, 1, bytes(4))],  # a type that does not exist
    [(0x011A, 5, 1, struct.pack("<I", 2**31))],  # a fraction outside of the data
    [(0x8769, 4, 1, struct.pack("<I", 8))],  # a part that is the whole
    [(0x8769, 4, 1, struct.pack("<I", 2**32 - 1))],
    [(0x8825, 2, 4, b"abc\0")],
    [(0x829A, 9, 1, struct.pack("<i", -5)), (0x8827, 8, 1, struct.pack("<i", -1))],
]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("k", range(len(ODD)))
def test_odd_fields_cost_nothing_but_themselves(tmp_path: Path, suffix: str, k: int) -> None:
    turned = (0x0112, 3, 1, struct.pack("<I", 6))
    data = tiff_block([*ODD[k], turned] if ODD[k][0][0] < 0x0112 else [turned, *ODD[k]])
    path = tmp_path / f"a.{suffix}"
    options: dict[str, Any] = {} if suffix == "jpg" else {"lossless": True}
    Image.fromarray(PIXELS).save(path, exif=data, **options)
    photo = read_photo(path)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        upright = np.rot90(np.array(image.convert("RGB")), -1)
    assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), upright)
    assert torch.equal(read_image(path), photo.pixels)
    for target in ("jpg", "png", "webp", "tif", "bmp"):
        write_photo(tmp_path / f"b.{target}", photo, overwrite=True)
        assert read_image(tmp_path / f"b.{target}").shape == photo.pixels.shape


def test_a_field_of_another_type_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    artist = (0x013B, 2, 4, b"Ann\0")
    data = tiff_block([(0x010F, 5, 1, struct.pack("<I", 60)), artist])
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=data)
    photo = read_photo(tmp_path / "a.jpg")
    for suffix in ("jpg", "png", "tif"):
        write_photo(tmp_path / f"b.{suffix}", photo)
        assert exif_of(tmp_path / f"b.{suffix}")[0x013B] == "Ann"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("what", ["itxt", "ztxt", "iccp", "many", "crc", "phys"])
def test_png_files_with_metadata_that_pillow_refuses(tmp_path: Path, what: str, deep: bool) -> None:
    plain = tmp_path / "plain.png"
    if deep:
        plain.write_bytes(imagecodecs.png_encode(DEEP))
    else:
        Image.fromarray(PIXELS).save(plain)
    text, noise = b"history; " * 200_000, np.random.default_rng(0).bytes(1_500_000)
    extra = {
        "itxt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(text)),
        "ztxt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(text)),
        "iccp": chunk(b"iCCP", b"printer\0\0" + zlib.compress(bytes(128) + noise)),
        "many": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 70,
        "crc": chunk(b"tEXt", b"Comment\0made with love")[:-1] + b"?",
        "phys": chunk(b"pHYs", b"abc"),
    }[what]
    content = plain.read_bytes()
    turned = tiff_block([(0x0112, 3, 1, struct.pack("<I", 8))]).removeprefix(b"Exif\0\0")
    path = tmp_path / "a.png"
    path.write_bytes(content[:33] + extra + chunk(b"eXIf", turned) + content[33:])
    photo = read_photo(path)
    expected = np.rot90(DEEP if deep else PIXELS)
    assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), expected)
    assert "metadata" in "".join(photo.notes)
    assert read_image(path).shape == (3, 30, 20)


@pytest.mark.parametrize("source", ["png", "webp", "tif", "jpg"])
def test_exif_data_that_do_not_fit_are_left_out_and_said(tmp_path: Path, source: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "A. N. Other"
    length = 60_000 if source == "jpg" else 90_000
    exif.get_ifd(EXIF)[ExifTags.Base.MakerNote] = bytes(length)
    Image.fromarray(PIXELS).save(tmp_path / f"a.{source}", exif=exif.tobytes())
    photo = read_photo(tmp_path / f"a.{source}")
    lost = write_photo(tmp_path / "b.jpg", photo)
    if source == "jpg":
        assert not lost
        assert exif_of(tmp_path / "b.jpg")[ExifTags.Base.Artist] == "A. N. Other"
    else:
        assert "EXIF" in lost[0]
    assert read_image(tmp_path / "b.jpg").shape == (3, 20, 30)
    for suffix in ("png", "webp", "tif"):
        assert not write_photo(tmp_path / f"b.{suffix}", photo, overwrite=True)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_data_state_the_size_of_the_result(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength] = 30, 20
    exif[ExifTags.Base.Copyright] = "me"
    inner = exif.get_ifd(EXIF)
    inner[ExifTags.Base.ExifImageWidth], inner[ExifTags.Base.ExifImageHeight] = 30, 20
    inner[ExifTags.Base.ISOSpeedRatings] = 200
    exif.get_ifd(GPS)[1] = "N"
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=exif.tobytes())
    photo = read_photo(tmp_path / "a.jpg")
    large = photo._replace(pixels=photo.pixels.repeat(1, 2, 2))
    write_photo(tmp_path / f"b.{suffix}", large)
    again = exif_of(tmp_path / f"b.{suffix}")
    inner = again.get_ifd(EXIF)
    assert (inner[0xA002], inner[0xA003]) == (40, 60)
    assert (again[256], again[257]) == (40, 60)
    assert again.get(0x0112, 1) == 1
    assert inner[ExifTags.Base.ISOSpeedRatings] == 200
    assert again.get_ifd(GPS)[1] == "N"
    assert again[ExifTags.Base.Copyright] == "me"


def test_thumbnails_of_the_old_picture_do_not_stay(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (16, 12), "red").save(jpeg, "JPEG")
    thumbnail = jpeg.getvalue()
    first = struct.pack("<H", 1) + struct.pack("<HHI4s", 0x013B, 2, 4, b"Ann\0")
    second_at = 8 + len(first) + 4
    at = second_at + 2 + 24 + 4
    second = struct.pack("<H", 2) + struct.pack("<HHII", 0x0201, 4, 1, at)
    second += struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8) + first + struct.pack("<I", second_at) + second
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + data + thumbnail)
    assert thumbnail in (tmp_path / "a.jpg").read_bytes()
    write_photo(tmp_path / "b.jpg", read_photo(tmp_path / "a.jpg"))
    assert thumbnail not in (tmp_path / "b.jpg").read_bytes()
    assert exif_of(tmp_path / "b.jpg")[0x013B] == "Ann"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_of_ordinary_files(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{suffix}"
    for mode in ("L", "RGB"):
        Image.fromarray(PIXELS).convert(mode).save(path, exif=exif.tobytes())
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            expected = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)


def test_large_and_damaged_profiles_are_left_out(tmp_path: Path) -> None:
    pixels = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for profile in (b"x" * 200, PROFILE + bytes(MAX_PROFILE)):
        Image.fromarray(PIXELS).save(tmp_path / "a.jpg", icc_profile=profile)
        assert "icc_profile" not in read_photo(tmp_path / "a.jpg").info
    # What the writer cannot write is left out as well.
    photo = Photo(pixels, None, 255, {"exif": b"nonsense", "icc_profile": PROFILE})
    assert "EXIF" in write_photo(tmp_path / "b.png", photo)[0]
    with Image.open(tmp_path / "b.png") as image:
        assert image.info["icc_profile"] == PROFILE


@pytest.mark.parametrize("kind", ["palette", "gray16", "rgb16", "la"])
def test_transparency_of_every_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    key: Callable[[bytes], bytes] = lambda data: chunk(b"tRNS", data)  # noqa: E731
    if kind == "palette":
        image = Image.fromarray(PIXELS).quantize(8)
        image.save(path, transparency=bytes([0, 100, 255, 255, 255, 255, 255, 255]))
        expected = np.array([0, 100, 255, 255, 255, 255, 255, 255])[np.array(image)]
    elif kind == "la":
        Image.fromarray(PIXELS[..., :2].copy(), "LA").save(path)
        expected = PIXELS[..., 1]
    else:
        samples = DEEP[..., 0] if kind == "gray16" else DEEP
        content = imagecodecs.png_encode(np.ascontiguousarray(samples))
        color = samples[3, 4:5] if kind == "gray16" else samples[3, 4]
        path.write_bytes(content[:33] + key(color.astype(">u2").tobytes()) + content[33:])
        hidden = samples == color if kind == "gray16" else (samples == color).all(-1)
        expected = np.where(hidden, 0, 65535)
    photo = read_photo(path)
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha[0].numpy(), expected)


def test_size_limits_of_formats(tmp_path: Path) -> None:
    for suffix, side in (("webp", 16_384), ("jpg", 65_501)):
        for size in ((1, side), (side, 1)):
            photo = Photo(torch.zeros(3, *size, dtype=torch.uint8), None, 255, {})
            with pytest.raises(ValueError, match=r"pixels a side; format=png"):
                write_photo(tmp_path / f"a.{suffix}", photo)
            write_photo(tmp_path / "a.png", photo, overwrite=True)
        edge = Photo(torch.zeros(3, 1, side - 1, dtype=torch.uint8), None, 255, {})
        write_photo(tmp_path / f"a.{suffix}", edge)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png", "a.webp"]


@pytest.mark.parametrize("suffix", ["heic", "avif"])
def test_pictures_of_phones(tmp_path: Path, suffix: str) -> None:
    if suffix == "heic":
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
    smooth = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 48, 0).repeat(3, 2)
    for orientation in (1, 6):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(smooth).save(path, quality=95, exif=exif.tobytes())
        found = read_image(path).permute(1, 2, 0).numpy()
        expected = smooth if orientation == 1 else np.rot90(smooth, -1)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).mean() < 4
        path.rename(tmp_path / "nameless")
        assert read_photo(tmp_path / "nameless").pixels.shape[1:] == expected.shape[:2]


def test_decoders_that_are_not_installed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"a\.heic: .*pip install pillow-heif"):
        read_image(path)
