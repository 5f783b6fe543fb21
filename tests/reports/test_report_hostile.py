"""Run folders from anywhere: `report` ends, names what is broken, and shows no traceback."""

import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reports.album import fill_album
from reports.run_reading import read_run, run_folders
from runs.run_folder import read_json
from tests.conftest import Cli
from tests.reports.conftest import EPOCHS, MakeRun

Spoil = Callable[[Path], None]

HR = "images/crops/coffee_x2_hr.png"


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        one.bind(path.name)
        os.chdir(here)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def linked_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(2**36)  # sparse: 64 GB of zeros


def binary(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000) + b"\n")


def bomb(path: Path) -> None:
    """A PNG file of 92 bytes that says it has 3.6 gigapixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        total = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", total)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(100)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))


def too_large(path: Path) -> None:
    Image.new("1", (3000, 3000)).save(path)


def no_picture(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # starts Ghostscript


ANY_FILE = {
    fifo: "is a named pipe",
    a_socket: "is a socket",
    folder_instead: "is a folder",
    endless: "is a device",
    linked_fifo: "is a named pipe",
}


@pytest.mark.parametrize("name", ["run.json", "result.json", "metrics.csv"])
@pytest.mark.parametrize("spoil", [*ANY_FILE, loop, huge, binary])
def test_a_file_that_is_none_breaks_its_run(
    tmp_path: Path, name: str, spoil: Spoil, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a")
    spoil(folder / name)
    began = time.monotonic()
    run = read_run(folder)
    assert time.monotonic() - began < 5
    if spoil is loop and name == "result.json":
        assert run.state == "unfinished"  # a link that leads nowhere is no result
        return
    assert run.state == "broken"
    assert run.note.startswith(name)
    reasons: dict[Spoil, str] = {
        loop: "Too many levels of symbolic links",
        huge: "is larger than",
        binary: "damaged",
    }
    assert (ANY_FILE | reasons)[spoil] in run.note


@pytest.mark.parametrize("name", ["progress.json", "console.log"])
@pytest.mark.parametrize("spoil", [*ANY_FILE, huge, binary])
def test_what_only_tells_the_progress_blocks_nothing(
    tmp_path: Path, name: str, spoil: Spoil, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a", finished=False)
    (folder / name).touch()
    spoil(folder / name)
    if name == "console.log":
        (folder / "run.json").unlink()
    run = read_run(folder)
    assert run.state == "unfinished" or "console.log" in run.note
    assert len(list(run_folders(tmp_path, set()))) == 1


def test_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    with open(folder / "console.log", "wb") as file:
        file.truncate(2**33)
        file.seek(0, os.SEEK_END)
        file.write(b"\nerror: \x1b[31mno GPU\n")
    assert read_run(folder).note.endswith("console.log ends with: error: \ufffd[31mno GPU")


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("run.json", '{"config": ' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ("run.json", "[" * 200_000, "run.json is damaged"),
        ("result.json", {"metrics": {"val/psnr": "high"}}, "(val/psnr is 'high')"),
        ("result.json", {"metrics": {"val/psnr": float("nan")}}, "(val/psnr is 'nan')"),
        ("result.json", {"metrics": {"val/psnr": 10**400}}, "(val/psnr is '1000"),
        ("result.json", {"metrics": {"val/psnr": True}}, "(val/psnr is 'True')"),
        ("result.json", {"metrics": []}, "(metrics is '[]')"),
        ("result.json", {"metrics": None}, "result.json has no metrics"),
        ("result.json", {"metrics": {}, "wall_time_s": float("nan")}, "(wall_time_s is 'nan')"),
        ("result.json", {"metrics": {}, "wall_time_s": 10**400}, "(wall_time_s is '1000"),
        ("result.json", {"metrics": {}, "epochs": "all"}, "(epochs is 'all')"),
        ("metrics.csv", "epoch,step,val/psnr\n1e12,9,30\n", "line 2: epoch is 1e+12"),
        ("metrics.csv", "epoch,step,val/psnr\n-1,9,30\n", "line 2: epoch is -1"),
        ("metrics.csv", "val/psnr,val/ssim\n30,0.9\n", "its first line is not that of a table"),
        ("metrics.csv", "epoch" + "," * 100_000 + "\n", "its first line is not that of a table"),
        ("metrics.csv", "epoch,step\n" + "0,9\n" * 500_001, "more than 500000 rows"),
        ("metrics.csv", "epoch,step\n0," + "9" * 200_000 + "\n", "field larger than field limit"),
    ],
)
def test_what_no_run_writes_breaks_the_run(
    tmp_path: Path,
    name: str,
    content: Any,  # noqa: ANN401
    note: str,
    make_run: MakeRun,
) -> None:
    folder = make_run(tmp_path / "a")
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    run = read_run(folder)
    assert run.state == "broken"
    assert run.note.startswith(name)
    assert note in run.note
    assert len(run.note) < 200


def test_learning_rates_may_be_logged_before_the_first_epoch(
    tmp_path: Path, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a", finished=False)
    (folder / "metrics.csv").write_text("lr,step\n0.1,0\n")
    assert read_run(folder).note == f"epoch 0 of {EPOCHS}"


def test_null_is_no_number_but_no_damage(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "a", result={"metrics": {"val/psnr": None, "val/ssim": 0.9}})
    run = read_run(folder)
    assert (run.state, run.metrics) == ("finished", {"val/ssim": 0.9})


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        *(ANY_FILE | {endless: "is not below images/"}).items(),
        (loop, "Too many levels of symbolic links|Symlink loop"),
        (huge, "is larger than 64 MB"),
        (bomb, "has 60000 x 60000 pixels|decompression bomb"),
        (too_large, "has 3000 x 3000 pixels, too many for a page"),
        (binary, "cannot identify image file"),
        (no_picture, "cannot identify image file"),
    ],
)
def test_a_bad_picture_is_left_out_and_named(
    tmp_path: Path, spoil: Spoil, why: str, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a")
    spoil(folder / HR)
    run = read_run(folder)
    album = fill_album([run], 2)
    assert [photo.id for photo in album.photos] == ["chelsea"]
    assert len(album.pictures) == 4
    (problem,) = run.bad_pictures
    assert problem.startswith(f"{HR}: ")
    assert any(part in problem for part in why.split("|"))


@pytest.mark.parametrize("spoil", [*ANY_FILE, loop, huge, binary])
def test_a_bad_list_of_pictures_is_named(tmp_path: Path, spoil: Spoil, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "a")
    spoil(folder / "images" / "photos.json")
    run = read_run(folder)
    assert (run.state, run.photos, len(run.bad_pictures)) == ("finished", [], 1)
    assert run.bad_pictures[0].startswith("photos.json")


def test_report_names_everything_at_the_end(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    make_run(folder / "runs" / "sound", psnr=33.21)
    fifo(make_run(folder / "runs" / "pipe", seed=1) / "metrics.csv")
    a_socket(make_run(folder / "runs" / "socket", seed=2) / "result.json")
    bomb(make_run(folder / "runs" / "bomb", seed=3) / HR)
    odd = make_run(folder / "runs" / "odd", seed=4)
    row = {"id": "x\udcff\x00", "scale": 10**30, "hr": ["a"]}
    (odd / "images" / "photos.json").write_text(json.dumps({"photos": [row, None]}))
    (folder / "runs" / "none" / "run.json").mkdir(parents=True)
    done = cli("report", "runs=runs", f"photos={10**9}")
    assert done.code == 0, done.err
    assert "6 runs: 3 finished, 3 broken." in done.out
    for line in (
        "broken: runs/pipe: metrics.csv is a named pipe; a regular file is needed",
        "broken: runs/socket: result.json is a socket; a regular file is needed",
        "broken: runs/none: run.json is a folder; a regular file is needed",
        f"broken picture: runs/bomb: {HR}: ",
        "broken picture: runs/odd: photos.json is damaged",
    ):
        assert line in done.out, line
        assert line.split(": ", 2)[2][:20] in (folder / "runs/report/report.html").read_text()
    assert "33.21" in (folder / "runs/report/report.md").read_text()


def test_a_billion_photos_are_those_that_are_there(tmp_path: Path, make_run: MakeRun) -> None:
    run = read_run(make_run(tmp_path / "a"))
    began = time.monotonic()
    assert fill_album([run], 10**9).photos == fill_album([run], 2).photos
    assert time.monotonic() - began < 10


def test_a_picture_that_many_photos_name_is_read_once(tmp_path: Path, make_run: MakeRun) -> None:
    folder = make_run(tmp_path / "a")
    rows = [{"id": f"{k}", "scale": 2, "hr": "big.png"} for k in range(50_000)]
    (folder / "images" / "photos.json").write_text(json.dumps({"photos": rows}))
    too_large(folder / "images" / "big.png")
    run = read_run(folder)
    began = time.monotonic()
    assert fill_album([run], 10**9).photos == []
    assert time.monotonic() - began < 10
    assert len(run.bad_pictures) == 1


def test_folders_within_folders_of_a_glob_are_looked_through_once(
    tmp_path: Path, make_run: MakeRun
) -> None:
    folder = make_run(tmp_path / "a" / "b" / "c")
    seen: set[str] = set()
    assert list(run_folders(tmp_path, seen)) == [folder]
    assert list(run_folders(tmp_path / "a", seen)) == []


@pytest.mark.parametrize("spoil", [*ANY_FILE, huge, binary])
def test_a_run_json_that_is_none_is_an_error_of_every_command(
    tmp_path: Path, spoil: Spoil, make_run: MakeRun
) -> None:
    path = make_run(tmp_path / "a") / "run.json"
    spoil(path)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_json(path)
    path.unlink() if path.is_symlink() or not path.is_dir() else path.rmdir()
    assert read_json(path) is None


def test_endless_names_make_no_endless_figures(cli: Cli, folder: Path, make_run: MakeRun) -> None:
    odd = {"choices": {"net": "n" * 10**6}}
    make_run(folder / "runs" / "a", about=odd)
    settings = {f"data.{k:0900}": "v" * 10**4 for k in range(20)}
    make_run(folder / "runs" / "b", seed=1, about=odd | {"settings": settings})
    make_run(folder / "runs" / "c", gamma=0.1)
    done = cli("report", "runs=runs")
    assert done.code == 0, done.err
    for name in ("gamma", "epoch"):
        with Image.open(folder / "runs" / "report" / "figures" / f"{name}.png") as picture:
            assert max(picture.size) < 10_000
