"""Small trainings give the numbers that they gave when golden.json was written.

Patches have to be the same bytes. Losses and metrics may differ in the last digits on another
processor; GOLDEN=exact asks for every digit, as before and after a change that must not touch
numbers, and GOLDEN=write writes the file anew.
"""

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from datamodules.sample import SamplePairs, SampleRated
from tests.conftest import TINY, TINY_NIMA, Cli

FILE = Path(__file__).with_name("golden.json")
MODE = os.environ.get("GOLDEN", "")
TRAININGS = {
    "edsr": ["experiment=sample_edsr", *TINY, "gamma=0.4"],
    "mdsr": ["experiment=sample_edsr", *TINY, "net=mdsr", "gamma=0"],
    "deblur": ["experiment=sample_deblur", *TINY, "gamma=0"],
    "nima": TINY_NIMA,
}


def agree(name: str, found: Any) -> None:  # noqa: ANN401
    """Compare with the stored value, or store it."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    if MODE == "write":
        FILE.write_text(json.dumps({**stored, name: found}, indent=1, sort_keys=True) + "\n")
        return
    if MODE == "exact" or isinstance(found, list):
        assert json.dumps(found, sort_keys=True) == json.dumps(stored[name], sort_keys=True)
        return
    assert found.keys() == stored[name].keys()
    for key, values in found.items():
        assert values == pytest.approx(stored[name][key], rel=1e-4, abs=1e-6, nan_ok=True), key


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_logs_the_same_numbers(name: str, cli: Cli, folder: Path) -> None:
    done = cli(*TRAININGS[name], "name=golden")
    assert done.code == 0, done.err
    (path,) = folder.glob("outputs/*/golden/metrics.csv")
    columns: dict[str, list[float]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value and key.startswith(("train/", "val/")):
                    columns.setdefault(key, []).append(float(value))
    agree(name, columns)


@pytest.mark.parametrize("scales", [[2], [2, 3, 4]])
def test_patches_are_the_same_bytes(scales: list[int]) -> None:
    data = SamplePairs(scale=scales, patch_size=16, batch_size=4, num_steps=3, limit=3, seed=7)
    found = []
    for batch in [*data.train_dataloader(), *data.train_dataloader()]:  # two epochs
        content = hashlib.sha256()
        for part in batch.to_unit():
            content.update((255 * part).round().byte().numpy().tobytes())
        found.append(content.hexdigest()[:16])
    assert len(set(found)) == 6
    agree(f"patches_{len(scales)}", found)


def test_rated_crops_have_the_same_means() -> None:
    data = SampleRated(num_train=8, num_val=2, batch_size=4, resize=72, crop=64, num_buckets=10)
    means = []
    for batch in [*data.train_dataloader(), *data.train_dataloader()]:
        means.append(batch.to_unit().images_BCHW.double().mean().item())
    agree("rated", {"mean": means})
