"""The page takes the photos that `enhance` takes, and says nothing about them on the terminal."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from images.metadata import png_chunk
from tests.web.conftest import Server
from tests.web.test_app import picture


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_png_files_with_megabytes_of_metadata_are_photos(server: Server, kind: bytes) -> None:
    plain = picture(20, 10)
    metadata = png_chunk(kind, b"a\0\0" + zlib.compress(bytes(3_000_000)))
    answer = server.upload(plain[:33] + metadata + plain[33:])
    assert answer.status_code == 201, answer.text
    with Image.open(io.BytesIO(plain)) as image:
        size = image.size
    assert (answer.json()["width"], answer.json()["height"]) == size


def test_such_a_file_of_too_many_pixels_is_refused_by_its_header(server: Server) -> None:
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    metadata = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000)))
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + metadata + png_chunk(b"IEND", b"")
    answer = server.upload(bomb)
    assert answer.status_code == 413
    assert "2147483647 x 2147483647 pixels" in answer.text


def test_decoders_do_not_write_to_the_terminal(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    deep = bytes(imagecodecs.png_encode(np.zeros((4, 4), np.uint16)))
    start = deep.index(b"IDAT") - 4
    more = deep[:start] + png_chunk(b"IDAT", zlib.compress(bytes(2000))) + png_chunk(b"IEND", b"")
    assert server.upload(more).status_code in (201, 422)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    tiff = bytearray(buffer.getvalue())
    samples = tiff.index(struct.pack("<HHI", 277, 3, 1))
    tiff[samples + 8 : samples + 12] = struct.pack("<I", 3331)  # per pixel
    assert server.upload(bytes(tiff)).status_code in (415, 422)
    assert [r.getMessage() for r in caplog.records if r.name.startswith(("PIL", "imagec"))] == []
