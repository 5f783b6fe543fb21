"""Tables of ratings as people have them: encodings, separators, names, and what is refused."""

import csv
import os
import unicodedata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from commands.score import Row, write
from datamodules.rated import RatedFolder
from datamodules.ratings_table import read_ratings, read_table
from datamodules.splitting import match_list

Form = Literal["NFC", "NFD"]
FORMS: tuple[Form, Form] = ("NFC", "NFD")
MEANS = [2.25, 3.5, 4.75]
NAMES = ["a.png", "b.png", "c.png"]
TABLE = "image,mean\n" + "".join(f"{n},{m}\n" for n, m in zip(NAMES, MEANS, strict=True))
GERMAN = TABLE.replace(",", ";").replace(".", ",").replace(",png", ".png")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (TABLE, "utf-8"),
        (TABLE, "utf-8-sig"),
        (TABLE, "utf-16"),
        ("\ufeff" + TABLE, "utf-16-be"),
        (TABLE, "utf-32"),
        (GERMAN, "utf-8-sig"),
        (GERMAN.replace("\n", "\r\n"), "utf-16"),
        (GERMAN.replace(";", "\t"), "utf-16"),
        (TABLE.replace(",", ";"), "utf-8"),
        (TABLE.replace("\n", "\r"), "utf-8"),
        ("sep=;\r\n" + GERMAN, "utf-8"),
        (TABLE.replace("image,mean", " Image , MEAN "), "utf-8"),
        (TABLE.replace("\n", "\n\n , \n,\n"), "utf-8"),
        ("\n" + TABLE, "utf-8"),
        (TABLE.replace("\n", ",,\n"), "utf-8"),
        (GERMAN.replace("a.png", '"a.png"').replace("image;mean", '"image";"mean"'), "utf-8"),
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(text.encode(encoding))
    ratings = read_ratings(path, 10)
    assert ratings.names.tolist() == NAMES
    assert ratings.p_NK @ np.arange(1, 11) == pytest.approx(MEANS, abs=1e-5)


def test_votes_with_a_decimal_comma_are_shares(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("image;votes_1;votes_2\na.png;0,25;0,75\nb.png;1;0\n")
    ratings = read_ratings(path, 2)
    assert ratings.p_NK.tolist() == [[0.25, 0.75], [1, 0]]
    assert ratings.num_votes_N is None


def test_counts_are_those_that_csv_reads(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    votes = np.random.default_rng(0).integers(0, 10**6, (50, 10), endpoint=True)
    rows = [f"{k}.png,{','.join(map(str, row))}" for k, row in enumerate(votes)]
    columns = [f"Votes_{k}" for k in range(1, 11)]
    path.write_text("\n".join([",".join(["IMAGE", *columns]), *rows]))
    with open(path, newline="") as file:
        table = np.array([[int(row[name]) for name in columns] for row in csv.DictReader(file)])
    ratings = read_ratings(path, 10)
    assert ratings.num_votes_N is not None
    assert ratings.num_votes_N.tolist() == table.sum(axis=1).tolist()
    assert np.allclose(ratings.p_NK, table / table.sum(axis=1, keepdims=True), atol=1e-7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,mean\na,3\nMüller.png,4\n".encode("latin-1"), "line 3: the name has the byte 0xFC"),
        ("image,mean\na,3\n".encode("utf-16-le"), "line 1 has zero bytes, so it is not UTF-8"),
        (b"image,mean\na,3\nb\0,4\n", "line 3 has zero bytes"),
        (b"\xff\xfeimage", "damaged UTF-16; save it as UTF-8"),
        (b"image;votes_1;votes_2\na;1.000;2\n", "1.000 could be a thousand times as many votes"),
        (b"image;votes_1;votes_2\na;12,500;2\n", "12,500 could be a thousand times as many votes"),
        (b'image,votes_1,votes_2\na,"1,000",2\n', "'1,000' is not a number"),
        (b"image,mean\na,1_0\n", "'1_0' is not a number"),
        (b"image,mean\n\n,\na,x\n", "'a' in line 4: 'x' is not a number"),
        (b"image,mean\na,3,\nb,3,4\n", "'b' in line 3: a name and 1 numbers are needed"),
        (b"image,votes_1,votes_2\na,1000001,2\n", "1e+06 votes for one rating; at most 1000000"),
        (b"image,votes_1,votes_2\na,1000000000000000000,2\n", "1e+18 votes for one rating"),
        (b"image,votes_1,votes_2\na,1e308,1e308\n", "1e+308 votes for one rating"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "ratings.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ratings\.csv") as caught:
        read_ratings(path, 10 if b"mean" in content else 2)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"ratings\.csv is a named pipe"):
        read_table(path)
    with pytest.raises(ValueError, match=r"ratings\.csv is a named pipe"):
        match_list(str(path), np.array(NAMES))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six photos whose names have letters with accents."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(6):
        image = Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8))
        image.save(folder / f"M\u00fcller_{k}.png")
    return folder


