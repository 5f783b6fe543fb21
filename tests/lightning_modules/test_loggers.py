import csv
from pathlib import Path

from lightning_modules.loggers import RunCSV


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_on_disk_at_once_and_columns_may_come_later(tmp_path: Path) -> None:
    logger = RunCSV(tmp_path)
    logger.log_metrics({"epoch": 0, "a": 1.0}, step=0)
    assert read(tmp_path) == [{"epoch": "0", "step": "0", "a": "1.0"}]
    logger.log_metrics({"epoch": 0, "b": 2.0}, step=1)
    logger.log_metrics({"epoch": 0, "a": 3.0}, step=2)
    assert [row["b"] for row in read(tmp_path)] == ["", "2.0", ""]


def test_resuming_drops_the_rows_that_will_come_again(tmp_path: Path) -> None:
    logger = RunCSV(tmp_path)
    for step in range(6):
        logger.log_metrics({"epoch": 0, "a": float(step)}, step=step)
    resumed = RunCSV(tmp_path, first_step=4)
    resumed.log_metrics({"epoch": 1, "a": 40.0}, step=4)
    assert [row["a"] for row in read(tmp_path)] == ["0.0", "1.0", "2.0", "3.0", "40.0"]


def test_a_new_run_replaces_the_file(tmp_path: Path) -> None:
    RunCSV(tmp_path).log_metrics({"epoch": 0, "a": 1.0}, step=0)
    RunCSV(tmp_path).log_metrics({"epoch": 0, "c": 1.0}, step=0)
    assert read(tmp_path) == [{"epoch": "0", "step": "0", "c": "1.0"}]
