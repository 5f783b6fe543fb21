"""Photos of odd programs: thumbnails in front, tags of other types, few bits with transparency."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from images.reading import read_image, read_photo

RNG = np.random.default_rng(0)
FULL = RNG.integers(0, 256, (20, 33, 3), dtype=np.uint8)
SMALL = RNG.integers(0, 256, (5, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("below", [False, True])
def test_a_thumbnail_in_front_is_not_the_photo(tmp_path: Path, below: bool) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(SMALL, subfiletype=1, photometric="rgb", subifds=1 if below else None)
        writer.write(FULL, photometric="rgb")
    photo = read_photo(path)
    assert np.array_equal(photo.pixels.permute(1, 2, 0).numpy(), FULL)
    assert photo.notes == ()


def test_a_file_with_a_reduced_page_alone_is_that_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SMALL, photometric="rgb", subfiletype=1)
    assert np.array_equal(read_image(tmp_path / "a.tif").permute(1, 2, 0).numpy(), SMALL)


@pytest.mark.parametrize(
    ("tag", "turned"), [((274, 2, 2, "x", True), False), ((274, 3, 2, (3, 6), True), True)]
)
def test_orientation_of_another_type(tmp_path: Path, tag: Any, turned: bool) -> None:  # noqa: ANN401
    tifffile.imwrite(tmp_path / "a.tif", FULL, photometric="rgb", extratags=[tag])
    expected = FULL[::-1, ::-1] if turned else FULL
    assert np.array_equal(read_image(tmp_path / "a.tif").permute(1, 2, 0).numpy(), expected)


def test_a_palette_of_8_bits_against_the_specification(tmp_path: Path) -> None:
    index = RNG.integers(0, 256, (20, 33), dtype=np.uint8)
    palette = RNG.integers(0, 256, (3, 256), dtype=np.uint16)
    for factor in (1, 257):
        path = tmp_path / f"{factor}.tif"
        tifffile.imwrite(path, index, photometric="palette", colormap=palette * factor)
        assert np.array_equal(read_image(path).numpy(), palette[:, index])


def test_channels_without_a_meaning_are_said(tmp_path: Path) -> None:
    bands = RNG.integers(0, 256, (6, 20, 33), dtype=np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="separate")
    photo = read_photo(path)
    assert np.array_equal(photo.pixels[0].numpy(), bands[0])
    assert photo.notes == ("5 channels are neither colour nor alpha, left out",)


def test_two_frames_of_a_phone_are_said(tmp_path: Path) -> None:
    first, second = Image.fromarray(FULL), Image.fromarray(SMALL)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert "the first of 2 pages or frames" in read_photo(tmp_path / "a.jpg").notes[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_gray_of_few_bits(tmp_path: Path, bits: int) -> None:
    """Written by hand from the PNG specification: colour type 0 with tRNS."""
    levels = 2**bits - 1
    gray = RNG.integers(0, levels + 1, (6, 16), dtype=np.uint8)
    gray[0, 0] = 1

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    planes = np.unpackbits(gray[..., None], axis=2)[..., 8 - bits :]
    rows = np.packbits(planes.reshape(6, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 6, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 1))
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha[0].numpy(), np.where(gray == 1, 0, 255))
    opaque = gray != 1
    expected = gray.astype(int) * (255 // levels)
    assert np.array_equal(photo.pixels[0].numpy()[opaque], expected[opaque])
