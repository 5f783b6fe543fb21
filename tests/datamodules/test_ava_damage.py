"""Damaged files of AVA: each is refused by its line, or named in a warning."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.ava import AVA, read_index

VOTES = "0 1 5 17 38 36 15 6 5 1"


def line(k: int, number: int | str, votes: str = VOTES) -> str:
    return f"{k} {number} {votes} 1 22 1396"


def index_of(tmp_path: Path, *lines: str, end: str = "\n") -> Any:  # noqa: ANN401
    path = tmp_path / "AVA.txt"
    path.write_text("\n".join(lines) + end)
    return read_index(path)


@pytest.mark.parametrize(
    ("third", "message"),
    [
        (line(3, -953), "line 4: image -953 has an id that is not positive"),
        (line(3, 0), "line 4: image 0 has an id that is not positive"),
        (line(3, 953, "0 -1 5 17 38 36 15 6 5 1"), "line 4: image 953 has a negative number of v"),
        (
            line(3, 953, f"{10**18} 1 5 17 38 36 15 6 5 1"),
            "line 4: image 953 has more than 1000000",
        ),
        (line(3, 953, " ".join([f"{10**18}"] * 10)), "line 4: image 953 has more than 1000000"),
        (line(3, 953, "1000001 1 5 17 38 36 15 6 5 1"), "line 4: image 953 has more than 1000000"),
        (line(3, 953, "0 0 0 0 0 0 0 0 0 0"), "line 4: image 953 has no valid votes"),
        (line(3, 951), "line 4: image 951 appears twice"),
        (line(3, 953) + " 7", "line 4 is not 15 whole numbers"),
        (line(3, 953)[:-5], "line 4 is not 15 whole numbers"),
        (line(3, "0x3b9"), "line 4 is not 15 whole numbers"),
        (line(3, 10**20), "line 4 is not 15 whole numbers"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, third: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"AVA\.txt") as caught:
        index_of(tmp_path, line(1, 951), "", line(2, 952), third, line(4, 954))
    assert message in str(caught.value)
    assert "cut off" not in str(caught.value)


def test_half_a_last_line_is_a_file_that_was_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2 is not 15 .*cut off there: get it again"):
        index_of(tmp_path, line(1, 951), line(2, 952)[:20], end="")


def test_a_short_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = index_of(tmp_path, line(1, 951), line(2, 952))
    assert "AVA.txt has 2 of AVA's 255530 lines" in caplog.text
    assert "last line" not in caplog.text
    assert index.votes.tolist() == [list(map(int, VOTES.split()))] * 2
    caplog.clear()
    index_of(tmp_path, line(1, 951), line(2, 952)[:-1], end="")
    assert "2 of AVA's 255530 lines, and the end of its last line is missing" in caplog.text


def test_the_most_votes_that_are_possible_are_shares(tmp_path: Path) -> None:
    index = index_of(tmp_path, line(1, 951, " ".join(["1000000"] * 10)))
    p = index.votes / index.votes.sum(axis=1, keepdims=True)
    assert np.allclose(p, 0.1)


def test_a_pipe_is_no_index(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "AVA.txt")
    with pytest.raises(ValueError, match=r"AVA\.txt is a named pipe"):
        read_index(tmp_path / "AVA.txt")


@pytest.mark.parametrize("kept", [200, 100])
def test_half_an_index_is_refused_by_the_official_list(tmp_path: Path, kept: int) -> None:
    (tmp_path / "images").mkdir()
    for number in range(1000, 1000 + kept):
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / f"{number}.jpg")
    lines = [line(k, number) for k, number in enumerate(range(1000, 1200), 1)]
    (tmp_path / "AVA.txt").write_text("\n".join(lines[:kept]) + "\n")
    # 100 of the images, 70 ids that AVA.txt never had
    listed = [*range(1020, 1120), *range(1, 71)]
    (tmp_path / "generic_test.jpgl").write_text("\n".join(map(str, listed)) + "\n")
    data = AVA(str(tmp_path), resize=40, crop=32, batch_size=4)
    if kept == 200:
        data.setup()
        assert (len(data.train), len(data.val)) == (100, 100)
        return
    with pytest.raises(ValueError, match="lacks 90 of the 170 images of generic_test"):
        data.setup()
