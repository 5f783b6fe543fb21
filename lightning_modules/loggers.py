"""The logger that every run has: metrics.csv in the run folder."""

import csv
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from system.files import replacing, writing

Row = Mapping[str, str | float | None]


class RunCSV(Logger):
    """Write metrics.csv: one row per logging, columns `epoch`, `step` and the metrics.

    Lightning's own CSVLogger deletes the file when a run is resumed. This one keeps the rows before
    the step that is resumed from, so that an interrupted run ends with the rows of an uninterrupted
    one. Every row is on disk when `log_metrics` returns.

    Args:
        folder: the run folder.
        first_step: rows of this optimizer step and later ones are dropped: they will be logged
            again.
    """

    def __init__(self, folder: str | Path, first_step: int = 0) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns = ["epoch", "step"]
        self.rows: list[Row] = []
        self.stale = True  # the file may contain dropped rows, or another run's
        if first_step:
            self.columns, self.rows = read_rows(self.path, first_step)

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """There is one version per run folder."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Log nothing: the run folder already holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a row."""
        row = {"step": step, **metrics}
        if "epoch" in metrics:
            row["epoch"] = int(metrics["epoch"])
        new = [name for name in row if name not in self.columns]
        self.columns += new
        self.rows.append(row)
        if new or self.stale:
            self.rewrite()
            return
        with writing(self.path), open(self.path, "a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def rewrite(self) -> None:
        """Write the whole file, to a temporary name first."""
        with replacing(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        self.stale = False


def read_rows(path: Path, before: int) -> tuple[list[str], list[Row]]:
    """Read the columns of metrics.csv and its rows of optimizer steps before this one.

    An incomplete last line, which was being written when the run was killed, is ignored.

    Raises:
        ValueError: if the file is damaged.
    """
    if not path.exists():
        return ["epoch", "step"], []
    damage = f"{path}: is damaged%s; delete it to resume without the earlier rows"
    try:
        lines = path.read_bytes().decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(damage % "") from error
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    reader = csv.DictReader(lines)
    rows: list[Row] = []
    try:
        columns = list(reader.fieldnames or [])
        for row in reader:
            for value in row.values():
                if value != "":
                    float(value)
            if int(row["step"]) < before:
                rows.append(row)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(damage % f" in line {reader.line_num}") from error
    if not {"epoch", "step"} <= set(columns):
        raise ValueError(damage % " in line 1")
    return columns, rows
