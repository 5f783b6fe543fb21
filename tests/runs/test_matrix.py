"""Several scorers on several tables of ratings."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kendalltau, pearsonr, spearmanr

from lightning_modules.checkpoint import load_scorer, save_safetensors
from lightning_modules.record import Record
from networks.nima import NIMA
from tests.conftest import SAMPLE_SCORER, Cli

SCALES = {"votes": (1, 7), "means": (0, 100)}
TABLES = (
    "data.tables=[{ratings: votes.csv, images: votes, scale: [1,7], val_list: votes.txt},"
    "{ratings: means.csv, images: means, scale: [0,100], val_list: means.txt}]"
)


def save_scorer(path: Path, **arguments: Any) -> None:  # noqa: ANN401
    """A scorer of trained features with an untrained head, whose scores differ between photos."""
    torch.manual_seed(0)
    net = NIMA("mnasnet_0_5", pretrained=str(SAMPLE_SCORER), **arguments)
    spec = {"_target_": "networks.nima.NIMA", "backbone": "mnasnet_0_5"}
    record = Record(kind="scorer", net=spec, data="one | two", gamma=None)
    save_safetensors(path, net, record, dtype=torch.float32)


@pytest.fixture
def means(folder: Path) -> dict[str, dict[str, float]]:
    """Two tables of ten photos, of which eight are held out; returns the true means of these."""
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for table in SCALES:
        (folder / table).mkdir()
        lines = [
            "image,mean"
            if table == "means"
            else "image,votes_1,votes_2,votes_3,votes_4,votes_5,votes_6,votes_7"
        ]
        found[table] = {}
        for k in range(10):
            name = f"{table}{k}.png"
            pixels = rng.integers(0, 256, (6 + k, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((60, 50)).save(folder / table / name)
            votes = rng.integers(1, 20, 7)
            mean = round(rng.uniform(5, 95), 2)
            lines.append(f"{name},{mean if table == 'means' else ','.join(map(str, votes))}")
            if k >= 2:
                true = mean if table == "means" else float(votes @ np.arange(1, 8) / votes.sum())
                found[table][name] = true
        (folder / f"{table}.csv").write_text("\n".join(lines))
        (folder / f"{table}.txt").write_text("\n".join(found[table]))
    return found


def test_each_scorer_is_measured_on_each_table(
    cli: Cli, folder: Path, means: dict[str, dict[str, float]]
) -> None:
    save_scorer(folder / "a.safetensors", num_buckets=10, resize=48, crop=48)
    save_scorer(folder / "b.safetensors", num_buckets=5, resize=40, crop=32)
    checkpoints = "checkpoint=[a.safetensors,b.safetensors]"
    done = cli("evaluate", checkpoints, "data=tables", TABLES, "probe_photos=3", "name=m")
    assert done.code == 0, done.err
    out = folder / "outputs/evaluate/m"
    rows = list(csv.DictReader((out / "matrix.csv").read_text().splitlines()))
    assert [row["table"] for row in rows] == [*SCALES, *SCALES]
    metrics = json.loads((out / "result.json").read_text())["metrics"]
    for row, name in zip(rows, "aabb", strict=True):
        assert row["scorer"] == f"mnasnet_0_5 ({name})"
        scorer = load_scorer(folder / f"{name}.safetensors")
        (low, high), true = SCALES[row["table"]], means[row["table"]]
        scores = np.array([scorer.score(folder / row["table"] / name) for name in true])
        ours = low + (scores - 1) / (scorer.num_buckets - 1) * (high - low)
        y = np.array(list(true.values()))
        expected = {
            "srcc": spearmanr(ours, y)[0],
            "krcc": kendalltau(ours, y)[0],
            "lcc": pearsonr(ours, y)[0],
            "rmse": np.sqrt(np.mean((ours - y) ** 2)),
        }
        assert row["photos"] == "8"
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-3, abs=1e-4), row
            assert metrics[f"{name}/{row['scorer']}/{row['table']}"] == float(row[name])
    markdown = (out / "matrix.md").read_text()
    assert "| mnasnet_0_5 (a) | one / two | " in markdown
    assert markdown.count("## ") == 5
    assert Image.open(out / "matrix.png").size[0] > 500
    # Three photos of the sixteen, of both tables.
    assert "on patches of 3 photos" in done.out
    assert metrics.keys() >= {f"gain_sds/0.25/mnasnet_0_5 ({name})" for name in "ab"}


def test_scorers_of_different_buckets_need_the_scale_of_a_table(
    cli: Cli, folder: Path, means: dict[str, dict[str, float]]
) -> None:
    save_scorer(folder / "a.safetensors", num_buckets=7, resize=48, crop=48)
    save_scorer(folder / "b.safetensors", num_buckets=5, resize=48, crop=48)
    words = [
        "data=rated",
        "data.ratings=votes.csv",
        "data.images=votes",
        "probe_photos=0",
        "name=x",
    ]
    done = cli("evaluate", "checkpoint=[a.safetensors,b.safetensors]", *words)
    assert done.code == 2
    assert "the scorers have 5 and 7 buckets, so ratings needs its scale" in done.err
    done = cli("evaluate", "checkpoint=[a.safetensors]", *words)  # one row
    assert done.code == 0, done.err
    text = (folder / "outputs/evaluate/x/matrix.csv").read_text()
    (row,) = csv.DictReader(text.splitlines())
    assert (row["scorer"], row["table"]) == ("mnasnet_0_5", "ratings")
    assert not (folder / "outputs/evaluate/x/robustness.csv").exists()
