"""A disk that is full, or a file that cannot be written, is reported with the file's name."""

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from images.writing import write_image
from lightning_modules.pictures import save_figure
from runs.measuring import write_csv
from system.files import replacing
from system.json_files import write_json
from system.terminal import told
from tests.conftest import SAMPLE_SCORER, Cli


def fill(disk: Path) -> None:
    """Leave no room for another file."""
    with contextlib.suppress(OSError), open(disk / "full", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def picture() -> Figure:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    return figure


NOISE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8))
WRITERS: dict[str, Callable[[Path], object]] = {
    "a.json": lambda path: write_json(path, {"a": 1}),
    "a.png": lambda path: write_image(path, NOISE),
    "plot.png": lambda path: save_figure(picture(), path),
    "a.csv": lambda path: write_csv(path, ["a"], [{"a": 1}]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_reported_with_the_file(small_disk: Path, name: str) -> None:
    fill(small_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        WRITERS[name](small_disk / name)
    assert told(caught.value) == (
        f"{small_disk / name}: cannot be written: No space left on device"
    )
    assert [path.name for path in small_disk.iterdir() if path.stat().st_size] == ["full"]


def test_score_names_the_table_that_does_not_fit(cli: Cli, folder: Path, small_disk: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    fill(small_disk)
    table = small_disk / "scores.csv"
    done = cli("score", "input=a.png", f"checkpoint={SAMPLE_SCORER}", f"output={table}")
    assert done.code == 2
    assert done.err.strip() == f"error: {table}: cannot be written: No space left on device"


def test_an_earlier_file_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="cannot be written"):
        fail()
    assert path.read_text() == "before"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]
    with replacing(path) as temporary:
        temporary.write_text("after")
    assert path.read_text() == "after"


def test_a_message_keeps_its_words_without_a_file() -> None:
    assert told(ValueError("a: b")) == "a: b"
    assert told(OSError("a: b")) == "a: b"
    assert told(FileNotFoundError(errno.ENOENT, "No such file", "x")) == "x: No such file"


def test_a_name_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".png")
    write_image(path, NOISE)
    assert list(tmp_path.iterdir()) == [path]
