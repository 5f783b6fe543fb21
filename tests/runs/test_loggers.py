"""What W&B and TensorBoard are told of a run, read back from the files that they write."""

import csv
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import wandb

from images.pixels import to_unit
from images.reading import read_image
from lightning_modules.image_metrics import image_metrics
from tests.conftest import NIMA_WITH_PICTURES, TINY, Cli, launch
from tests.wandb_file import WandbRun, read_wandb

PICTURES = [
    w for w in TINY if w not in ("callbacks.before_after=null", "callbacks.photo_table=null")
]
OFFLINE = ["logger=[csv,wandb]", "logger.wandb.offline=true"]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_SILENT", "true")


def runs(folder: Path) -> list[WandbRun]:
    wandb.teardown()  # its service may still hold the end of the last file
    return [read_wandb(path) for path in sorted(folder.rglob("*.wandb"))]


def columns(history: list[dict[str, Any]]) -> set[str]:
    return {key for row in history for key in row}


@pytest.mark.ddp
def test_a_sweep_of_two_ranks_in_wandb(folder: Path, scorer_file: Path) -> None:
    """One W&B run for each job, of rank 0 alone, and everything in it once."""
    words = ["-m", *PICTURES, *OFFLINE, "gamma=0.4", "trainer=ddp_cpu", "net=edsr,mdsr"]
    words += [f"scorer.checkpoint={scorer_file}", "hydra.launcher.jobs=2"]
    process = launch(folder, *words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    files = sorted(folder.rglob("*.wandb"))
    assert len(files) == 2
    seen = set()
    for path in files:
        run = read_wandb(path)
        place = path.parent.parent.parent
        result = json.loads((place / "result.json").read_text())
        gamma, choices = result["config"]["gamma"], run.config["choices"]
        seen.add((gamma, choices["net"]))
        assert run.run.run_id == json.loads((place / "run.json").read_text())["run_id"]
        assert run.run.display_name == place.name
        assert (run.run.run_group, run.run.job_type) == ("sample_edsr", "train")
        scales = {"edsr": "x2", "mdsr": "x2-x3-x4"}[choices["net"]]
        assert list(run.run.tags) == [choices["net"], scales, "mnasnet_0_5"]
        for key in ("gamma", "seed", "net", "optim", "trainer"):
            assert run.config[key] == result["config"][key]
        # Each row of metrics.csv once, in order.
        with open(place / "metrics.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        logged = [row for row in run.history if "train/loss" in row]
        assert [row["train/loss"] for row in logged] == [float(row["train/loss"]) for row in rows]
        best = {name: value for name, value in result["metrics"].items() if name[:4] == "val/"}
        assert {"val/psnr", "val/ssim", "val/loss", "val/score"} <= best.keys()
        for name, value in best.items():
            assert run.summary[f"best/{name}"] == pytest.approx(value)
            assert name in columns(run.history)
        # Pictures: two photos at each scale, of the last epoch, once.
        num = 2 * len(scales.split("-"))
        drawn = [row for row in run.history if any("before_after" in key for key in row)]
        assert len(drawn) == num
        pictures = [name for name in run.files if "before_after" in name]
        assert len(pictures) == num
        for name in pictures:
            PIL.Image.open(path.parent / "files" / name).verify()
        check_table(run.artifacts["run_table"], place, num)
    assert seen == {(0.4, "edsr"), (0.4, "mdsr")}


def check_table(files: dict[str, Path], place: Path, num: int) -> None:
    """The table has what photos.json has, and pictures that are there, in the run folder."""
    table = json.loads(files["photos.table.json"].read_text())
    assert all(path.is_relative_to(place.absolute()) for path in files.values())
    assert table["columns"] == ["id", "scale", "LR", "SR", "HR", "PSNR", "score", "judge"]
    photos = json.loads((place / "images" / "photos.json").read_text())["photos"]
    assert len(table["data"]) == len(photos) == num
    for row, photo in zip(table["data"], photos, strict=True):
        named = dict(zip(table["columns"], row, strict=True))
        assert (named["id"], named["scale"]) == (photo["id"], photo["scale"])
        assert named["PSNR"] == photo["psnr"]
        assert named["score"] == photo["score"] is not None
        assert named["judge"] is None
        pictures = (PIL.Image.open(files[named[key]["path"]]) for key in ("LR", "SR", "HR"))
        sizes = [picture.size for picture in pictures]
        height, width = photo["box"][2:]
        assert sizes[1] == sizes[2] == (width, height)
        assert sizes[0] == (width // photo["scale"], height // photo["scale"])


@pytest.mark.slow
def test_an_extended_run_goes_on_in_the_same_wandb_run(cli: Cli, folder: Path) -> None:
    assert cli(*TINY, *OFFLINE, "gamma=0").code == 0
    assert cli(*TINY, *OFFLINE, "gamma=0", "resume=true", "epochs=3").code == 0
    first, second = runs(folder)
    assert first.run.run_id == second.run.run_id
    assert list(first.run.tags) == ["edsr_tiny", "x2"]  # no scorer is read
    steps = [[row["epoch"] for row in run.history if "val/psnr" in row] for run in (first, second)]
    assert steps == [[0, 1], [2]]


@pytest.mark.slow
def test_a_scorer_in_wandb(cli: Cli, folder: Path) -> None:
    done = cli(*NIMA_WITH_PICTURES, *OFFLINE, "logger.wandb.tags=[mine]")
    assert done.code == 0, done.err
    (run,) = runs(folder)
    assert run.run.run_group == "sample_nima"
    assert list(run.run.tags) == ["mnasnet_0_5", "mine"]
    assert {"val/emd", "val/srcc", "train/loss"} <= columns(run.history)
    (result,) = folder.rglob("result.json")
    assert run.summary["best/val/emd"] == pytest.approx(
        json.loads(result.read_text())["metrics"]["val/emd"]
    )


@pytest.mark.slow
def test_tensorboard_has_the_same_scalars_and_pictures(cli: Cli, folder: Path) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    assert cli(*PICTURES, "logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true").code == 0
    (run,) = runs(folder)
    (place,) = folder.rglob("tensorboard")
    events = event_accumulator.EventAccumulator(str(place))
    events.Reload()
    names = {key for key in columns(run.history) if key.startswith(("train/", "val/", "best/"))}
    assert names <= set(events.Tags()["scalars"])
    for name in ("val/psnr", "train/loss"):
        logged = [row[name] for row in run.history if name in row]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(logged)
    images = set(events.Tags()["images"])
    assert {"before_after/chelsea", "before_after/coffee"} <= images
    assert {f"photos/coffee_x2/{name}" for name in ("lr", "bicubic", "sr", "hr")} <= images


def test_photo_table_is_of_the_best_checkpoint_and_of_whole_lr_pixels(
    cli: Cli, folder: Path
) -> None:
    assert cli(*PICTURES, "callbacks.before_after=null", "gamma=0", "scale=3").code == 0
    (path,) = folder.rglob("photos.json")
    content = json.loads(path.read_text())
    result = json.loads((path.parent.parent / "result.json").read_text())
    assert content["epoch"] == result["best_epoch"]
    photos = content["photos"]
    mean = sum(photo["psnr"] for photo in photos) / len(photos)
    assert mean == pytest.approx(result["metrics"]["val/psnr"], abs=1e-3)
    for photo in photos:
        height, width = photo["box"][2:]
        assert not any(value % 12 for value in photo["box"])
        parts = {name: read_image(path.parent / photo[name]) for name in ("lr", "sr", "hr")}
        assert parts["sr"].shape == parts["hr"].shape == (3, height, width)
        assert parts["lr"].shape == (3, height // 3, width // 3)
        # The crops show the same place: bicubic of it is near HR.
        bicubic = to_unit(read_image(path.parent / photo["bicubic"]))[None]
        assert image_metrics(bicubic, to_unit(parts["hr"])[None], 3)["psnr"].item() > 18
