"""python run.py prepare, with archives from a server of the test's own."""

import csv
import functools
import hashlib
import http.server
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import preparing
from tests.conftest import Cli


def save(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(width * height)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


class Requests(list[str]):
    """What the server was asked for."""


@pytest.fixture
def server(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Requests]:
    """DIV2K with tiny photos on a local server, and the command told of its address and sums."""
    root = tmp_path_factory.mktemp("server")
    sums = {}
    for name in preparing.DIV2K_ARCHIVES:
        numbers = range(1, 801) if "train" in name else range(801, 901)
        scale = int(name[-1]) if "/" in name else 1
        suffix = f"x{scale}" if "/" in name else ""
        photo = root / f"{scale}.png"
        save(photo, 24 // scale, 36 // scale)
        target = root / f"DIV2K_{name[6:].replace('/', '_')}.zip"
        with zipfile.ZipFile(target, "w") as archive:
            for number in numbers:
                archive.write(photo, f"{name}/{number:04}{suffix}.png")
        sums[name] = (hashlib.md5(target.read_bytes()).hexdigest(), None)
    requests = Requests()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *arguments: object) -> None:
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        monkeypatch.setattr(preparing, "DIV2K_URL", f"http://127.0.0.1:{httpd.server_port}/")
        monkeypatch.setattr(preparing, "DIV2K_ARCHIVES", sums)
        yield requests
        httpd.shutdown()


def test_addresses_and_sums_are_those_of_div2k() -> None:
    assert preparing.DIV2K_URL == "http://data.vision.ee.ethz.ch/cvl/DIV2K/"
    assert len(preparing.DIV2K_ARCHIVES) == 8
    assert preparing.DIV2K_ARCHIVES["DIV2K_train_HR"][0] == "bdc2d9338d4e574fe81bf7d158758658"
    assert len({md5 for md5, _ in preparing.DIV2K_ARCHIVES.values()}) == 8
    assert all(len(md5) == 32 for md5, _ in preparing.DIV2K_ARCHIVES.values())


@pytest.mark.slow
def test_div2k_is_fetched_verified_packed_and_trained_on(
    cli: Cli, folder: Path, server: Requests
) -> None:
    done = cli("prepare", "dataset=div2k", "scales=[2]", "pack=true")
    assert done.code == 0, done.err
    assert sorted(server) == [
        f"/DIV2K_{name}.zip"
        for name in ("train_HR", "train_LR_bicubic_X2", "valid_HR", "valid_LR_bicubic_X2")
    ]
    assert "the 100 HR test photos were never published" in done.out
    assert re.search(r"packed/DIV2K_train_HR/X2-\w{8}: 800 images", done.out)
    assert "checksums match" in done.out
    assert not list(folder.rglob("*.zip"))
    again = cli("prepare", "dataset=div2k", "scales=[2]", "pack=true")
    assert again.code == 0
    assert len(server) == 4  # nothing was asked for again
    assert "packing" not in again.out
    done = cli(
        *("experiment=div2k_edsr", "gamma=0", "debug=smoke", "data.patch_size=8", "name=x"),
        *("net.num_blocks=1", "net.num_features=8", "callbacks.before_after=null"),
    )
    assert done.code == 0, done.err
    assert "data: DIV2K: 800 photos for training" in done.out
    assert "packing" not in done.out  # training reads the very store that prepare has written


@pytest.mark.slow
def test_bad_photos_of_div2k_are_named(cli: Cli, folder: Path, server: Requests) -> None:
    assert cli("prepare", "dataset=div2k", "scales=[2]").code == 0
    root = folder / "data" / "DIV2K"
    bad = root / "DIV2K_train_LR_bicubic" / "X2" / "0007x2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    done = cli("prepare", "dataset=div2k", "scales=[2]")
    assert done.code == 1
    assert "train LR x2: 799 of 800 files are good" in done.out
    assert "0007x2.png: cannot be read as an image" in done.out
    save(bad, 13, 18)
    done = cli("prepare", "dataset=div2k", "scales=[2]")
    assert done.code == 2
    assert "X2/0007x2.png is 13x18, expected 12x18, as HR is 24x36" in done.err
    bad.unlink()
    done = cli("prepare", "dataset=div2k", "scales=[2]")
    assert done.code == 2
    assert "0007x2.png is missing" in done.err


def test_wrong_checksum_ends_it(
    cli: Cli, folder: Path, server: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = preparing.DIV2K_ARCHIVES | {"DIV2K_valid_HR": ("0" * 32, None)}
    monkeypatch.setattr(preparing, "DIV2K_ARCHIVES", sums)
    done = cli("prepare", "dataset=div2k", "scales=[2]")
    assert done.code == 2
    assert "DIV2K_valid_HR.zip: the checksum is wrong" in done.err
    assert not (folder / "data" / "DIV2K" / "DIV2K_valid_HR").exists()


def test_photos_are_verified_and_packed(cli: Cli, folder: Path) -> None:
    for k in range(3):
        save(folder / "photos" / f"{k}.png", 30 + k, 40)
    done = cli("prepare", "dataset=photos", "root=photos", "pack=true", "scales=[2,4]")
    assert done.code == 0, done.err
    stores = [path.name for path in (folder / "packed" / "photos").iterdir()]
    assert sorted(name.split("-")[0] for name in stores) == ["HR", "X2", "X4"]
    (folder / "photos" / "1.png").write_bytes(b"")
    done = cli("prepare", "dataset=photos", "root=photos")
    assert done.code == 1
    assert "photos: 2 of 3 files are good" in done.out
    assert "1.png: not an image file" in done.out
    done = cli("prepare", "dataset=photos", "root=photos", "pack=true", "scales=[2]")
    assert done.code == 1
    assert "1 of the HR photos (val) cannot be used" in done.out
    assert "1.png: not an image file" in done.out


def test_damaged_store_is_found(cli: Cli, folder: Path) -> None:
    save(folder / "photos" / "a.png", 30, 40)
    words = ("prepare", "dataset=photos", "root=photos", "pack=true", "scales=[2]")
    assert cli(*words).code == 0
    (shard,) = (folder / "packed" / "photos").glob("HR-*/00000.safetensors")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(bytes(content))
    done = cli(*words)
    assert done.code == 2
    assert "1 files had a wrong checksum and were removed" in done.err
    assert cli(*words).code == 0


def test_ava_is_explained_and_verified(cli: Cli, folder: Path) -> None:
    done = cli("prepare", "dataset=ava", "root=AVA")
    assert done.code == 2
    assert "github.com/imfing/ava_downloader" in done.err
    lines = []
    for k, number in enumerate((1, 2, 3, 4, 440774)):
        save(folder / "AVA" / "images" / f"{number}.jpg", 50, 40)
        lines.append(f"{k} {number} 1 2 3 4 5 6 7 8 9 10 0 0 7")
    save(folder / "AVA" / "images" / "999.jpg", 50, 40)
    (folder / "AVA" / "images" / "2.jpg").unlink()
    (folder / "AVA" / "AVA.txt").write_text("\n".join(lines))
    done = cli("prepare", "dataset=ava", "root=AVA", "pack=true")
    assert done.code == 0, done.err
    assert "AVA.txt: 5 photos; images/: 5 files" in done.out
    assert "1 without a file: 2.jpg" in done.out
    assert "1 known to be corrupt and not used: 440774.jpg" in done.out
    assert "1 not in AVA.txt and not used: 999.jpg" in done.out
    assert "data.split=random" in done.out  # there is no official list
    assert re.search(r"packed/images/squash256-\w{8}: 3 images", done.out)
    assert "photos: 3 of 3 files are good" in cli("prepare", "dataset=ava", "root=AVA").out
    (folder / "AVA" / "images" / "3.jpg").write_bytes(b"x")
    done = cli("prepare", "dataset=ava", "root=AVA")
    assert done.code == 1
    assert "3.jpg: not an image file" in done.out
    more = [f"{k} {k} 1 2 3 4 5 6 7 8 9 10 0 0 7" for k in range(10, 31)]
    (folder / "AVA" / "AVA.txt").write_text("\n".join([*lines, *more]))
    save(folder / "AVA" / "images" / "3.jpg", 50, 40)
    done = cli("prepare", "dataset=ava", "root=AVA", "pack=true")
    assert done.code == 1
    assert "22 without a file" in done.out
    assert "more photos are missing than the 20 that the archive lacks" in done.out
    assert "ready" not in done.out


def test_rated_photos_are_verified_and_packed(cli: Cli, folder: Path) -> None:
    with open(folder / "ratings.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "mean"], ["a.png", 2.5], ["b.png", 3.5]])
    save(folder / "photos" / "a.png", 50, 40)
    words = ("prepare", "dataset=rated", "root=photos", "ratings=ratings.csv", "num_buckets=5")
    done = cli(*words)
    assert done.code == 1
    assert "1 without a file: b.png" in done.out
    save(folder / "photos" / "b.png", 50, 40)
    done = cli(*words, "pack=true")
    assert done.code == 0, done.err
    assert re.search(r"packed/photos/squash256-\w{8}: 2 images", done.out)
