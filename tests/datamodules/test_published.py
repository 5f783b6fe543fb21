"""Published sets of rated photos, each from a made-up copy of some photos in its layout."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands.prepare import Options
from configuration.hints import DATASETS
from datamodules.published import PublishedRatings
from datamodules.published_sets import PUBLISHED
from datamodules.tables import RatedTables
from system.places import CONF
from tests.conftest import Cli

OPTIONS: dict[str, Any] = {"num_buckets": 5, "resize": 32, "crop": 32, "batch_size": 2}


def save(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(map(ord, str(path)[-30:]))
        pixels = np.random.default_rng(seed).integers(0, 256, (36, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def table(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*rows, ""]))


def koniq(root: Path) -> None:
    # The first line and the columns are those of the file; its shares have twelve digits.
    save(*(root / "1024x768" / f"{k}.jpg" for k in range(5)))
    table(
        root / "koniq10k_distributions_sets.csv",
        "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set",
        "0.jpg,0.0,0.0,0.238095238095,0.695238095238,0.0666666666667,105,77.38,0.527,training",
        "1.jpg,0.0,0.03125,0.46875,0.489583333333,0.0104166666667,96,68.7,0.58,test",
        "2.jpg,0.5,0.5,0.0,0.0,0.0,100,10.1,0.5,validation",
        "3.jpg,0.0,0.0,0.0,0.0,1.0,100,99.1,0.0,training",
        "4.jpg,0.25,0.25,0.0,0.25,0.25,100,50.1,1.6,training",
    )


def spaq(root: Path) -> None:
    save(*(root / "TestImage" / f"0000{k}.jpg" for k in range(5)))
    table(
        root / "Annotations" / "MOS and Image attribute scores.csv",
        "Image name,MOS,Brightness,Colorfulness,Contrast,Noisiness,Sharpness",
        *(f"0000{k}.jpg,{25 * k},50,50,50,50,50" for k in range(5)),
    )


def kadid(root: Path) -> None:
    save(*(root / "images" / f"I{k:02}.png" for k in (1, 2, 3)))  # pristine, not rated
    names = [f"I{k:02}_01_{level:02}.png" for k in (1, 2, 3) for level in (1, 2)]
    save(*(root / "images" / name for name in names))
    rows = [f"{name},{name[:3]}.png,{mean}" for name, mean in zip(names, MEANS, strict=True)]
    table(root / "dmos.csv", "dist_img,ref_img,dmos,var", *rows)


# The first two are the first two of dmos.csv; 1.13 stands for 29 votes for 1 and one for 5.
MEANS = ["4.57,0.496", "4.33,0.869", "1.13,0.718", "3,1", "2.5,0.9", "5,0"]


def aadb(root: Path) -> None:
    lists = {"Train": "abcd", "Validation": "e", "TestNew": "fd"}  # d is on two lists
    save(*(root / "datasetImages_warp256" / f"farm {name}.jpg" for name in "abcdef"))
    for part, names in lists.items():
        path = root / "imgListFiles_label" / f"imgList{part}Regression_score.txt"
        table(path, *(f"farm {name}.jpg 0.{5 * k}" for k, name in enumerate(names)))


def para(root: Path) -> None:
    steps = ",".join(f"aestheticScore_{k / 2:.1f}" for k in range(2, 11))
    header = f"sessionId,imageName,semantic,{steps},aestheticScore_mean,aestheticScore_std"
    for part, sessions in {"Train": (1, 2, 3), "Test": (4, 5)}.items():
        rows = []
        for k in sessions:
            save(root / "imgs" / f"session{k}" / f"iaa_pub{k}_.jpg")
            rows.append(f"session{k},iaa_pub{k}_.jpg,animal,0,0,0,2,4,10,7,2,0,3.6,0.5")
        table(root / "annotation" / f"PARA-Giaa{part}.csv", header, *rows)


def biq2021(root: Path) -> None:
    save(*(root / "Images" / f"ss03 ({k}).{'JPG' if k == 2 else 'jpg'}" for k in range(1, 6)))
    rows = [f"ss03 ({k}).jpg,0.{k}" for k in range(1, 6)]
    table(root / "Train (Images and MOS).csv", "Image Name,MOS,,", *(f"{r},," for r in rows[:3]))
    table(root / "Test (Images and MOS).csv", "Image Name,MOS", *rows[3:])


COPIES: dict[str, Callable[[Path], None]] = {
    function.__name__: function for function in (koniq, spaq, kadid, aadb, para, biq2021)
}


def published(name: str, root: Path, **more: Any) -> PublishedRatings:  # noqa: ANN401
    return PublishedRatings(name, str(root), **(OPTIONS | more))


def means(data: PublishedRatings) -> dict[str, float]:
    """Mean scores on 1..5 of the photos that train and validate."""
    k = np.arange(1, 6)
    return {
        name: float(p_K.double().numpy() @ k)
        for part in (data.train, data.val)
        for name, p_K in zip(part.names.tolist(), part.p_NK, strict=True)
    }


def test_every_set_has_a_setting_and_can_be_prepared() -> None:
    assert COPIES.keys() == PUBLISHED.keys()
    datasets = Options.model_json_schema()["properties"]["dataset"]["enum"]
    assert datasets == list(DATASETS)
    assert set(datasets) == {"div2k", "ava", "photos", "rated", *PUBLISHED}
    for name, layout in PUBLISHED.items():
        assert f"{layout.title}\n" in (CONF / "data" / f"{name}.yaml").read_text().replace(
            "  # holds its files", ""
        )


def test_koniq(tmp_path: Path) -> None:
    koniq(tmp_path)
    data = published("koniq", tmp_path)
    data.setup()
    assert data.train.names.tolist() == ["0.jpg", "3.jpg", "4.jpg"]
    assert data.val.names.tolist() == ["2.jpg"]
    assert np.allclose(data.train.p_NK[0], [0, 0, 25 / 105, 73 / 105, 7 / 105], atol=1e-6)
    assert data.train.num_votes_N is not None
    assert data.train.num_votes_N.tolist() == [105, 100, 100]
    test = published("koniq", tmp_path, val_part="test")
    test.setup()
    assert test.val.names.tolist() == ["1.jpg"]
    assert test.train.names.tolist() == data.train.names.tolist()
    ten = published("koniq", tmp_path, num_buckets=10)  # 2 of 5 lies at 3.25 of 10
    ten.setup()
    assert np.allclose(ten.val.p_NK[0], [0.5, 0, 0.375, 0.125, *[0] * 6], atol=1e-6)


def test_the_other_table_of_koniq_has_no_split(tmp_path: Path) -> None:
    koniq(tmp_path)
    (tmp_path / "koniq10k_distributions_sets.csv").unlink()
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore"
    rows = [f'"{k}.jpg",0,0,25,73,7,105,3.83,0.53,77.4' for k in range(5)]
    table(tmp_path / "koniq10k_scores_and_distributions.csv", header, *rows)
    with pytest.raises(ValueError, match=r"does not have the official split, which koniq10k_dis"):
        published("koniq", tmp_path).setup()
    data = published("koniq", tmp_path, split="random")
    data.setup()
    assert data.train.num_votes_N is not None
    assert (len(data.train), data.train.num_votes_N.tolist()) == (4, [105] * 4)


def test_spaq_from_a_csv_file(tmp_path: Path) -> None:
    spaq(tmp_path)
    data = published("spaq", tmp_path)
    data.setup()
    expected = {f"0000{k}.jpg": 1.0 + k for k in range(5)}
    assert means(data) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match=r"split=official: SPAQ is published without a split"):
        published("spaq", tmp_path, split="official")


def test_spaq_from_its_excel_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl is not installed")
    spaq(tmp_path)
    path = tmp_path / "Annotations" / "MOS and Image attribute scores.csv"
    book = openpyxl.Workbook()
    with open(path, newline="") as file:
        for k, row in enumerate(csv.reader(file)):
            book.active.append([row[0], float(row[1]) / 2 if k else row[1], *row[2:]])
    book.save(path.with_suffix(".xlsx"))  # is read in place of the other
    data = published("spaq", tmp_path)
    data.setup()
    assert means(data) == pytest.approx({f"0000{k}.jpg": 1 + k / 2 for k in range(5)}, abs=1e-4)
    with monkeypatch.context() as patched:
        patched.setattr("datamodules.published.MAX_SHEET", 100)
        with pytest.raises(ValueError, match="more than 100 bytes when unpacked"):
            published("spaq", tmp_path).setup()
    path.with_suffix(".xlsx").write_text("no Excel file")
    with pytest.raises(ValueError, match=r"scores\.xlsx: cannot be read as an Excel file"):
        published("spaq", tmp_path).setup()


def test_an_excel_file_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaq(tmp_path)
    (tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx").write_text("")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"needs openpyxl: pip install openpyxl, or save it as"):
        published("spaq", tmp_path).setup()


def test_kadid_keeps_the_versions_of_a_photo_on_one_side(tmp_path: Path) -> None:
    kadid(tmp_path)
    data = published("kadid", tmp_path, val_share=0.4)
    data.setup()
    sides = [{name[:3] for name in part.names.tolist()} for part in (data.train, data.val)]
    assert sorted(map(len, sides)) == [1, 2]
    assert not sides[0] & sides[1]
    names = [f"I{k:02}_01_{level:02}.png" for k in (1, 2, 3) for level in (1, 2)]
    expected = [float(row.split(",")[0]) for row in MEANS]
    assert means(data) == pytest.approx(dict(zip(names, expected, strict=True)), abs=1e-3)
    p_K = next(
        p_K.double().numpy()
        for part in (data.train, data.val)
        for name, p_K in zip(part.names.tolist(), part.p_NK, strict=True)
        if name == names[1]
    )
    k = np.arange(1, 6)
    assert (p_K @ k**2 - (p_K @ k) ** 2) ** 0.5 == pytest.approx(0.869, abs=1e-3)


def test_aadb_holds_out_what_is_on_two_lists(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    aadb(tmp_path)
    data = published("aadb", tmp_path)
    data.setup()
    assert data.train.names.tolist() == [f"farm {name}.jpg" for name in "abc"]
    assert data.val.names.tolist() == ["farm e.jpg"]
    assert means(data)["farm b.jpg"] == pytest.approx(3, abs=1e-4)
    assert "1 of imgListTrainRegression_score.txt, which another list holds out" in caplog.text
    path = tmp_path / "imgListFiles_label" / "imgListTrainRegression_score.txt"
    table(path, "farm a.jpg 0.1", "farm b.jpg 1.5")
    with pytest.raises(ValueError, match=r"score\.txt, 'farm b\.jpg' in line 2: a score of 1\.5"):
        published("aadb", tmp_path).setup()


def test_para_has_votes_in_half_steps(tmp_path: Path) -> None:
    para(tmp_path)
    data = published("para", tmp_path)
    data.setup()
    assert data.val.names.tolist() == ["session4/iaa_pub4_.jpg", "session5/iaa_pub5_.jpg"]
    assert data.train.num_votes_N is not None
    assert data.train.num_votes_N.tolist() == [25] * 3
    # Votes for 2.5, 3, 3.5, 4, 4.5: those between two whole numbers count half for each.
    assert np.allclose(data.train.p_NK[0] * 25, [0, 1, 10, 13, 1], atol=1e-5)
    nine = published("para", tmp_path, num_buckets=9)
    nine.setup()
    assert np.allclose(nine.train.p_NK[0] * 25, [0, 0, 0, 2, 4, 10, 7, 2, 0], atol=1e-5)


def test_biq2021_has_names_in_another_case(tmp_path: Path) -> None:
    biq2021(tmp_path)
    data = published("biq2021", tmp_path)
    data.setup()
    assert data.train.names.tolist() == ["ss03 (1).jpg", "ss03 (2).JPG", "ss03 (3).jpg"]
    assert data.val.names.tolist() == ["ss03 (4).jpg", "ss03 (5).jpg"]
    assert means(data)["ss03 (5).jpg"] == pytest.approx(3, abs=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"split": "lists"}, r"data\.split=lists: needs data\.val_list"),
        ({"split": "random", "val_list": "a"}, r"data\.val_list: goes with data\.split=lists"),
        ({"val_part": "test", "split": "random"}, r"val_part=test: for data\.split=random .* null"),
    ],
)
def test_splits_that_do_not_go_together(tmp_path: Path, more: Any, message: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=message):
        published("koniq", tmp_path, **more)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    biq2021(tmp_path)
    with pytest.raises(ValueError, match=r"val_part=validation: for .*BIQ2021 it is one of test"):
        published("biq2021", tmp_path, val_part="validation")
    path = tmp_path / "Train (Images and MOS).csv"
    table(path, "Image,MOS", "a.jpg,0.5")
    with pytest.raises(ValueError, match=r"MOS\)\.csv: has no column Image Name; its columns are"):
        published("biq2021", tmp_path).setup()
    path.unlink()
    with pytest.raises(ValueError, match=r"Train \(Images and MOS\)\.csv is missing; .* dataset=b"):
        published("biq2021", tmp_path).setup()
    with pytest.raises(ValueError, match=r"published=ava: no such set; there are koniq, spaq"):
        published("ava", tmp_path)
    with pytest.raises(ValueError, match=r"published=koniq10k: no such set; did you mean koniq\?"):
        published("koniq10k", tmp_path)
    koniq(tmp_path / "koniq")
    path = tmp_path / "koniq" / "koniq10k_distributions_sets.csv"
    path.write_text(path.read_text().replace("validation", "half"))
    with pytest.raises(ValueError, match=r"line 4: set is half, not training, validation, test"):
        published("koniq", tmp_path / "koniq").setup()


def test_published_sets_are_tables_among_others(tmp_path: Path) -> None:
    for name in ("koniq", "para"):
        COPIES[name](tmp_path / name)
    given = [{"published": name, "root": str(tmp_path / name)} for name in ("koniq", "para")]
    data = RatedTables([{**given[0], "val_part": "test"}, {**given[1], "weight": 3}], **OPTIONS)
    data.setup()
    assert {name: len(part) for name, part in data.val.tables.items()} == {"koniq": 1, "para": 2}
    with pytest.raises(ValueError, match=r"tables\.0\.scale: no such key of a table"):
        RatedTables([{**given[0], "scale": [1, 5]}], **OPTIONS)
    with pytest.raises(ValueError, match=r"data\.tables\.0\.root: is required"):
        RatedTables([{"published": "koniq"}], **OPTIONS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_prepare_says_what_is_missing_and_packs_the_rest(cli: Cli, folder: Path, name: str) -> None:
    layout = PUBLISHED[name]
    words = ["prepare", f"dataset={name}", "root=set", "resize=32", "crop=32", "pack=true"]
    nothing = cli(*words)
    assert nothing.code == 2
    assert layout.home in nothing.err
    for names in layout.tables.values():
        assert " or ".join(names) in nothing.err
    COPIES[name](folder / "set")
    done = cli(*words)
    assert done.code == 0, done.err
    assert f"not {layout.num_photos}" in done.out
    assert "checksums match" in done.out
    assert f"data={name} data.root=set data.split=" in done.out
