"""The result of a finished run, and result.json, which holds it and marks the run as finished."""

import csv
import dataclasses
import datetime
import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from configuration.model_kind import stored_kind
from runs.identity import Identity
from runs.run_folder import BEST, read_json
from system.json_files import JsonObject, write_json
from system.places import ROOT, expanded, program

VERSION = 1  # of the format of result.json; version 0.1 of the program wrote none
VERSIONED = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")


@dataclass(frozen=True)
class Result:
    """The result of a finished run.

    Attributes:
        folder: the run folder.
        metrics: values by name; those of a training are of its best epoch.
        files: paths of what a measurement wrote, relative to the folder.
        note: remarks on a measurement.
        kind: what was trained, `scorer` or `enhancer`; the next ones too are of trainings.
        monitor: name of the metric that selects the best epoch.
        best_epoch: number of that epoch, from 1.
        epochs: number of epochs trained.
        checkpoint: path of the best checkpoint, relative to the folder.
        data: description of the data.
        warnings: what the callbacks noticed.
        better: of each image metric, whether `higher` or `lower` values are better; None: unknown.
        nets: of each measured checkpoint, by its name in per_image.csv, the `config_hash` of its
            training, and `dependent`: the judges that are not independent, with the reason.
        wall_time_s: duration of the training in seconds.
    """

    folder: Path
    metrics: Mapping[str, float | None]
    device: str
    world_size: int = 1
    files: list[str] | None = None
    note: str | None = None
    kind: str | None = None
    monitor: str | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    checkpoint: str | None = None
    data: str | None = None
    num_parameters: int | None = None
    seed: int | None = None
    warnings: list[str] | None = None
    better: Mapping[str, str | None] | None = None
    nets: Mapping[str, JsonObject] | None = None
    wall_time_s: float | None = None

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read the result of a run folder.

        Raises:
            ValueError: if the run is not finished, or its result.json is damaged.
        """
        folder = expanded(folder)
        content = read_json(folder / "result.json")
        if content is None:
            raise ValueError(f"{folder} holds no finished run: there is no result.json")
        names = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(folder=folder, **{k: v for k, v in content.items() if k in names})
        except TypeError as error:
            raise ValueError(f"{folder / 'result.json'} is damaged ({error})") from error

    def write(self, identity: Identity) -> None:
        """Write result.json, which marks the run as finished."""
        from importlib.metadata import version  # here: it takes as long as reading a result

        content = dataclasses.asdict(self)
        del content["folder"]
        write_json(
            self.folder / "result.json",
            {key: value for key, value in content.items() if value is not None}
            | identity.record()
            | {
                "version": VERSION,
                "git": git_state(),
                "versions": {name: version(name) for name in VERSIONED}
                | {"python": platform.python_version()},
                "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
        )

    @property
    def monitored(self) -> float | None:
        """Return the value of the metric that selects the best epoch."""
        return None if self.monitor is None else self.metrics.get(self.monitor)

    @property
    def best(self) -> Path:
        """Return the best checkpoint of a training."""
        return self.folder / BEST

    @property
    def paths(self) -> list[Path]:
        """Return the files that a measurement wrote."""
        return [self.folder / name for name in self.files or ()]

    def history(self) -> list[dict[str, float]]:
        """Read metrics.csv of a training: what each step or epoch logged, by name."""
        with open(self.folder / "metrics.csv", newline="") as file:
            return [
                {name: float(text) for name, text in row.items() if text}
                for row in csv.DictReader(file)
            ]


def trained_scorer(folder: Path, backbone: str) -> str:
    """Find the best checkpoint of a scorer that a sweep has trained.

    If there are several, for example of several seeds, the one with the lowest `val/emd` is taken.

    Args:
        folder: folder of the sweep.
        backbone: backbone of the scorer.

    Raises:
        ValueError: if there is none.
    """
    found = []
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path) or {}
        config = result.get("config", {})
        if stored_kind(result, config) == "scorer" and config["scorer"]["backbone"] == backbone:
            emd = result["metrics"].get("val/emd")
            found.append((math.inf if emd is None else emd, path.parent))
    if not found:
        raise ValueError(
            f"no scorer with {backbone} in {folder}; "
            f"{program()} sweep=backbone experiment=nima_mnasnet trains them"
        )
    return str(min(found)[1] / BEST)


def git_state() -> JsonObject | None:
    """Return the commit and whether the working tree is dirty; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "run.py"
        )  # fails if only a parent folder is a repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
