from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.images import find_images, read_image, write_image

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


def test_finding_images(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    names = [p.name for p in find_images(str(tmp_path))]
    assert names == ["a.jpg", "b.png"]
    assert [p.name for p in find_images(f"{tmp_path}/*.png")] == ["b.png"]
    assert find_images(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]
    (tmp_path / "empty").mkdir()
    for where in ("empty", "absent.png", "*.webp"):
        with pytest.raises(ValueError, match="no "):
            find_images(str(tmp_path / where))
