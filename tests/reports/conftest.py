"""Run folders of real trainings, and variations of them."""

import csv
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import run as entry
from system.files import text_sha256
from tests.conftest import NIMA_WITH_PICTURES, SAMPLE_SCORER, TINY

MakeRun = Callable[..., Path]

EPOCHS = 3
ENHANCER = [
    *(word for word in TINY if word != "callbacks.photo_table=null"),
    *("gamma=0.1", f"epochs={EPOCHS}"),
]
TRAININGS = {
    "edsr": [*ENHANCER, "net=edsr", f"judge.checkpoint={SAMPLE_SCORER}"],
    "mdsr": [*ENHANCER, "net=mdsr"],
    "nima": NIMA_WITH_PICTURES,
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folders of three short trainings by name: an EDSR x2, an MDSR and a scorer."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["run.py"])
        for name, words in TRAININGS.items():
            GlobalHydra.instance().clear()
            assert entry.main([*words, f"name={name}"]) == 0
    return {folder.name: folder for folder in root.glob("outputs/*/*")}


Row = dict[str, Any]


def vary(
    source: Path,
    folder: Path,
    settings: Mapping[str, object],
    inputs: Mapping[str, str | None],
    values: Mapping[str, float],
    absent: tuple[str, ...] = (),
) -> Path:
    """Copies a run folder with other settings, inputs and metrics.

    Args:
        source: the run folder.
        folder: the copy.
        settings: by dotted key.
        inputs: SHA-256 of files by key; None: without this file.
        values: metrics at the best epoch (at x2 of an MDSR); all epochs, scales and photos move
            along.
        absent: metrics that are removed.
    """
    shutil.copytree(source, folder)
    result = read(folder / "result.json")
    metrics = result["metrics"]
    changes = {
        name: value - metrics.get(f"val/{name}/x2", metrics.get(f"val/{name}"))
        for name, value in values.items()
    }
    write(folder / "result.json", result | {"metrics": moved(metrics, changes, absent)})
    for name in ("run.json", "result.json"):
        record = read(folder / name)
        for key, value in settings.items():
            set_key(record["config"], key, value)
            record["settings"][key] = value
        for key, sha in inputs.items():
            set_key(record["config"], key, f"outputs/{key.partition('.')[0]}/checkpoints/best.ckpt")
            for part in ("settings", "inputs"):
                record[part].pop(key, None)
            record["inputs"] |= {} if sha is None else {key: sha}
        record["sweep"] = folder.parent.name if "sweeps" in folder.parts else None
        record["config_hash"] = text_sha256(json.dumps([record["settings"], record["inputs"]]))
        write(folder / name, record)
    write_rows(folder, [moved(row, changes, absent) for row in read_rows(folder)])
    if (path := folder / "images" / "photos.json").exists():
        photos = [moved(row, changes, absent) for row in read(path)["photos"]]
        write(path, {"photos": photos})
        rng = np.random.default_rng(list(str(folder).encode()))
        for row in photos:  # each run has results of its own
            pixels = np.asarray(Image.open(folder / "images" / row["sr"]))
            noisy = np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / "images" / row["sr"])
    return folder


def set_key(config: dict[str, Any], key: str, value: object) -> None:
    """Sets a value of a configuration by its dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def moved(row: Row, changes: Mapping[str, float], absent: tuple[str, ...]) -> Row:
    """Adds to metrics at all scales, and removes those that are absent and their baselines."""

    def name(key: str) -> str:
        return key.removeprefix("val/").partition("/")[0]

    return {
        key: float(value) + changes[name(key)] if name(key) in changes and value != "" else value
        for key, value in row.items()
        if name(key).removesuffix("_bicubic").removesuffix("_hr") not in absent
    }


def read(path: Path) -> dict[str, Any]:
    """Reads a JSON file."""
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(content))


def read_rows(folder: Path) -> list[Row]:
    """Reads metrics.csv."""
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: list[Row]) -> None:
    """Replaces metrics.csv."""
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def make_run(trained: dict[str, Path]) -> MakeRun:
    """Makes the run folder of an enhancer: a real one with the changes that are asked for."""

    def make(
        folder: Path,
        *,
        net: str = "edsr",
        scale: int = 2,
        gamma: float = 0.0,
        seed: int = 0,
        lr: float = 1e-4,
        scorer: str = "a" * 64,
        judge: str | None = None,
        data: Mapping[str, object] = {},
        psnr: float = 33.0,
        score: float | None = None,
        finished: bool = True,
        about: dict[str, Any] = {},  # noqa: B006
        result: dict[str, Any] = {},  # noqa: B006
    ) -> Path:
        """`about` and `result` replace entries of run.json and result.json."""
        settings: dict[str, object] = {
            **{"gamma": gamma, "loss.aesthetic.weight": gamma, "seed": seed, "data.seed": seed},
            **{"optim.optimizer.lr": lr, "model.optimizer.lr": lr},
            **{f"data.{key}": value for key, value in data.items()},
        }
        if net == "edsr":
            settings |= {"scale": scale, "net.scale": scale}
        inputs = {"scorer.checkpoint": scorer if gamma else None, "judge.checkpoint": judge}
        values = {"psnr": psnr} if score is None else {"psnr": psnr, "score": score}
        absent = [] if score is not None else ["score"]
        absent += [] if judge else ["score_judge"]
        vary(trained[net], folder, settings, inputs, values, tuple(absent))
        write(folder / "run.json", read(folder / "run.json") | about)
        write(folder / "result.json", read(folder / "result.json") | about | result)
        photos = read(folder / "images" / "photos.json")["photos"]
        if net == "edsr":
            write(
                folder / "images" / "photos.json",
                {"photos": [p | {"scale": scale} for p in photos]},
            )
        if not finished:
            for name in ("result.json", "progress.json"):
                (folder / name).unlink()
            shutil.rmtree(folder / "images")
            rows = [row for row in read_rows(folder) if int(row["epoch"]) < EPOCHS - 1]
            write_rows(folder, rows)
        return folder

    return make
