"""Build tables of runs as cells for HTML and Markdown."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from reports.measures import added_measures, measure_of
from reports.run_table import Run, Spread, cell, differing, variant_keys
from system.places import display_path

SCORES = {"val/score": "score", "val/score_judge": "judge"}
DECIBELS = ("val/psnr", "val/psnr_y", "val/psnr_bicubic", "val/psnr_input")
HIDDEN = ("ssim", "psnr_y")  # image metrics that the page hides initially
# Settings with a separate column, and their copies.
OWN_COLUMNS = {"gamma", "scale", "net._target_", "net.scales", "net.scale", "data.scale"}


class Cell(NamedTuple):
    """Text of a cell, the value that the page sorts it by, and its tooltip."""

    text: str
    value: str
    numeric: bool = False
    title: str = ""


class Column(NamedTuple):
    """Heading of a column; the page hides `extra` columns initially."""

    name: str
    numeric: bool
    extra: bool


class Metric(NamedTuple):
    """A metric at a scale, with the heading of its column."""

    heading: str
    name: str
    scale: int | None = None


class Table(NamedTuple):
    """A table for the page."""

    title: str
    columns: list[Column]
    rows: list[list[Cell]]

    @classmethod
    def of(
        cls, title: str, names: Sequence[str], rows: list[list[Cell]], extra: Iterable[str] = ()
    ) -> Self:
        """Build a table without its empty columns.

        Args:
            title: its heading.
            names: headings of the columns.
            rows: the cells.
            extra: the columns that the page hides initially.
        """
        keep = [k for k in range(len(names)) if any(row[k].text not in ("", "-") for row in rows)]
        columns = [
            Column(names[k], any(row[k].numeric for row in rows), names[k] in extra) for k in keep
        ]
        return cls(title, columns, [[row[k] for k in keep] for row in rows])

    @property
    def markdown(self) -> str:
        """Return the table in Markdown, without the columns that the page hides initially."""
        kept = [k for k, column in enumerate(self.columns) if not column.extra]
        lines = [[self.columns[k].name for k in kept]]
        lines.append(["---:" if self.columns[k].numeric else "---" for k in kept])
        lines += [[row[k].text.replace("|", "\\|") for k in kept] for row in self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text_cell(text: str, title: str = "") -> Cell:
    """Return a cell that sorts as text."""
    return Cell(text, text.lower(), title=title)


def number_cell(
    value: float | None, form: str = "", *, text: str | None = None, none: str = "-"
) -> Cell:
    """Return a cell that sorts as a number; None comes last.

    Args:
        value: the number.
        form: format of its text.
        text: shown instead of the number.
        none: text of None.
    """
    if value is None:
        return Cell(none, "", numeric=True)
    return Cell(f"{value:{form}}" if text is None else text, repr(value), numeric=True)


def spread_cell(spread: Spread | None, digits: int, sign: str = "") -> Cell:
    """Return a cell with a mean and its spread over seeds."""
    if spread is None:
        return number_cell(None)
    text = f"{spread.mean:{sign}.{digits}f}"
    text += "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return number_cell(spread.mean, text=text)


def enhancer_columns(runs: Sequence[Run]) -> list[Metric]:
    """Return all metric columns of enhancers that have a value."""
    scales = sorted({scale for run in runs for scale in run.scales})
    names = {"val/psnr": "PSNR", "val/psnr_bicubic": "bicubic", "val/psnr_input": "input"}
    names |= SCORES
    names |= {m.name: m.title for m in (*added_measures(runs), *map(measure_of, HIDDEN))}
    return [
        Metric(f"{name} x{scale}", metric, scale)
        for metric, name in names.items()
        for scale in scales
        if any(scale in run.scales and run.value(metric, scale) is not None for run in runs)
    ]


def all_runs(title: str, runs: Sequence[Run], metrics: Sequence[Metric]) -> Table:
    """Build the table of all runs: state, differing settings, metrics and time."""
    readable = [run for run in runs if run.config]
    main = [key for key in variant_keys(readable) if key not in OWN_COLUMNS]
    extra = [key for key in differing(readable) if key not in (*main, *OWN_COLUMNS)]
    names = ["run", "state", "sweep", "net", "scale", "gamma", "seed", *main, *extra]
    names += [metric.heading for metric in metrics]
    names += ["best epoch", "time", "parameters", "device", "commit"]
    hidden = {m.heading for m in metrics if m.name.removeprefix("val/") in HIDDEN}
    rows = [[*first_cells(run, [*main, *extra]), *result_cells(run, metrics)] for run in runs]
    return Table.of(title, names, rows, {*extra, *hidden, "device", "commit"})


def first_cells(run: Run, keys: Sequence[str]) -> list[Cell]:
    """Return the cells that identify a run."""
    settings = run.settings
    scale = "-".join(f"x{scale}" for scale in run.scales)
    place = str(display_path(run.folder))
    state = run.state if not run.note else f"{run.state}: {run.note}"
    if run.result.warnings:
        state += f", {plural(len(run.result.warnings), 'warning')}"
    cells = [
        text_cell(run.folder.name if run.config else place, place),
        text_cell(state),
        text_cell(run.sweep or "-"),
        text_cell(run.net if run.config else ""),
        number_cell(run.scales[0] + 0.1 * len(run.scales), text=scale) if scale else text_cell(""),
        gamma_cell(run),
        number_cell(run.seed, none=""),
    ]
    for key in keys:
        value = settings.get(key)
        text = cell(value) if key in settings else ""
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        cells.append(Cell(text, repr(value), numeric=True) if plain else text_cell(text))
    return cells


def gamma_cell(run: Run) -> Cell:
    """Return the cell with a run's gamma; one that follows a share shows what it came to."""
    if not run.auto:
        return number_cell(run.gamma, "g", none="")
    found = run.result.metrics.get("train/weight/aesthetic")
    return number_cell(run.gamma, text="auto" if found is None else f"auto: {found:.3g}")


def result_cells(run: Run, metrics: Sequence[Metric]) -> list[Cell]:
    """Return the cells with a run's results."""
    cells = []
    for _, metric, scale in metrics:
        value = run.value(metric, scale) if scale is None or scale in run.scales else None
        digits = 3 if metric in SCORES else 2 if metric in DECIBELS else 4
        cells.append(number_cell(value, f".{digits}f"))
    result = run.result
    commit = result.git.commit[:8]
    return [
        *cells,
        number_cell(result.best_epoch, text=f"{result.best_epoch} of {result.epochs}"),
        number_cell(result.wall_time_s, text=duration(result.wall_time_s or 0)),
        number_cell(result.num_parameters, ","),
        text_cell(result.device),
        text_cell(f"{commit}, changed" if result.git.dirty else commit),
    ]


def duration(seconds: float) -> str:
    """Format a duration: `8 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
