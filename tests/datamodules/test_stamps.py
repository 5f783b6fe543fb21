"""A photo that was replaced is read again, however alike its file looks."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import packing
from datamodules.folders import Decode
from datamodules.packing import Order, pack
from datamodules.store import PackedImages, Source
from system.files import file_sha256


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)  # a BMP, whose size says nothing about its content


def store(folder: Path, *, reread: bool = False) -> PackedImages:
    sources = [Source(path.stem, str(path)) for path in sorted(folder.glob("photos/*.bmp"))]
    orders = [Order("HR", sources, Decode(), "photos")]
    return pack(folder / "store", orders, per_shard=2, num_workers=0, reread=reread)[0]


def shows(images: PackedImages, folder: Path) -> bool:
    files = sorted(folder.glob("photos/*.bmp"))
    return all(np.array_equal(images[k], np.array(Image.open(f))) for k, f in enumerate(files))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for k in range(3):
        draw(tmp_path / "photos" / f"{k}.bmp", k)
    return tmp_path


@pytest.mark.parametrize("how", ["in place", "moved", "rewritten bytes"])
def test_same_size_and_time(photos: Path, how: str) -> None:
    assert shows(store(photos), photos)
    path = photos / "photos" / "1.bmp"
    old = path.stat()
    if how == "moved":
        draw(photos / "new.bmp", 99)
        os.utime(photos / "new.bmp", ns=(old.st_atime_ns, old.st_mtime_ns))
        os.replace(photos / "new.bmp", path)
    else:
        if how == "in place":
            draw(path, 99)
        else:
            content = bytearray(path.read_bytes())
            content[-5] ^= 255
            path.write_bytes(content)
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_size == old.st_size
    assert path.stat().st_mtime_ns == old.st_mtime_ns
    assert shows(store(photos), photos)


def test_within_the_grain_of_the_clock_content_is_compared(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose stamps do not differ at all."""
    monkeypatch.setattr(
        packing,
        "stat_sources",
        lambda group: np.array([[os.stat(s.path).st_size, 0, 0, 0] for s in group]),
    )
    assert shows(store(photos), photos)
    draw(photos / "photos" / "1.bmp", 99)
    stale = store(photos)  # stamps of long ago leave no doubt
    assert not shows(stale, photos)
    assert shows(store(photos, reread=True), photos)  # but overwrite=true does not trust them
    shutil.rmtree(photos / "store")
    now = os.stat(photos / "photos").st_mtime_ns + 10**9
    monkeypatch.setattr(
        packing,
        "stat_sources",
        lambda group: np.array([[os.stat(s.path).st_size, now, 0, 0] for s in group]),
    )
    assert shows(store(photos), photos)
    draw(photos / "photos" / "1.bmp", 5)
    assert shows(store(photos), photos)


def test_photos_that_moved_are_compared_once_and_not_packed_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(photos)
    before = {p.name: p.stat().st_ino for p in tmp_path.rglob("*.safetensors")}
    shutil.copytree(photos / "photos", photos / "copy")
    shutil.rmtree(photos / "photos")
    (photos / "copy").rename(photos / "photos")
    monkeypatch.setattr(packing, "TIME_GRAIN", -(10**18))  # as if all this had taken a while
    compared: list[str] = []

    def hashed(path: str) -> str:
        compared.append(path)
        return file_sha256(path)

    monkeypatch.setattr("datamodules.packing.file_sha256", hashed)
    assert shows(store(photos), photos)
    assert len(compared) == 3
    store(photos)
    assert len(compared) == 3
    assert {p.name: p.stat().st_ino for p in tmp_path.rglob("*.safetensors")} == before
