"""Tables of ratings that are odd in ways of their own: one harmless line says what and where."""

from pathlib import Path

import pytest

from datamodules.ava import read_index
from datamodules.ratings_table import read_ratings


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ": is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", ": is empty"),
        (b"image,\x1b[31mmean\na.png,5\n", ": the columns are image,\\x1b[31mmean; needed are"),
        (b"image,mean\na.png,5\n\x1b[31mb.png,x\n", "'\\x1b[31mb.png' in line 3: 'x' is not"),
        (b"image,mean\na.png,5\n" + b"b" * 200_000 + b",5\n", "(line 3: field larger than"),
    ],
)
def test_the_line_is_named_and_nothing_reaches_the_terminal_raw(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    table = tmp_path / "ratings.csv"
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"ratings\.csv") as caught:
        read_ratings(table, 10)
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()


def test_digits_of_other_scripts_in_ava_are_refused_by_their_line(tmp_path: Path) -> None:
    index = tmp_path / "AVA.txt"
    line = "1 953619 1 1 1 1 1 1 1 1 1 1 0 0 5\n"
    arabic = line.replace("953619", "\u0665")
    index.write_text(line + arabic)
    with pytest.raises(ValueError, match=r"AVA.txt: line 2 is not 15 whole numbers"):
        read_index(index)
