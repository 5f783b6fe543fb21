"""Rated photos in subfolders, lists and globs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.ava import AVA
from datamodules.rated import RatedFolder, StoredRatings
from tests.conftest import TINY_NIMA, Cli

SIZES: dict[str, Any] = {"resize": 40, "crop": 32, "batch_size": 2}


def save(path: Path, number: int) -> None:
    """Write a photo whose bytes no library version changes: an uncompressed BMP."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = (number * 20, 255 - number * 20, 7)
    Image.new("RGB", (40 + number, 36), color).save(path, format="BMP")


def table(path: Path, *names: str) -> None:
    """Write a table in which photo k has the mean 2 + k."""
    rows = [f"{name},{2 + k}" for k, name in enumerate(names)]
    path.write_text("\n".join(["image,mean", *rows]) + "\n")


def rated(root: Path, images: str | list[str] = "photos", **more: Any) -> RatedFolder:  # noqa: ANN401
    given = [images] if isinstance(images, str) else images
    where = [str(root / text) for text in given]
    photos = where[0] if isinstance(images, str) else where
    return RatedFolder(str(root / "ratings.csv"), photos, **(SIZES | more))


def means(data: StoredRatings) -> dict[str, float]:
    """Return the mean rating and check the pixels of each photo, by name."""
    data.setup()
    found = {}
    for split in (data.train, data.val):
        for item, p_K in zip(split.items.tolist(), split.p_NK.numpy(), strict=True):
            mean = round(float(p_K @ np.arange(1, 11)), 3)
            assert split.images[item][0, 0, 0] == (mean - 2) * 20  # the red of photo k
            found[str(split.images.names[item])] = mean
    return found


def test_fingerprint_of_one_flat_folder_is_that_of_version_0_1(tmp_path: Path) -> None:
    # Both were computed at commit 303ea13, which read flat folders only.
    for k in range(6):
        save(tmp_path / "photos" / f"{k}.bmp", k)
        save(tmp_path / "AVA" / "images" / f"{1000 + k}.jpg", k)
    table(tmp_path / "ratings.csv", *(f"{k}.bmp" for k in range(6)))
    before = "c172fe2035b118c9407c5b4e5e640579fa93f2d2d25f89455c557f0a98861e8b"
    assert rated(tmp_path).fingerprint() == before
    assert (tmp_path / "packed" / "photos" / "squash40-7cbb0a75").is_dir()
    lines = [f"{k + 1} {1000 + k} 1 2 3 4 5 6 7 8 9 {k} 0 0 7" for k in range(6)]
    (tmp_path / "AVA" / "AVA.txt").write_text("\n".join(lines))
    before = "205af62d323d68840a1df25eb50cbbfd1574651e80a64ea339c2c87a2a16c485"
    assert AVA(str(tmp_path / "AVA"), split="random", **SIZES).fingerprint() == before


def test_names_are_found_in_subfolders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for k, name in enumerate(["top.bmp", "a/one.bmp", "a/b/two.bmp", "a/b/three.bmp", "spare.bmp"]):
        save(tmp_path / "photos" / name, k)
    (tmp_path / "photos" / "a" / "notes.txt").write_text("")
    table(tmp_path / "ratings.csv", "top.bmp", "a/one.bmp", "two.bmp", "b/three.bmp")
    data = rated(tmp_path, val_share=0.5)
    names = ["top.bmp", "a/one.bmp", "a/b/two.bmp", "a/b/three.bmp"]
    assert means(data) == dict(zip(names, range(2, 6), strict=True))
    assert "4 rated photos; left out: 1 photo without ratings; 1 .txt" in caplog.text
    (tmp_path / "val.txt").write_text("two\nb/three.bmp\n")
    data = rated(tmp_path, val_list=str(tmp_path / "val.txt"))
    data.setup()
    assert data.val.names.tolist() == ["a/b/two.bmp", "a/b/three.bmp"]


def test_a_path_comes_before_a_file_name(tmp_path: Path) -> None:
    for k, name in enumerate(["x.bmp", "a/x.bmp", "a/y.bmp"]):
        save(tmp_path / "photos" / name, k)
    table(tmp_path / "ratings.csv", "x.bmp", "a/x.bmp", "y.bmp")
    assert means(rated(tmp_path)) == {"x.bmp": 2, "a/x.bmp": 3, "a/y.bmp": 4}
    # A file of another folder does not stand in for one that is missing.
    table(tmp_path / "ratings.csv", "x.bmp", "b/y.bmp")
    with pytest.raises(ValueError, match=r"1 of 2 rated images are not in .*photos: b/y\.bmp"):
        rated(tmp_path).setup()


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    for k, name in enumerate(["2023/x.bmp", "2024/x.bmp", "y.bmp"]):
        save(tmp_path / "photos" / name, k)
    table(tmp_path / "ratings.csv", "y.bmp", "x.bmp")
    message = r"ratings\.csv, 'x\.bmp' in line 3: could be 2023/x\.bmp or 2024/x\.bmp$"
    with pytest.raises(ValueError, match=message):
        rated(tmp_path).setup()
    table(tmp_path / "ratings.csv", "2023/x.bmp", "2024/x.bmp", "y.bmp")
    (tmp_path / "val.txt").write_text("x\n")
    message = r"val\.txt: x: could be 2023/x or 2024/x$"
    with pytest.raises(ValueError, match=message):
        rated(tmp_path, val_list=str(tmp_path / "val.txt")).setup()


