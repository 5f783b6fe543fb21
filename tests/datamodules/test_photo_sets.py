"""Photos given as lists, globs and files: names, LR partners, overlaps, stores, fingerprints."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.benchmark import Benchmark
from datamodules.folders import PhotoFolders
from images.reading import read_image


def save(path: str, side: int = 48, seed: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def _photos(folder: Path) -> None:
    """photos/a/{1,2}, photos/b/{1,3}: two photos share a file name."""
    for k, name in enumerate(("a/1", "a/2", "b/1", "b/3")):
        save(f"photos/{name}.bmp", seed=k)


def names(where: str | list[str], **more: object) -> list[str]:
    data = PhotoFolders(None, where, **more)  # type: ignore[arg-type]
    return [source.name for source in data.hr_sources("val")]


def test_names_are_those_of_the_folder_that_holds_all() -> None:
    everything = ["a/1", "a/2", "b/1", "b/3"]
    for where in (
        "photos",
        "photos/**",
        "photos/**/*.bmp",
        "photos/*/*.bmp",
        ["photos/a", "photos/b"],
        ["photos/b/", "photos/a/*.bmp", "photos/a/1.bmp"],
        [str(Path("photos/b").resolve()), "photos/a"],
    ):
        assert names(where) == everything
    assert names("photos/a") == names(["photos/a"]) == names("photos/a/*.bmp") == ["1", "2"]
    assert names("photos/b/3.bmp") == ["3"]
    assert names(["photos/b/3.bmp", "photos/b/1.bmp"]) == ["1", "3"]
    assert names("photos/?/1.*") == ["a/1", "b/1"]
    save("photos/a/1.png")
    with pytest.raises(ValueError, match=r"data\.val_hr: photos/a/1\.bmp and 1\.png share"):
        names(["photos/b", "photos/a"])


def test_photos_of_one_name_keep_their_own_pixels() -> None:
    data = PhotoFolders(None, ["photos/a", "photos/b"])
    data.setup("validate")
    for k, name in enumerate(("a/1", "a/2", "b/1", "b/3")):
        assert data.val[k].name == name
        assert torch.equal(data.val[k].hr, read_image(f"photos/{name}.bmp"))


def test_fingerprint_follows_the_photos_and_not_how_they_are_given() -> None:
    def fingerprint(*where: str) -> str:
        return PhotoFolders(None, list(where) if len(where) > 1 else where[0]).fingerprint("val")

    whole = fingerprint("photos")
    # Of version 0.2, which took one folder: run folders are found again by it.
    assert whole == "4794dfc09bbad86c1e292543d17f7ce8e35a083df280f2c3ab87ba6a109ec58f"
    assert fingerprint("photos/a", "photos/b") == whole
    assert fingerprint("photos/b", "photos/a") == whole
    assert fingerprint("photos/**/*.bmp") == whole
    assert fingerprint("photos/a") != whole
    assert fingerprint("photos/a", "photos/b/3.bmp") != whole
    save("photos/b/3.bmp", seed=99)
    changed = fingerprint("photos/a", "photos/b")
    assert changed == fingerprint("photos") != whole
    save("photos/b/4.bmp", seed=100)
    assert fingerprint("photos/a", "photos/b") == fingerprint("photos") != changed


def test_stores_of_two_choices_beside_one_folder_stay(caplog: pytest.LogCaptureFixture) -> None:
    choices: list[str | list[str]] = [
        "photos/a",
        "photos/a/1.bmp",
        "photos/a/2*",
        ["photos/a/2.bmp"],
    ]
    for where in choices:
        PhotoFolders(None, where).fingerprint("val")
    assert Path("photos/packed/a").is_dir()
    assert not Path("packed").exists()
    caplog.set_level(logging.INFO)
    caplog.clear()
    for where in choices:
        PhotoFolders(None, where).fingerprint("val")
    assert "packing" not in caplog.text
    PhotoFolders(None, ["photos/b", "photos/a"], store="store").fingerprint("val")
    assert len(list(Path("store").iterdir())) == 1


def split(train: str | list[str], val: str | list[str], **more: object) -> tuple[list[str], ...]:
    data = PhotoFolders(train, val, **more)  # type: ignore[arg-type]
    return tuple([str(s.path) for s in data.hr_sources(name)] for name in ("train", "val"))


@pytest.mark.parametrize(
    ("train", "val", "trains", "validates"),
    [
        ("photos", "photos/b", "a/1 a/2", "b/1 b/3"),  # as ever
        ("photos/b", "photos", "b/1 b/3", "a/1 a/2"),
        ("photos", "photos", "a/1 a/2 b/1 b/3", "a/1 a/2 b/1 b/3"),
        ("photos", "photos/*/1.bmp", "a/2 b/3", "a/1 b/1"),
        ("photos/**/*.bmp", "photos/b", "a/1 a/2", "b/1 b/3"),
        (["photos/a", "photos/b"], "photos/b", "a/1 a/2", "b/1 b/3"),
        (["photos/a", "photos/b"], ["photos/b/3.bmp"], "a/1 a/2 b/1", "b/3"),
        ("photos/*/1.bmp", "photos/**", "a/1 b/1", "a/2 b/3"),
        ("photos/a/*", "photos/*/1.bmp", "a/2", "a/1 b/1"),
        ("photos/a/*", ["photos/a/1.bmp", "photos/a/2.bmp"], "a/1 a/2", "a/1 a/2"),
    ],
)
def test_photos_that_validate_do_not_train(
    train: str | list[str], val: str | list[str], trains: str, validates: str
) -> None:
    found = split(train, val)
    for photos, wanted in zip(found, (trains, validates), strict=True):
        assert photos == [f"photos/{name}.bmp" for name in wanted.split()]


def test_how_many_are_kept_apart_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    split("photos/**", "photos/*/1.bmp")
    assert "data.train_hr=photos/**: 2 photos; left out: 2 validation photos" in caplog.text
    caplog.clear()
    split("photos/a/*", ["photos/a"])
    assert "the same 2 photos are used for training and validation" in caplog.text


def test_lr_photos_of_lists() -> None:
    for k, name in enumerate(("a/1", "a/2", "b/1", "b/3")):
        folder, _, stem = name.partition("/")
        save(f"lr/{folder}/{stem}.bmp", 24, 10 + k)  # one tree
        save(f"lr_{folder}/X2/{stem}x2.bmp", 24, 20 + k)  # a folder each

    def lr(hr: str | list[str], lr: str | list[str]) -> list[str]:
        data = PhotoFolders(None, hr, val_lr=lr)
        sources = data.lr_sources("val", 2, data.hr_sources("val"))
        assert sources is not None
        return [source.path for source in sources]

    tree = [f"lr/{name}.bmp" for name in ("a/1", "a/2", "b/1", "b/3")]
    each = [f"lr_{name}x2.bmp" for name in ("a/X2/1", "a/X2/2", "b/X2/1", "b/X2/3")]
    both = ["photos/a", "photos/b"]
    for hr in ("photos", both, both[::-1], "photos/*/*.bmp"):
        assert lr(hr, "lr") == lr(hr, "lr/**/*.bmp") == tree
    assert lr(both, ["lr_a", "lr_b"]) == lr(both[::-1], ["lr_b", "lr_a"]) == each
    assert lr("photos/a/*", "lr_a") == lr("photos/a", "lr_a/X2/*x2.bmp") == each[:2]
    assert lr(["photos/a/2.bmp", "photos/b/3.bmp"], ["lr_a", "lr_b"]) == [each[1], each[3]]
    assert lr(["photos/a/2.bmp", "photos/b/3.bmp"], "lr") == [tree[1], tree[3]]
    # All of several folders are searched where they are not as many as those of HR.
    with pytest.raises(ValueError, match=r"LR photos are missing:\s+.* \(of 1\.bmp\)"):
        lr("photos", ["lr_a", "lr_b"])
    with pytest.raises(ValueError, match=r"of 1\.bmp could be lr_a/X2/1x2\.bmp or lr_b/X2/1x2"):
        lr("photos/b/*", ["lr_a", "lr_b"])
    with pytest.raises(ValueError, match="could be LR of photos/a/1"):
        lr(["photos/a/1.bmp", "photos/b/1.bmp"], "lr_a")
    data = PhotoFolders(None, both, val_lr=["lr_a", "lr_b"])
    data.setup("validate")
    for k, path in enumerate(each):
        assert torch.equal(data.val[k].lr, read_image(path))


def test_lr_photos_among_hr_photos_do_not_train() -> None:
    for name in ("1", "2"):
        save(f"photos/a/{name}x2.bmp", 24)
    data = PhotoFolders(None, "photos/a/*.bmp", val_lr="photos/a/*x2.bmp")
    assert [source.name for source in data.hr_sources("val")] == ["1", "2"]
    data.setup("validate")
    assert data.val[0].lr.shape == (3, 24, 24)


def test_results_of_enhance_do_not_train(caplog: pytest.LogCaptureFixture) -> None:
    save("photos/a/1_x2.png", 96)
    save("photos/enhanced/b/3_x4.png", 192)
    save("photos/b/tower_x2.bmp")  # of no photo here
    caplog.set_level(logging.INFO)
    train, _ = split("photos", "photos/a/2.bmp")
    assert train == [f"photos/{n}.bmp" for n in ("a/1", "b/1", "b/3", "b/tower_x2")]
    assert "2 named like results of enhance" in caplog.text
    save("Set/HR/bird.png")
    save("Set/HR/bird_x2.png", 96)
    assert [source.name for source in Benchmark("Set").hr_sources("val")] == ["bird"]


def test_all_that_is_wrong_is_said_at_once() -> None:
    Path("empty").mkdir()
    data = PhotoFolders(["photos/a", "absent", "*.webp"], "empty", val_lr=["photos/b", "gone"])
    with pytest.raises(ValueError, match="4 problems") as error:
        data.fingerprint()
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "data.train_hr=absent",
        "data.train_hr=*.webp",
        "data.val_hr=empty",
        "data.val_lr=gone",
    ]
    with pytest.raises(ValueError, match=r"data\.val_hr= is empty"):
        PhotoFolders(None, []).fingerprint("val")


def test_measuring_does_without_the_photos_that_train() -> None:
    data = PhotoFolders(["elsewhere", "photos/a/2.bmp"], "photos/a/*", train_lr="gone")
    assert [source.name for source in data.hr_sources("val")] == ["1", "2"]
