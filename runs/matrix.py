"""Measure scorers on tables of ratings that they were and were not trained on: a matrix.

A row is a scorer, a column a table. Each scorer sees the photos by its own view, and predicts over
its own K buckets. Mean scores are compared, which the mapping of a table to K buckets keeps:
correlations depend on no linear mapping, and `rmse` is converted to the table's own scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.utils import instantiate
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from datamodules.rated import RatedDataModule
from datamodules.tables import RatedTables
from lightning_modules.metrics import fitted_lcc, rating_metrics
from lightning_modules.pictures import save_figure
from lightning_modules.record import Record
from networks.nima import NIMA, mean_score
from runs.evaluation import predict
from runs.measuring import Measurement, write_csv
from system.files import writing
from system.terminal import format_table

METRICS = {"srcc": "SRCC", "krcc": "KRCC", "lcc": "PLCC", "lcc_fit": "PLCC, fitted", "rmse": "RMSE"}


class Scorer(NamedTuple):
    """A scorer of the matrix, with the configuration of the data as it sees them."""

    net: NIMA
    record: Record
    config: DictConfig


class Cell(NamedTuple):
    """Metrics of a scorer on the validation photos of a table."""

    scorer: str
    table: str
    photos: int
    values: dict[str, float]


def evaluate_matrix(
    scorers: Mapping[str, Scorer], remarks: Sequence[str], folder: Path, device: torch.device
) -> Measurement:
    """Measure every scorer on every table; write matrix.csv, matrix.md and matrix.png.

    Args:
        scorers: by the name that they get in the tables.
        remarks: lines for the note.
        folder: for the files.
        device: where to compute.
    """
    cells: list[Cell] = []
    for name, scorer in scorers.items():
        data: RatedDataModule = instantiate(scorer.config.data, _convert_="all")
        data.setup("validate")
        p_NK, q_NK = predict(scorer.net, data, device)
        cells += cells_of(name, p_NK, q_NK, lengths(data), table_scales(data))
    lines = [
        {"scorer": cell.scorer, "trained_on": scorers[cell.scorer].record.data}
        | {"table": cell.table, "photos": cell.photos, **cell.values}
        for cell in cells
    ]
    write_csv(folder / "matrix.csv", list(lines[0]), lines)
    text, markdown = as_text(cells), as_markdown(cells, scorers)
    with writing(folder / "matrix.md"):
        (folder / "matrix.md").write_text(markdown)
    save_figure(heat_maps(cells), folder / "matrix.png")
    metrics = {f"{k}/{c.scorer}/{c.table}": v for c in cells for k, v in c.values.items()}
    note = "\n".join(remarks)
    text += "".join(f"{line}\n" for line in ("RMSE is in units of each table's scale.", *remarks))
    return Measurement(text, metrics, ["matrix.csv", "matrix.md", "matrix.png"], note)


def check_scales(scorers: Mapping[str, Scorer]) -> None:
    """Raise unless the ratings of each table mean the same to all scorers.

    Raises:
        ValueError: if scorers differ in K and a table does not say its scale.
    """
    num_buckets = sorted({scorer.net.num_buckets for scorer in scorers.values()})
    for scorer in scorers.values():
        scales = table_scales(instantiate(scorer.config.data, _convert_="all"))
        unclear = [table for table, scale in scales.items() if scale is None]
        if unclear and len(num_buckets) > 1:
            raise ValueError(
                f"data: the scorers have {' and '.join(map(str, num_buckets))} buckets, so "
                f"{', '.join(unclear)} needs its scale, the lowest and highest rating: scale: [1,7]"
            )


def lengths(data: RatedDataModule) -> dict[str, int]:
    """Return the numbers of validation photos by table; a single table is called `ratings`."""
    tables = data.val.tables or {"ratings": data.val}
    return {name: len(photos) for name, photos in tables.items()}


def table_scales(data: RatedDataModule) -> dict[str, tuple[float, float] | None]:
    """Return the lowest and highest rating of each table; None for 1 to K."""
    modules = data.modules if isinstance(data, RatedTables) else {"ratings": data}
    return {name: module.scale for name, module in modules.items()}


def cells_of(
    scorer: str,
    p_NK: Tensor,
    q_NK: Tensor,
    lengths: Mapping[str, int],
    scales: Mapping[str, tuple[float, float] | None],
) -> list[Cell]:
    """Compute the metrics of a scorer on each table, whose photos follow one another."""
    num_buckets = p_NK.shape[1]
    cells, start = [], 0
    for table, length in lengths.items():
        p, q = (rows_NK[start : start + length] for rows_NK in (p_NK, q_NK))
        start += length
        found = {name: value.item() for name, value in rating_metrics(p, q).items()}
        found["lcc_fit"] = fitted_lcc(mean_score(p), mean_score(q))
        low, high = scales[table] or (1, num_buckets)
        found["rmse"] *= (high - low) / (num_buckets - 1)
        cells.append(Cell(scorer, table, length, {name: found[name] for name in METRICS}))
    return cells


def as_text(cells: Sequence[Cell]) -> str:
    """Format one row for each scorer and table."""
    rows = [[c.scorer, c.table, str(c.photos), *map(digits, c.values.values())] for c in cells]
    columns = ["scorer", "measured on", "photos", *METRICS.values()]
    return f"{format_table('scorers by tables', columns, rows)}\n"


def as_markdown(cells: Sequence[Cell], scorers: Mapping[str, Scorer]) -> str:
    """Format one table for each metric: scorers by tables of ratings."""
    tables = {cell.table: cell.photos for cell in cells}
    parts = []
    for metric, title in METRICS.items():
        found = {(cell.scorer, cell.table): cell.values[metric] for cell in cells}
        heads = [f"{table} ({num} photos)" for table, num in tables.items()]
        lines = [["scorer", "trained on", *heads], ["---", "---", *["---:"] * len(heads)]]
        for name, scorer in scorers.items():
            values = [digits(found[name, table]) for table in tables]
            lines.append([name, scorer.record.data.replace("|", "/"), *values])
        parts.append("\n".join([f"## {title}", "", *(f"| {' | '.join(row)} |" for row in lines)]))
    return "\n\n".join(parts) + "\n"


def heat_maps(cells: Sequence[Cell]) -> Figure:
    """Draw SRCC, KRCC, PLCC and RMSE as maps of scorers by tables, with the numbers in them."""
    names, tables = (list(dict.fromkeys(values)) for values in list(zip(*cells, strict=True))[:2])
    shown = [metric for metric in METRICS if metric != "lcc_fit"]
    size = (4 + 2.2 * len(tables), 2 * (1.2 + 0.5 * len(names)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    for axes, metric in zip(figure.subplots(2, 2).flat, shown, strict=True):
        found = {(cell.scorer, cell.table): cell.values[metric] for cell in cells}
        values = [[found[name, table] for table in tables] for name in names]
        # RMSE is in units of each table: its colours compare scorers on one table.
        columns = list(zip(*values, strict=True))
        colours = values
        if metric == "rmse":
            colours = [[v / max(c) for v, c in zip(row, columns, strict=True)] for row in values]
        palette, low = ("Blues_r", 0) if metric == "rmse" else ("RdBu", -1)
        axes.imshow(colours, cmap=palette, vmin=low, vmax=1, aspect="auto")
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                dark = abs(colours[y][x]) > 0.6 if metric != "rmse" else colours[y][x] < 0.5
                colour = "white" if dark else "black"
                axes.text(x, y, digits(value), ha="center", va="center", color=colour)
        axes.set_xticks(range(len(tables)), tables)
        axes.set_yticks(range(len(names)), names)
        axes.set_title(METRICS[metric] + (", units of the table" if metric == "rmse" else ""))
    return figure


def digits(value: float) -> str:
    """Format a value with three decimals, or as a dash if there is none."""
    return "-" if value != value else f"{value:.3f}"
