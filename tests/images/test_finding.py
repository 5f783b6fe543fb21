"""Files, folders with all below them, globs and lists of these; each real file once."""

import os
import unicodedata
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from datamodules.div2k import DIV2K
from datamodules.folders import PhotoFolders, check_names
from images.finding import search, walk

Form = Literal["NFC", "NFD"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def save(path: Path, side: int = 48, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def below(where: str | list[str], **options: object) -> list[str]:
    return [str(found.relative_path) for found in search(where, **options).photos]  # type: ignore[arg-type]


def test_a_folder_is_searched_to_its_end(folder: Path) -> None:
    touch(folder, "p/a.jpg", "p/sub/b.PNG", "p/sub/deep/c.jfif", "p/.hidden/d.png", "p/.e.png")
    touch(folder, "p/notes.txt", "p/sub/Thumbs.db", "p/x.CR2", "p/@eaDir/a.jpg/THUMB.jpg")
    touch(folder, "p/packed/p/HR-1/00000.safetensors", "p/packed/p/HR-1/a.png")
    touch(folder, "p/run/.hydra/config.yaml", "p/run/images/f.png")
    assert below("p") == ["a.jpg", "sub/b.PNG", "sub/deep/c.jfif"]
    assert search("p").summary() == "3 photos; left out: 1 .cr2, 1 .db, 1 .txt"
    assert below("p", exclude=[Path("p/sub")]) == ["a.jpg"]
    assert below("p/sub", exclude=[Path("p")]) == ["b.PNG", "deep/c.jfif"]
    assert below("p/.hidden") == ["d.png"]
    touch(folder, "only/readme.txt")
    with pytest.raises(ValueError, match=r"no photos found .*left out: 1 \.txt"):
        search("only")


def test_files_without_suffix_are_known_by_their_content(folder: Path) -> None:
    (folder / "p").mkdir()
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        Image.new("RGB", (4, 4)).save(folder / "p" / kind, kind)
    touch(folder, "p/README")
    os.mkfifo(folder / "p" / "pipe")
    assert below("p") == ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]
    assert search("p").left_out == {"without suffix": 2}


def test_links_are_followed_once(folder: Path) -> None:
    touch(folder, "p/a/b.png", "q/c.png")
    for link, target in (("p/loop", "."), ("p/a/up", ".."), ("p/q", "../q"), ("p/0", "a")):
        (folder / link).symlink_to(target)
    (folder / "p/twice.png").symlink_to("a/b.png")
    found = below("p")
    assert len(found) == 2
    assert "q/c.png" in found
    assert len(search("p/**/*.png").paths) == 2
    assert len(search(["p", "q", "q/c.png"]).paths) == 2


def test_globs_and_lists(folder: Path) -> None:
    odd = ("[2024] trip", "*", "test%", "a,b", "{x}", "zdjęcia", "trailing ")
    for name in odd:
        touch(folder, f"{name}/s [1].png")
    touch(folder, "2 trip/z.png", "a/b/c.jpg", "a/d.png", "a/.h/e.png")
    for name in odd:
        if name != "*":
            assert search(f"{name}/*.png").paths == [Path(name, "s [1].png")]
        assert search(f"{name}/s [1].png").paths[0].name == "s [1].png"
    assert Path("*/s [1].png") in search("*/*.png").paths
    assert len(search("*/*.png").paths) == len(odd) + 2
    assert below("a/**/*.jpg") == ["b/c.jpg"]
    assert below("a/**") == ["b/c.jpg", "d.png"]
    assert below("a/*") == ["b/c.jpg", "d.png"]
    assert below(["a/d.png", "a/b"]) == ["c.jpg", "d.png"]
    for wrong in ("", [], ["a", ""], "absent", "a/*.webp", ["a", "absent/*.png"]):
        with pytest.raises(ValueError, match="input="):
            search(wrong)


def test_results_are_told_from_photos_by_their_source(folder: Path) -> None:
    touch(folder, "p/a.png", "p/a_x2.png", "p/a_x2_x2.png", "p/sub/b.jpg", "p/b_x3.png")
    touch(folder, "p/out/sub/b_x4.png", "p/out/a_x2.webp")
    assert below("p", results=False) == ["a.png", "b_x3.png", "sub/b.jpg"]  # b is elsewhere
    assert len(below("p")) == 7
    assert "4 named like results" in search("p", results=False).summary()
    assert below("p/a_x2.png", results=False) == ["a_x2.png"]
    assert below(["p", "p/a_x2.png"], results=False) == [
        "a.png",
        "a_x2.png",
        "b_x3.png",
        "sub/b.jpg",
    ]


def test_data_sets_have_subfolders(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "day 1/a", "day 1/b", "val/c")):
        save(tmp_path / "hr" / f"{name}.png", 48, k)
        save(tmp_path / "hr" / "lr" / "X2" / f"{name}x2.png", 24, k)
    hr, lr = str(tmp_path / "hr"), str(tmp_path / "hr" / "lr")
    data = PhotoFolders(hr, f"{hr}/val", train_lr=lr, patch_size=8)
    data.setup()
    # Neither validation photos nor LR photos train.
    assert data.train.hr.names.tolist() == ["a", "day 1/a", "day 1/b"]
    assert data.train.lr[2].sizes.tolist() == [[24, 24]] * 3
    assert data.val.hr.names.tolist() == ["c"]
    save(tmp_path / "hr" / "day 1" / "a.bmp")
    with pytest.raises(ValueError, match="share the name"):
        PhotoFolders(hr, f"{hr}/val", patch_size=8).setup()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_that_look_the_same_match(tmp_path: Path, forms: tuple[Form, Form]) -> None:
    hr, lr = (unicodedata.normalize(form, "café") for form in forms)
    assert hr != lr
    save(tmp_path / "hr" / hr / f"{hr}.png", 48)
    save(tmp_path / "lr" / lr / f"{lr}x2.png", 24)
    data = PhotoFolders(None, str(tmp_path / "hr"), val_lr=str(tmp_path / "lr"))
    data.setup("validate")
    assert data.val.lr[2].sizes.tolist() == [[24, 24]]
    save(tmp_path / "lr" / hr / f"{hr}.png", 24)
    with pytest.raises(ValueError, match="could be"):
        PhotoFolders(None, str(tmp_path / "hr"), val_lr=str(tmp_path / "lr")).setup("validate")


def test_what_systems_leave_behind_does_not_block_div2k(tmp_path: Path) -> None:
    touch(tmp_path, "0001.png", "Thumbs.db", "desktop.ini", ".DS_Store", "._0001.png", "Icon\r")
    touch(tmp_path, "@eaDir/x", "Desktop.ini")
    check_names(tmp_path, ["0001.png"], complete=True)
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match=r"notes\.txt does not belong here"):
        check_names(tmp_path, ["0001.png"], complete=True)
    folder = tmp_path / "root" / "DIV2K_valid_HR"
    touch(tmp_path, *(f"root/DIV2K_valid_HR/{k:04}.png" for k in range(801, 901)))
    touch(folder, "Thumbs.db")
    assert len(DIV2K(str(tmp_path / "root")).hr_sources("val")) == 100


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read as a folder"):
        list(walk(tmp_path / "absent"))
