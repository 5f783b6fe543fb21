"""What W&B and TensorBoard are told of a run, read back from the files that they write."""

import json
from pathlib import Path

import pytest
import wandb

from images.pixels import to_unit
from images.reading import read_image
from lightning_modules.image_metrics import image_metrics
from tests.conftest import NIMA_WITH_PICTURES, TINY, WITH_PICTURES, Cli
from tests.wandb_file import WandbRun, columns, read_wandb

OFFLINE = ["logger=[csv,wandb]", "logger.wandb.offline=true"]


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("WANDB_SILENT", "true")


def runs(folder: Path) -> list[WandbRun]:
    wandb.teardown()  # its service may still hold the end of the last file
    return [read_wandb(path) for path in sorted(folder.rglob("*.wandb"))]


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
    assert (
        cli(*WITH_PICTURES, "logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true").code == 0
    )
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
    assert cli(*WITH_PICTURES, "callbacks.before_after=null", "gamma=0", "scale=3").code == 0
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