def data_of(table: Path, photos: Path, **more: Any) -> RatedFolder:  # noqa: ANN401
    return RatedFolder(str(table), str(photos), resize=64, crop=64, batch_size=2, **more)


def rename(photos: Path, form: Form) -> list[str]:
    for path in list(photos.iterdir()):
        path.rename(path.with_name(unicodedata.normalize(form, path.name)))
    return sorted(path.name for path in photos.iterdir())


@pytest.mark.parametrize(("table", "files"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_match_composed_or_not(photos: Path, table: Form, files: Form) -> None:
    names = rename(photos, files)
    rows = [f"{unicodedata.normalize(table, name)},{3 + k}" for k, name in enumerate(names)]
    path = photos.parent / "ratings.csv"
    path.write_text("\n".join(["image,mean", *rows]) + "\n", encoding="utf-8")
    lines = [unicodedata.normalize(table, name).removesuffix(".png") for name in names]
    (photos.parent / "val.txt").write_text(f"{lines[1]}\n{lines[4]}.png\n", encoding="utf-8")
    data = data_of(path, photos, val_list=str(photos.parent / "val.txt"))
    data.setup()
    assert data.val.names.tolist() == [names[1], names[4]]
    assert len(data.train) == 4
    means = data.train.p_NK.numpy() @ np.arange(1, 11)
    assert means == pytest.approx([3, 5, 6, 8], abs=1e-4)


def test_two_files_or_two_rows_of_the_same_look_are_named(photos: Path) -> None:
    (composed, decomposed) = (unicodedata.normalize(f, "M\u00fcller_0.png") for f in FORMS)
    path = photos.parent / "ratings.csv"
    path.write_text(f"image,mean\n{composed},3\n{decomposed},4\n", encoding="utf-8")
    with pytest.raises(ValueError, match="in line 3: appears twice"):
        read_ratings(path, 10, [composed])
    assert read_ratings(path, 10, [composed, decomposed]).names.tolist() == [composed, decomposed]
    path.write_text("image,mean\n\u1e0b\u0323.png,3\n", encoding="utf-8")  # neither of the two
    with pytest.raises(ValueError, match="in line 2: two files look like"):
        read_ratings(path, 10, ["\u1e0d\u0307.png", "d\u0323\u0307.png"])


def test_what_score_writes_of_any_name_is_read_back(photos: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 \xff.png")
    (photos / "M\u00fcller_3.png").rename(photos / odd)
    names = sorted(path.name for path in photos.iterdir())
    p = np.random.default_rng(0).dirichlet(np.ones(3), len(names))
    rows = [Row(f"photos/{name}", 2.0, 0.5, q.tolist()) for name, q in zip(names, p, strict=True)]
    table = photos.parent / "scores.csv"
    write(table, rows)
    (photos.parent / "val.txt").write_bytes(os.fsencode(odd) + b"\n")
    data = data_of(table, photos, val_list=str(photos.parent / "val.txt"), num_buckets=3)
    data.setup()
    assert data.val.names.tolist() == [odd]
    place = names.index(odd)
    assert np.allclose(data.val.p_NK.numpy(), p[place], atol=1e-7)
    assert np.allclose(data.train.p_NK.numpy(), np.delete(p, place, axis=0), atol=1e-7)


def test_names_below_a_folder_are_the_longest_that_fit(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,mean,std,p1,p2\nx/trip/a.png,1.5,0.5,0.5,0.5\nx/b.png,1,0,1,0\n")
    assert read_ratings(path, 2, ["trip/a.png", "a.png"]).names.tolist() == ["trip/a.png", "b.png"]


def test_photos_that_are_too_narrow_are_all_named(photos: Path) -> None:
    for name in ("thin.png", "wide.png"):
        size = (1, 3000) if name == "thin.png" else (3000, 1)
        Image.new("RGB", size).save(photos / name)
    names = sorted(path.name for path in photos.iterdir())
    path = photos.parent / "ratings.csv"
    path.write_text("image,mean\n" + "".join(f"{n},3\n" for n in names), encoding="utf-8")
    data = data_of(path, photos, resize_rule="short_side")
    with pytest.raises(ValueError, match="2 of the rated photos cannot be used") as caught:
        data.setup()
    assert f"{photos}/thin.png: 1 x 3000 pixels would become" in str(caught.value)
    assert f"{photos}/wide.png: 3000 x 1 pixels would become" in str(caught.value)