def test_lists_and_globs(tmp_path: Path) -> None:
    for k, name in enumerate(["2023/a.bmp", "2024/b.bmp", "2024/sub/c.bmp", "old/a.bmp"]):
        save(tmp_path / "photos" / name, k)
    table(tmp_path / "ratings.csv", "a.bmp", "2024/b.bmp", "c.bmp")
    two = ["photos/2023", "photos/2024"]
    names = {"2023/a.bmp": 2, "2024/b.bmp": 3, "2024/sub/c.bmp": 4}
    assert means(rated(tmp_path, two)) == names
    assert means(rated(tmp_path, "photos/202*")) == names
    prints = {rated(tmp_path, images).fingerprint() for images in (two, two[::-1], "photos/202*")}
    assert len(prints) == 1
    with pytest.raises(ValueError, match=r"data\.images=.*nowhere: no such file or folder"):
        rated(tmp_path, [*two, "nowhere"]).setup()


def test_links_to_one_photo_are_photos_of_their_own(tmp_path: Path) -> None:
    save(tmp_path / "photos" / "a.bmp", 0)
    save(tmp_path / "photos" / "sub" / "spare.bmp", 1)
    (tmp_path / "photos" / "b.bmp").symlink_to("a.bmp")
    table(tmp_path / "ratings.csv", "a.bmp", "b.bmp")
    data = rated(tmp_path)
    data.setup()
    assert sorted([*data.train.names, *data.val.names]) == ["a.bmp", "b.bmp"]


def ava(root: Path, *names: str) -> None:
    """Write AVA's layout, with photos 1000, 1001, ... at these places."""
    for k, name in enumerate(names):
        save(root / name, k)
    votes = np.eye(10, dtype=int)[1:]  # photo k: all votes are 2 + k
    rows = [f"{k} {1000 + k} {' '.join(map(str, votes[k]))} 0 0 7" for k in range(len(names))]
    (root / "AVA.txt").write_text("\n".join(rows))


def test_ava_in_subfolders_and_elsewhere(tmp_path: Path) -> None:
    root = tmp_path / "AVA"
    ava(root, "images/1000.jpg", "images/0/1001.jpg", "images/1/1002.jpg")
    (root / "generic_test.jpgl").write_text("1001\n")
    data = AVA(str(root), **SIZES)
    assert means(data) == {"1000.jpg": 2, "0/1001.jpg": 3, "1/1002.jpg": 4}
    assert data.val.names.tolist() == ["0/1001.jpg"]
    (root / "images").rename(tmp_path / "disk")
    images = [str(tmp_path / "disk" / "0"), str(tmp_path / "disk" / "*.jpg")]
    data = AVA(str(root), images=images, split="random", max_missing=1, **SIZES)
    assert means(data) == {"1000.jpg": 2, "0/1001.jpg": 3}
    save(tmp_path / "disk" / "1" / "1001.jpg", 1)
    with pytest.raises(ValueError, match=r"could be 0/1001\.jpg or 1/1001\.jpg$"):
        AVA(str(root), images=str(tmp_path / "disk"), **SIZES).setup()


def test_prepare_finds_them_too(cli: Cli, folder: Path) -> None:
    for k, name in enumerate(["2023/a.bmp", "2024/b.bmp", "2024/spare.bmp"]):
        save(folder / "photos" / name, k)
    table(folder / "ratings.csv", "a.bmp", "b.bmp")
    words = ("prepare", "dataset=rated", "ratings=ratings.csv", "pack=true")
    done = cli(*words, "root=photos")
    assert done.code == 0, done.err
    assert "1 not in the table and not used: 2024/spare.bmp" in done.out
    assert re.search(r"packed/photos/squash256-\w{8}: 2 images", done.out)
    done = cli(*words, "root=[photos/2023,photos/2024]")
    assert done.code == 0, done.err
    assert "data.images=[photos/2023,photos/2024]" in done.out
    save(folder / "photos" / "2023" / "b.bmp", 3)
    done = cli(*words, "root=photos")
    assert done.code == 2
    assert "'b.bmp' in line 3: could be 2023/b.bmp or 2024/b.bmp" in done.err
    ava(folder / "AVA", "images/x/1000.jpg", "images/y/1001.jpg")
    done = cli("prepare", "dataset=ava", "root=AVA", "images=[AVA/images/x,AVA/images/y]")
    assert done.code == 0, done.err
    assert "photos: 2 of 2 files are good" in done.out
    done = cli("prepare", "dataset=rated", "ratings=ratings.csv", "root=photos", "images=photos")
    assert done.code == 2
    assert "images=photos: only AVA and other published rated sets use it" in done.err


@pytest.mark.slow
def test_training_takes_folders_called_like_numbers(cli: Cli, folder: Path) -> None:
    for k in range(6):
        save(folder / f"{2023 + k % 2}" / f"{k}.bmp", k)
    table(folder / "ratings.csv", *(f"{k}.bmp" for k in range(6)))
    words = [word for word in TINY_NIMA if not word.startswith("data.num_")]
    done = cli(*words, "data=rated", "data.ratings=ratings.csv", "data.images=[2023,2024]")
    assert done.code == 0, done.err
    assert "packing 6 rated photos" in done.out
