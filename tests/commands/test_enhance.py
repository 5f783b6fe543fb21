"""What enhance and score do with photos as people have them."""

import csv
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from images.alpha import fill_hidden
from images.reading import read_image
from lightning_modules.enhancing import enhanced
from networks.edsr import EDSR
from runs import enhancing
from system.files import temporary_prefix
from tests.conftest import ROOT, Cli

SHIPPED = ROOT / "weights" / "edsr_x2_gamma_0.safetensors"


def save(path: Path, width: int = 32, height: int = 24) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def tree(folder: str) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_subfolders_lists_and_globs(cli: Cli, enhancer: Path, scorer_file: Path) -> None:
    for name in ("a.png", "sub/a.jpg", "sub/deep/b.png"):
        save(Path("photos", name))
    Path("photos/notes.txt").touch()
    Path("photos/loop").symlink_to(".")
    words = [f"checkpoint={enhancer}", "output=photos/out", "tile=16"]
    done = cli("enhance", "input=photos", *words)
    assert done.code == 0, done.out
    assert tree("photos/out") == ["a_x2.png", "sub/a_x2.png", "sub/deep/b_x2.png"]
    first, *lines = done.out.splitlines()
    assert "EDSR x2" in first
    assert "3 photos; left out: 1 .txt" in first
    begin = "[1/3] photos/a.png  32 x 24, 4 tiles -> photos/out/a_x2.png  64 x 48"
    assert lines[0] == begin
    done = cli("enhance", "input=[photos/a.png,photos/sub/*.jpg]", *words, "output=listed")
    assert done.code == 1, done.out  # both would be a_x2.png
    assert "already became listed/a_x2.png" in done.out
    done = cli("score", "input=[photos/a.png,photos/sub]", f"checkpoint={scorer_file}",
               "output=s.csv")  # fmt: skip
    assert done.code == 0, done.out
    assert "3 photos" in done.out
    with open("s.csv", newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    assert names == ["photos/a.png", "photos/sub/a.jpg", "photos/sub/deep/b.png"]


@pytest.mark.slow
def test_a_partial_run_is_continued(cli: Cli, enhancer: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        save(Path("photos", name))
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=out"]
    assert cli(*words).code == 0
    Path("out/b_x2.png").unlink()  # as if killed before
    kept = Path("out/a_x2.png").stat().st_mtime_ns
    refused = cli(*words)
    assert refused.code == 1
    assert refused.out.count("existing=skip keeps it") == 2
    Path("out/b_x2.png").unlink()
    done = cli(*words, "existing=skip")
    assert done.code == 0, done.out
    assert "2 skipped" in done.out
    assert Path("out/a_x2.png").stat().st_mtime_ns == kept
    assert tree("out") == ["a_x2.png", "b_x2.png", "c_x2.png"]
    assert cli(*words, "existing=skip").code == 0
    both = cli(*words, "existing=skip", "overwrite=true")
    assert both.code == 2
    assert "choose one" in both.err
    assert cli(*words, "existing=all").code == 2


def test_skipping_names_the_twins_of_kept_results(cli: Cli, enhancer: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        save(Path("photos", name))
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=out", "existing=skip"]
    assert "photos/a.jpg already became out/a_x2.png" in cli(*words).out
    done = cli(*words)
    assert done.code == 1
    assert "2 skipped" in done.out
    assert "photos/a.png: out/a_x2.png may be the result of photos/a.jpg" in done.out


@pytest.mark.slow
def test_half_written_results_of_killed_processes_go(cli: Cli, enhancer: Path) -> None:
    save(Path("photos/a.png"))
    killed = (
        "import os; from images import writing\n"
        "writing.encode = lambda path, *_: (path.touch(), os.kill(os.getpid(), 9))\n"
        "from pathlib import Path; from images.reading import read_photo\n"
        "writing.write_photo(Path('out/sub/a_x2.png'), read_photo(Path('photos/a.png')))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", killed], env=environment)
    (part,) = Path("out/sub").iterdir()
    of_a_living_one = part.with_name(f"{temporary_prefix()}{os.getpid()}-x.png")
    of_a_living_one.touch()
    done = cli("enhance", "input=photos", f"checkpoint={enhancer}", "output=out", "existing=skip")
    assert done.code == 0, done.out
    assert tree("out") == ["a_x2.png", f"sub/{of_a_living_one.name}"]


def test_a_broken_photo_does_not_block_its_twin(cli: Cli, enhancer: Path) -> None:
    save(Path("photos/a.png"))
    save(Path("photos/b.jpg"))
    Path("photos/a.jpg").write_bytes(Path("photos/b.jpg").read_bytes()[:300])
    done = cli("enhance", "input=photos", f"checkpoint={enhancer}", "output=out")
    assert done.code == 1
    assert "1 not enhanced:\n  photos/a.jpg: cannot be read" in done.out
    assert tree("out") == ["a_x2.png", "b_x2.png"]


def test_results_among_the_photos_are_no_photos(cli: Cli, enhancer: Path) -> None:
    save(Path("photos/a.png"))
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=photos"]
    assert cli(*words).code == 0
    again = cli(*words, "existing=skip")
    assert again.code == 0
    assert "1 photo; left out: 1 named like results" in again.out
    assert tree("photos") == ["a.png", "a_x2.png"]


def test_sizes_that_a_format_cannot_hold_cost_no_work(
    cli: Cli, enhancer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Path("panorama.png"), 8200, 16)
    monkeypatch.setattr(EDSR, "forward", lambda *_: pytest.fail("worked in vain"))
    words = ["enhance", "input=panorama.png", f"checkpoint={enhancer}", "output=out"]
    done = cli(*words, "format=webp")
    assert done.code == 1
    assert "would be 16400 x 32, and webp files have up to 16383 pixels a side" in done.out
    assert not Path("out").exists()


@pytest.mark.parametrize("kind", ["rgba", "palette", "deep"])
def test_colours_under_transparency_do_not_show(cli: Cli, folder: Path, kind: str) -> None:
    """A white disc on nothing, whose hidden colour is black, put on white is white everywhere."""
    y, x = np.mgrid[:48, :48] + 0.5
    alpha = np.clip(16.5 - np.hypot(x - 24, y - 24), 0, 1)
    if kind == "palette":
        alpha = (alpha > 0.5).astype(float)
        image = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save("disc.png", transparency=0)
    else:
        levels, dtype = (65535, np.uint16) if kind == "deep" else (255, np.uint8)
        rgba = np.zeros((48, 48, 4), dtype)
        rgba[..., 3] = np.rint(levels * alpha)
        rgba[rgba[..., 3] > 0, :3] = levels
        (folder / "disc.png").write_bytes(imagecodecs.png_encode(rgba))
    done = cli("enhance", "input=disc.png", f"checkpoint={SHIPPED}", "output=out")
    assert done.code == 0, done.out
    with Image.open("out/disc_x2.png") as image:
        result = np.array(image.convert("RGBA")).astype(float)
    opacity = result[..., 3:] / 255
    assert 0 < opacity.mean() < 1
    on_white = result[..., :3] * opacity + 255 * (1 - opacity)
    assert on_white.min() > 254


def test_hidden_colours_are_filled_from_around() -> None:
    pixels = torch.zeros(3, 40, 60, dtype=torch.int32)
    alpha = torch.zeros(1, 40, 60, dtype=torch.int32)
    alpha[:, 10:30, 5:15] = 65535
    alpha[:, 10:30, 45:55] = 30000
    pixels[0, :, :30], pixels[1, :, 30:] = 60000, 40000
    pixels = torch.where(alpha > 0, pixels, 1234)
    alpha[:, 20, 15] = 40  # as good as invisible
    filled = fill_hidden(pixels, alpha)
    seen = (alpha > 2048).expand(3, -1, -1)
    assert torch.equal(filled[seen], pixels[seen])
    assert filled[:, 12, 16].tolist() == [60000, 0, 0]
    assert filled[:, 20, 15].tolist() == [60000, 0, 0]
    assert filled[:, 9, 44].tolist() == [0, 40000, 0]
    assert (filled[2] == 0).all()
    for whole in (torch.full_like(alpha, 9), torch.zeros_like(alpha)):
        assert torch.equal(fill_hidden(pixels, whole), pixels)


def test_whatever_is_wrong_with_one_photo_the_others_go_on(
    cli: Cli, enhancer: Path, scorer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "c.tif"):
        save(Path("photos", name))
    real = ImageFile.ImageFile.load

    def load(image: ImageFile.ImageFile) -> Any:  # noqa: ANN401
        if image.size == (24, 32):
            raise ZeroDivisionError
        return real(image)

    save(Path("photos/0.png"), 24, 32)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", load)
        for words in (["enhance", f"checkpoint={enhancer}", "output=out"],
                      ["score", f"checkpoint={scorer_file}"]):  # fmt: skip
            done = cli(*words, "input=photos")
            assert done.code == 1
            assert "photos/0.png: cannot be read as an image (ZeroDivisionError)" in done.out
    assert tree("out") == ["a_x2.png", "b_x2.png", "c_x2.png"]
    assert read_image("out/a_x2.png").shape == (3, 48, 64)


def test_reading_and_writing_overlap_the_network(
    cli: Cli, enhancer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step waits for what only a pipeline does meanwhile; messages keep their order."""
    for name in "abcdef":
        save(Path(f"photos/{name}.png"))
    done: Counter[str] = Counter()
    begun: dict[str, threading.Event] = {
        f"{step} {name}": threading.Event()
        for step in ("read", "enhance", "write")
        for name in "abcdef"
    }
    real = {name: getattr(enhancing, name) for name in ("read_photo", "enhanced", "write_photo")}

    def begin(step: str, name: str, other: str) -> None:
        begun[f"{step} {name}"].set()
        assert other not in begun or begun[other].wait(60), other

    def neighbour(name: str, by: int) -> str:
        return chr(ord(name) + by)

    def read(path: Path) -> Any:  # noqa: ANN401
        # At most one photo is read ahead, and two results are unwritten.
        assert done["read"] - done["enhance"] <= 1
        begin("read", path.stem, f"enhance {neighbour(path.stem, -1)}")
        photo = real["read_photo"](path)
        done["read"] += 1
        return photo._replace(notes=(f"note on {path.stem}",))

    def apply(net: Any, photo: Any, **how: Any) -> Any:  # noqa: ANN401
        name = photo.notes[0][-1]
        assert done["enhance"] - done["write"] <= 1
        begin("enhance", name, f"write {neighbour(name, -1)}")
        begin("enhance", name, f"read {neighbour(name, 1)}")
        result = real["enhanced"](net, photo, **how)
        done["enhance"] += 1
        return result

    def write(path: Path, photo: Any, *, overwrite: bool) -> Any:  # noqa: ANN401
        name = path.stem[0]
        begin("write", name, f"enhance {neighbour(name, 1)}")
        lost = real["write_photo"](path, photo, overwrite=overwrite)
        done["write"] += 1
        return lost

    for name, function in [("read_photo", read), ("enhanced", apply), ("write_photo", write)]:
        monkeypatch.setattr(enhancing, name, function)
    result = cli("enhance", "input=photos", f"checkpoint={enhancer}", "output=out")
    assert result.code == 0, result.out
    assert tree("out") == [f"{name}_x2.png" for name in "abcdef"]
    lines = (result.out + result.err).splitlines()
    about = [line for line in lines if "photos/" in line and "EDSR" not in line]
    assert len(about) == 12
    for k, name in enumerate("abcdef"):
        assert f"[{k + 1}/6] photos/{name}.png" in about[2 * k]
        assert f"photos/{name}.png: note on {name}" in about[2 * k + 1]
    assert "photos and" in lines[-1]
    assert "megapixels of results per second" in lines[-1]


def test_an_interrupted_run_leaves_finished_results(
    cli: Cli, enhancer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png", "b.jpg", "c.png"):
        save(Path("photos", name))
    calls = []

    def apply(*given: Any, **how: Any) -> Any:  # noqa: ANN401
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return enhanced(*given, **how)

    monkeypatch.setattr(enhancing, "enhanced", apply)
    words = ["enhance", "input=photos", f"checkpoint={enhancer}", "output=out"]
    assert cli(*words).code == 130
    assert tree("out") == ["a_x2.png", "b_x2.png"]
