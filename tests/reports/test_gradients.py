"""The table of the terms' gradients in a report."""

import csv
from pathlib import Path

import numpy as np
import pytest

from reports.gradients import gradient_table
from reports.run_reading import read_runs
from reports.run_table import settings_of
from tests.conftest import Cli
from tests.reports.conftest import MakeRun, read_rows, write_rows


def set_column(run: Path, name: str, values: list[float]) -> None:
    """Write values of a metric into the rows of the first epochs, and none into the others."""
    rows = read_rows(run)
    for row in rows:
        epoch = int(row["epoch"])
        row[name] = values[epoch] if row.get("val/psnr") and epoch < len(values) else ""
    write_rows(run, rows)


def test_each_term_has_its_share_and_alignments_over_seeds(
    tmp_path: Path, make_run: MakeRun, cli: Cli
) -> None:
    found = {0: [0.5, 0.2], 1: [0.4, 0.6]}  # nothing was measured in the third epoch
    for seed, values in found.items():
        run = make_run(tmp_path / "runs" / str(seed), gamma=0.1, seed=seed)
        set_column(run, "val/alignment/aesthetic", values)
        set_column(run, "val/grad_share/no word", values)
    table = gradient_table(settings_of(read_runs([str(tmp_path / "runs")]), 2))
    names = [column.name for column in table.columns]
    rows = [dict(zip(names, (cell.text for cell in row), strict=True)) for row in table.rows]
    assert [row["term"] for row in rows] == ["l2", "aesthetic"]
    assert rows[0]["alignment"] == rows[0]["alignment of 8 x 8 means"] == "1.0000 ± 0.0000"
    assert rows[1]["alignment"] == f"0.4000 ± {np.std([0.2, 0.6], ddof=1):.4f}"
    with open(tmp_path / "runs" / "0" / "metrics.csv", newline="") as file:
        measured = [row["val/grad_share/l2"] for row in csv.DictReader(file)]
    share = float([value for value in measured if value][-1])
    assert float(rows[0]["share of the gradient"].split()[0]) == pytest.approx(share, abs=1e-4)
    done = cli("report", f"runs={tmp_path / 'runs'}", "output=there")
    assert done.code == 0, done.err
    assert "Gradients of the terms" in Path("there/report.html").read_text()
