import os
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps

from images.finding import search
from images.reading import Photo, probe_size, read_image, read_photo
from images.writing import write_image, write_photo

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    image = torch.from_numpy(RAMP).permute(2, 0, 1)
    write_image(tmp_path / "deep" / "a.png", image)
    assert torch.equal(read_image(tmp_path / "deep" / "a.png"), image)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    write_image(tmp_path / "a.png", image)
    with pytest.raises(ValueError, match="exists: overwrite=true"):
        write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "a.png", image, overwrite=True)
    with pytest.raises(ValueError, match="allowed suffixes"):
        write_image(tmp_path / "a.gif", image)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 6), 32896, dtype=np.uint16))
    else:
        image = Image.fromarray(np.full((4, 6, 3), 128, dtype=np.uint8))
        image = image.quantize(4) if mode == "P" else image.convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    read = read_image(path)
    assert read.shape == (3, 4, 6)
    assert read.dtype == torch.uint8
    if mode != "1":
        assert (read.int() - 128).abs().max() <= 1


def test_exif_data_of_a_tiff_are_kept_without_those_of_its_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "someone"
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 200
    Image.new("RGB", (4, 6)).save(tmp_path / "a.tif", exif=exif.tobytes())
    found = read_photo(tmp_path / "a.tif")
    assert found.pixels.shape == (3, 4, 6)
    for suffix in ("png", "jpg", "webp", "tif"):
        write_photo(tmp_path / f"b.{suffix}", found)
        with Image.open(tmp_path / f"b.{suffix}") as file:
            again = file.getexif()
            assert file.size == (6, 4)
            inner = again.get_ifd(ExifTags.IFD.Exif)
        assert again[ExifTags.Base.Artist] == "someone"
        assert inner[ExifTags.Base.ISOSpeedRatings] == 200
        assert again.get(ExifTags.Base.Orientation, 1) == 1


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(RAMP)
    exif = image.getexif()
    exif[274] = 6  # turned by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").shape == (3, 6, 4)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"0" * 50])
def test_broken_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.png"):
        read_image(path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"cut\.png: cannot be read"):
        read_image(path)


def test_other_files_that_a_person_has(tmp_path: Path) -> None:
    """docs/data.md lists what is done with each."""
    photo = Image.fromarray(np.full((4, 6, 3), 128, dtype=np.uint8))
    # A JPEG under the name of a PNG is read by its content.
    photo.save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (3, 4, 6)
    # Of an animation the first frame is read.
    for suffix in ("gif", "webp", "png"):
        frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
        frames[0].save(tmp_path / f"b.{suffix}", save_all=True, append_images=frames[1:])
        first = read_image(tmp_path / f"b.{suffix}")[:, 0, 0].tolist()
        assert first[0] > 250
        assert max(first[1:]) < 5
    # The alpha channel is dropped; the colours stay.
    Image.new("RGBA", (6, 4), (10, 20, 30, 0)).save(tmp_path / "c.png")
    assert read_image(tmp_path / "c.png")[:, 0, 0].tolist() == [10, 20, 30]
    # 16 bits per channel become 8.
    wide = np.array([[0, 257, 65535, 32896]], dtype=np.uint16)
    Image.fromarray(wide).save(tmp_path / "d.png")
    assert read_image(tmp_path / "d.png")[0, 0].tolist() == [0, 1, 255, 128]
    Image.fromarray(np.zeros((4, 6), np.float32)).save(tmp_path / "e.tif")
    with pytest.raises(ValueError, match=r"e\.tif: has floating-point pixels"):
        read_image(tmp_path / "e.tif")
    Image.fromarray(np.full((4, 6), 70_000, np.int32)).save(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"f\.tif: has signed 32-bit pixels"):
        read_image(tmp_path / "f.tif")
    with pytest.raises(ValueError, match=r"cannot be read as an image"):
        read_image(tmp_path)
    assert probe_size(tmp_path / "a.png") == (4, 6)
    assert "absent.png: no such file" in str(probe_size(tmp_path / "absent.png"))


def test_sixteen_bit_colours_are_rounded_as_gray_is(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:  # Pillow itself cannot write such a PNG
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">6H", 0, 255, 256, 511, 65535, 32767)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert read_image(tmp_path / "a.png")[:, 0].T.tolist() == [[0, 1, 1], [2, 255, 127]]


def test_decompression_bomb_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)  # 400 million pixels in 50 kB
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"bomb\.png: cannot be read as an image \(.*bomb"):
        read_image(path)


def test_unreadable_file_is_refused_by_name() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # the file is to be what cannot be read
        path = Path(folder) / "secret.png"
        Image.new("RGB", (4, 4)).save(path)
        path.chmod(0)
        pid = os.fork()
        if (
            pid == 0
        ):  # a child, because root reads everything and cannot come back from not being it
            code = 2
            try:
                if os.geteuid() == 0:
                    os.setgid(65534)
                    os.setuid(65534)
                found = str(probe_size(path))
                named = "secret.png: cannot be read" in found and "Permission" in found
                code = 0 if named else 1
            finally:  # whatever is raised, no second pytest goes on
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_finding_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    names = [p.name for p in search(str(tmp_path)).paths]
    assert names == ["a.jpg", "b.png"]
    assert [p.name for p in search(f"{tmp_path}/*.png").paths] == ["b.png"]
    assert search(str(tmp_path / "notes.txt")).paths == [tmp_path / "notes.txt"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "folder.png").mkdir()
    (tmp_path / "links" / "broken.png").symlink_to("absent.png")
    (tmp_path / "links" / "loop.png").symlink_to("loop.png")
    found = search(str(tmp_path / "links")).paths
    assert [p.name for p in found] == ["broken.png", "loop.png"]  # reading them says what is wrong
    assert all(p.name in str(probe_size(p)) for p in found)
    (tmp_path / "empty").mkdir()
    for where in ("empty", "absent.png", "*.webp"):
        with pytest.raises(ValueError, match="no "):
            search(str(tmp_path / where))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_of_sixteen_bits_come_upright_and_keep_what_goes_with_them(
    tmp_path: Path, orientation: int
) -> None:
    pixels = torch.randint(0, 65536, (4, 5, 7), dtype=torch.int32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    info = {"exif": exif.tobytes(), "icc_profile": profile}
    write_photo(tmp_path / "a.png", Photo(pixels[:3], pixels[3:], 65535, info))
    with Image.open(tmp_path / "a.png") as file:  # in 8 bits
        expected = np.array(ImageOps.exif_transpose(file).convert("RGBA"))
    found = read_photo(tmp_path / "a.png")
    assert found.levels == 65535
    assert found.info["icc_profile"] == profile
    assert found.alpha is not None
    values = torch.cat([found.pixels, found.alpha]).permute(1, 2, 0).numpy()
    assert values.shape == expected.shape
    assert np.abs(values / 257 - expected).max() < 1.01
    again = Image.Exif()
    again.load(found.info["exif"])
    assert again[0x010F] == "A camera"
    assert again.get(0x0112, 1) == 1
    write_photo(tmp_path / "b.png", found)
    twice = read_photo(tmp_path / "b.png")
    assert torch.equal(twice.pixels, found.pixels)
    assert torch.equal(twice.alpha, found.alpha)  # type: ignore[arg-type]


def test_profiles_of_other_colours_do_not_stay_with_rgb(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, kept in (("RGB", True), ("L", False), ("CMYK", False)):
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode}.jpg", icc_profile=profile)
        assert ("icc_profile" in read_photo(tmp_path / f"{mode}.jpg").info) == kept
