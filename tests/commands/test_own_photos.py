"""Own photos as lists, globs and files through the real command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_text_keys import read
from tests.conftest import TINY, Cli

WORDS = [*(word for word in TINY if not word.startswith("data.limit")), "gamma=0", "data=photos"]
QUIET = ["scorer.checkpoint=null", "judge.checkpoint=null"]


@pytest.fixture(autouse=True)
def _photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("2024/1", "2024/2", "1e3/1", "1e3/4", "val/1", "val/5"):
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        small.resize((72, 66), Image.Resampling.BICUBIC).save(path)


@pytest.mark.slow
def test_a_run_on_lists_and_globs_from_training_to_report(cli: Cli, folder: Path) -> None:
    words = [*WORDS, "epochs=1", "data.train_hr=[2024,1e3]", "data.val_hr=[val,1e3/1.png]"]
    done = cli(*words)
    assert done.code == 0, done.err
    (run,) = (folder / "outputs/photos").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert result["config"]["data"]["train_hr"] == ["2024", "1e3"]
    assert "photos of 2024, 1e3, validated on val, 1e3/1.png" in result["data"]
    assert "already finished" in cli(*words).out
    # The same photos in other words are the same data.
    again = [*WORDS, "epochs=1", "data.train_hr=[1e3/*.png,2024]", "data.val_hr=[1e3/1.png,val]"]
    done = cli(*again, f"name={run.name}")
    assert "already finished" in done.out, done.err
    best = run / "checkpoints" / "best.ckpt"
    for command in (
        ["evaluate", f"checkpoint={best}"],
        ["interpolate", f"checkpoints=[{best},{best}]"],
    ):
        done = cli(*command, *QUIET, "name=own")
        assert done.code == 0, done.err
    with open("outputs/evaluate/own/per_image.csv", newline="") as file:
        assert {row["image"] for row in csv.DictReader(file)} == {"1e3/1", "val/1", "val/5"}
    pictures = {p.relative_to("outputs/evaluate/own/images").as_posix()
                for p in Path("outputs/evaluate/own/images").rglob("*_sr.png")}  # fmt: skip
    assert pictures == {"1e3/1_sr.png", "val/1_sr.png", "val/5_sr.png"}
    done = cli("report", "runs=outputs", "output=report")
    assert done.code == 0, done.err
    for given, names in (("[2024,val]", ["2024/1", "2024/2", "val/1", "val/5"]), ("*/1.png", None)):
        words = ["evaluate", f"checkpoint={best}", "data=photos", f"data.val_hr={given}", *QUIET]
        done = cli(*words, "name=other", "overwrite=true")
        assert done.code == 0, done.err
        with open("outputs/evaluate/other/per_image.csv", newline="") as file:
            found = sorted({row["image"] for row in csv.DictReader(file)})
        assert found == (names or ["1e3/1", "2024/1", "val/1"])


def test_all_that_stands_for_no_photo_is_listed(cli: Cli, folder: Path) -> None:
    done = cli(*WORDS, "data.train_hr=[2024,gone]", "data.val_hr=none/*.png", "data.val_lr=[a,b]")
    assert done.code == 2
    assert done.err.splitlines() == [
        "error: 4 problems with the given photos:",
        "  data.train_hr=gone: no such file or folder, and no file matches it",
        "  data.val_hr=none/*.png: no such file or folder, and no file matches it",
        "  data.val_lr=a: no such file or folder, and no file matches it",
        "  data.val_lr=b: no such file or folder, and no file matches it",
    ]
    assert not (folder / "outputs").exists()
    for command in ("enhance", "score", "prepare"):
        key = "root" if command == "prepare" else "input"
        words = ["dataset=photos"] if command == "prepare" else []
        done = cli(command, f"{key}=[gone,val,x*.png]", *words)
        assert done.code == 2
        lines = [line.strip() for line in done.err.removeprefix("error: ").splitlines()]
        assert [line.partition(":")[0] for line in lines] == [f"{key}=gone", f"{key}=x*.png"]


def test_text_keys(folder: Path) -> None:
    own = ["data=photos", "data.train_hr=[2024,1e3,null]", "data.val_lr=[007,a b/*.png]"]
    own += ["data.val_hr=**/*.png", "data.train_lr=null"]
    assert read("train", "data.train_hr", *own) == ["2024", "1e3", "null"]
    assert read("train", "data.val_lr", *own) == ["007", "a b/*.png"]
    assert read("train", "data.val_hr", *own) == "**/*.png"
    assert read("train", "data.train_lr", *own) is None
    words = ["dataset=photos", "root=[2024,1e3]"]
    assert read("prepare", "root", *words) == ["2024", "1e3"]


def test_prepare_takes_what_training_takes(cli: Cli, folder: Path) -> None:
    done = cli("prepare", "dataset=photos", "root=[2024,1e3/4.png]", "scales=[2]", "pack=true")
    assert done.code == 0, done.err
    assert "data.train_hr=[2024,1e3/4.png]" in done.out
    done = cli("prepare", "dataset=photos", "root=*/1.png")
    assert "photos: 3 of 3 files are good" in done.out
    done = cli("prepare", "dataset=div2k", "root=[2024,1e3]")
    assert done.code == 2
    assert "root=[2024,1e3]: dataset=div2k needs a single folder" in done.err
