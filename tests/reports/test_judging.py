"""Judges in a report: gains over gamma 0 from the photos that `evaluate` measured."""

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.comparison import Comparison
from reports.evaluations import evaluations_of
from reports.judging import add_judges
from reports.run_reading import read_run, read_runs
from runs.paired import interval
from tests.conftest import Cli
from tests.reports.conftest import MakeRun, read, write

GAMMAS, SEEDS, PHOTOS = (0.0, 0.1, 1.0), (0, 1, 2), 12
EFFECTS = {"psnr": -0.2, "features": -0.02, "judge_oasis": 0.05, "judge_ava": 0.0}  # at gamma 1
BETTER = {"psnr": "higher", "features": "lower"}


@pytest.fixture
def evaluated(folder: Path, make_run: MakeRun) -> dict[tuple[str, str], dict[str, float]]:
    """Runs in `outputs`, and an evaluation of them; its values by network and photo."""
    rng = np.random.default_rng(0)
    photos = {f"{k}.png": rng.normal(5, 1, len(EFFECTS)) for k in range(PHOTOS)}
    nets: dict[str, Any] = {}
    values = {}
    for gamma, seed in itertools.product(GAMMAS, SEEDS):
        name = f"EDSR gamma={gamma:g} ({seed})"
        run = make_run(folder / f"outputs/sweep/{gamma}-{seed}", gamma=gamma, seed=seed, lr=3e-4)
        dependent = {"judge_ava": "shares backbone with the loss"} if gamma else {}
        nets[name] = {"config_hash": read(run / "run.json")["config_hash"], "dependent": dependent}
        for photo, level in photos.items():
            effects = gamma * np.array(list(EFFECTS.values())) + rng.normal(0, 0.02, len(EFFECTS))
            found = dict(zip(EFFECTS, (level + effects).tolist(), strict=True))
            values[name, photo] = found
    place = folder / "outputs" / "evaluate" / "judged"
    place.mkdir(parents=True)
    with open(place / "per_image.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "scale", "net", *EFFECTS])
        writer.writeheader()
        for (name, photo), found in values.items():
            writer.writerow({"image": photo, "scale": 2, "net": name, **found})
    criteria = {"judges": 0.75, "against": 0, "psnr_loss": 0.3, "count": None}
    config = {"checkpoint": "x", "criteria": criteria, "judges": {"oasis": "a/oasis.safetensors"}}
    about = {"command": "evaluate", "config": config, "inputs": {"judges.oasis": "c" * 64}}
    write(place / "run.json", about)
    write(place / "result.json", {"metrics": {}, "nets": nets, "better": BETTER})
    return values


def test_gains_are_paired_by_seed_and_photo(
    folder: Path, evaluated: dict[tuple[str, str], dict[str, float]]
) -> None:
    runs = read_runs(["outputs"])
    trained = [run for run in runs if run.command == "train"]
    comparison = Comparison(trained, [trained], trained, folder / "figures", "", None)
    add_judges(comparison, evaluations_of(runs))
    (block,) = [block for block in comparison.blocks if block.title == "Judges"]
    assert comparison.blocks.index(block) == 1
    assert len(block.panels) == len(EFFECTS)
    assert "judge_ava does not count: shares backbone with the loss" in block.note
    assert "judge_oasis: a/oasis.safetensors (cccccccc)" in block.note
    assert block.table is not None
    names = [column.name for column in block.table.columns]
    rows = [dict(zip(names, row, strict=True)) for row in block.table.rows]
    assert [row["gamma"].text for row in rows] == ["0.1", "1"]
    for gamma, row in zip((0.1, 1.0), rows, strict=True):
        for measure in EFFECTS:
            pairs = np.array(
                [
                    [
                        evaluated[f"EDSR gamma={gamma:g} ({seed})", f"{k}.png"][measure]
                        - evaluated[f"EDSR gamma=0 ({seed})", f"{k}.png"][measure]
                        for k in sorted(map(str, range(PHOTOS)))
                    ]
                    for seed in SEEDS
                ]
            )
            heading = {"psnr": "PSNR", "features": "Features \N{DOWNWARDS ARROW}"}
            cell = row[heading.get(measure, measure)]
            assert float(cell.value) == pytest.approx(pairs.mean())
            low, _ = interval(pairs)
            digits = {"psnr": 3, "features": 5}.get(measure, 4)
            assert f"[{low:+.{digits}f}, " in cell.text
            assert cell.text.endswith("*") == (measure == "judge_ava")
    assert rows[1]["better than gamma 0"].text == "yes (2 of 2 judges)"
    assert rows[1]["seeds"].text == "3"


def test_the_report_has_the_judges_if_an_evaluation_is_among_its_runs(
    cli: Cli, folder: Path, evaluated: object
) -> None:
    assert cli("report", "runs=outputs", "output=with").code == 0
    page = (folder / "with/report.html").read_text()
    assert "gain in judge_oasis by gamma at x2" in page
    assert "gain in features, lower is better" in page
    assert (folder / "with/figures/judges.svg").exists()
    assert "better than gamma 0" in (folder / "with/report.md").read_text()
    assert cli("report", "runs=outputs/sweep", "output=without").code == 0
    assert "gain in judge_oasis" not in (folder / "without/report.html").read_text()
    assert cli("report", "runs=outputs", "output=after", "epoch=2").code == 0
    assert "gain in judge_oasis" not in (folder / "after/report.html").read_text()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("image,net\na,b\n", "per_image.csv is damaged (its first line is not that of a table)"),
        ("image,scale,net,psnr\na,2\n", "per_image.csv is damaged (line 2)"),
        ("image,scale,net,psnr\na,two,b,3\n", "per_image.csv is damaged (line 2)"),
        (None, "per_image.csv: No such file or directory"),
    ],
)
def test_a_damaged_evaluation_is_left_out_with_the_reason(
    folder: Path, evaluated: object, text: str | None, note: str
) -> None:
    place = folder / "outputs" / "evaluate" / "judged"
    (place / "per_image.csv").unlink()
    if text is not None:
        (place / "per_image.csv").write_text(text)
    run = read_run(place)
    assert evaluations_of([run]) == []
    assert (run.state, run.note) == ("broken", note)
