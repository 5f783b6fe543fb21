import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.ava import AVA, read_index

IDS = [*range(1000, 1040), 440774, 179118]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """AVA's layout: 40 photos, two of the corrupt ones, a test list with an id that is no photo."""
    root = tmp_path / "AVA"
    (root / "images").mkdir(parents=True)
    (root / "aesthetics_image_lists").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for k, number in enumerate(IDS, 1):
        votes = " ".join(map(str, rng.integers(0, 40, 10)))
        lines.append(f"{k} {number} {votes} {k % 3} {7 if k % 5 == 0 else 0} {500 + k % 2}")
        if number in (440774, 179118):
            (root / "images" / f"{number}.jpg").write_bytes(b"corrupt")
        else:
            image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "images" / f"{number}.jpg")
    (root / "AVA.txt").write_text("\n".join(lines) + "\n")
    test = [*map(str, range(1000, 1008)), "31337"]
    (root / "aesthetics_image_lists" / "generic_test.jpgl").write_text("\n".join(test) + "\n")
    (root / "tags.txt").write_text("1 Abstract\n2 Cityscape\n7 Macro\n")
    return root


def ava(root: Path, **more: Any) -> AVA:  # noqa: ANN401
    return AVA(str(root), **({"resize": 40, "crop": 32, "batch_size": 4} | more))


def test_official_split_and_what_is_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    caplog.clear()
    data = ava(root)
    data.setup()
    assert data.val.names.tolist() == [f"{i}.jpg" for i in range(1000, 1008)]
    assert data.train.names.tolist() == [f"{i}.jpg" for i in range(1008, 1040)]
    assert "2 whose files are known to be corrupt (440774, 179118)" in caplog.text
    assert "1 of the test list, which have no ratings" in caplog.text
    votes = np.array(next(x for x in (root / "AVA.txt").read_text().splitlines()
                          if x.split()[1] == "1003").split()[2:12], float)  # fmt: skip
    assert np.allclose(data.val.p_NK[3].numpy(), votes / votes.sum(), atol=1e-7)


def test_random_split_is_80_20_and_needs_no_list(root: Path) -> None:
    (root / "aesthetics_image_lists" / "generic_test.jpgl").unlink()
    data = ava(root, split="random")
    data.setup()
    assert (len(data.train), len(data.val)) == (32, 8)
    other = ava(root, split="random", split_seed=3)
    other.setup()
    assert set(other.val.names.tolist()) != set(data.val.names.tolist())
    with pytest.raises(ValueError, match=r"generic_test.jpgl: no such file.*data.split=random"):
        ava(root).setup()


def test_own_lists(root: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("1030\n1031\n")
    data = ava(root, split="lists", val_list=str(tmp_path / "val.txt"))
    data.setup()
    assert data.val.names.tolist() == ["1030.jpg", "1031.jpg"]
    for options in ({"split": "lists"}, {"split": "official", "val_list": "a"}):
        with pytest.raises(ValueError, match="split=lists needs val_list"):
            ava(root, **options)


def test_twenty_photos_may_be_missing_but_no_more(root: Path) -> None:
    for number in range(1010, 1030):
        (root / "images" / f"{number}.jpg").unlink()
    data = ava(root)
    data.setup()
    assert len(data.train) == 12
    (root / "images" / "1030.jpg").unlink()
    with pytest.raises(ValueError, match=r"21 of 40 rated images are not in .*data.max_missing=21"):
        ava(root).setup()


def test_tags_and_challenges_choose_photos(root: Path) -> None:
    data = ava(root, split="random", tags=["macro"])
    data.setup()
    names = sorted([*data.train.names.tolist(), *data.val.names.tolist()])
    assert names == [f"{IDS[k - 1]}.jpg" for k in range(5, 41, 5)]
    by_number = ava(root, split="random", tags=[7])
    by_number.setup()
    assert by_number.val.names.tolist() == data.val.names.tolist()
    data = ava(root, split="random", challenges=[501])
    data.setup()
    assert len(data.train) + len(data.val) == 20
    with pytest.raises(ValueError, match=r"data.tags=Food: allowed are abstract, cityscape, macro"):
        ava(root, tags=["Food"]).setup()
    with pytest.raises(ValueError, match="no photo"):
        ava(root, challenges=[1]).setup()


def test_choosing_by_tag_leaves_the_store_of_all_alone(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ava(root).setup()
    ava(root, split="random", tags=[7]).setup()
    caplog.set_level("INFO")
    caplog.clear()
    ava(root).setup()
    assert "packing" not in caplog.text


def test_limit_asks_for_few_photos(root: Path) -> None:
    for number in range(1012, 1040):
        (root / "images" / f"{number}.jpg").unlink()
    data = ava(root, limit=3)
    data.setup()
    assert data.train.names.tolist() == ["1008.jpg", "1009.jpg", "1010.jpg"]
    assert data.val.names.tolist() == ["1000.jpg", "1001.jpg", "1002.jpg"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 3", "line 2 is not 15 whole numbers: '1 2 3'"),
        ("2 1001 " + "1 " * 9 + "x 0 0 5", "line 2 is not 15"),
        ("2 1001 " + "1 " * 9 + "0 0 5\n3 1002 " + "1 " * 11 + "0 0 5", "line 2 is not 15"),
        ("2 1001 " + "9" * 30 + " 1" * 9 + " 0 0 5", "line 2 is not 15"),
        ("2 1000 " + "1 " * 10 + "0 0 5", "image 1000 appears twice"),
        ("2 1001 " + "0 " * 10 + "0 0 5", "image 1001 has no valid votes"),
    ],
)
def test_damaged_index_is_refused_by_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "AVA.txt"
    path.write_text("1 1000 " + "1 " * 10 + "0 0 5\n" + line + "\n")
    with pytest.raises(ValueError, match=r"AVA\.txt") as info:
        read_index(path)
    assert message in str(info.value)
    path.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        read_index(path)


def test_reading_the_whole_index_takes_a_second(tmp_path: Path) -> None:
    line = " 0 1 5 17 38 36 15 6 5 1 1 22 1396"
    path = tmp_path / "AVA.txt"
    path.write_text("".join(f"{k} {953000 + k}{line}\n" for k in range(255_530)))
    began = time.perf_counter()
    index = read_index(path)
    assert time.perf_counter() - began < 3
    assert index.votes.shape == (255_530, 10)


def test_buckets_are_ten(root: Path) -> None:
    with pytest.raises(ValueError, match="AVA from 1 to 10"):
        ava(root, num_buckets=7)
