"""Build tables of runs as cells for HTML and Markdown."""

from collections.abc import Sequence
from typing import Any

from reports.run_table import (
    Run,
    cell,
    differing,
    variant_keys,
)
from system.places import display_path

SCORES = {"val/score": "score", "val/score_judge": "judge"}
# Settings with a separate column, and their copies.
OWN_COLUMNS = {"gamma", "scale", "net._target_", "net.scales", "net.scale", "data.scale"}


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def text_cell(text: str, title: str = "") -> dict[str, Any]:
    """Return a cell that sorts as text."""
    return {"text": text, "value": text.lower(), "title": title, "numeric": False}


def number_cell(value: float | None, text: str) -> dict[str, Any]:
    """Return a cell that sorts as a number; None comes last."""
    return {"text": text, "value": "" if value is None else repr(value), "title": "", "numeric": 1}


def spread_cell(
    spread: tuple[float, float | None, int] | None, digits: int, sign: str = ""
) -> dict[str, Any]:
    """Return a cell with a mean and its spread over seeds."""
    if spread is None:
        return number_cell(None, "-")
    text = f"{spread[0]:{sign}.{digits}f}"
    text += "" if spread[1] is None else f" ± {spread[1]:.{digits}f}"
    return number_cell(spread[0], text)


def column(
    name: str, rows: Sequence[Sequence[dict[str, Any]]], k: int, *, extra: bool = False
) -> dict[str, Any]:
    """Return the heading of a column."""
    return {"name": name, "numeric": any(row[k]["numeric"] for row in rows), "extra": extra}


def markdown(table: dict[str, Any]) -> str:
    """Convert a table to Markdown, without the columns that the page hides initially."""
    kept = [k for k, column in enumerate(table["columns"]) if not column["extra"]]
    columns = [table["columns"][k] for k in kept]
    lines = [[str(column["name"]) for column in columns]]
    lines.append(["---:" if column["numeric"] else "---" for column in columns])
    lines += [[row[k]["text"].replace("|", "\\|") for k in kept] for row in table["rows"]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def enhancer_columns(runs: Sequence[Run]) -> list[tuple[str, str, int | None]]:
    """Return heading, metric and scale of all metric columns that have a value."""
    scales = sorted({scale for run in runs for scale in run.scales})
    names = {"val/psnr": "PSNR", "val/psnr_bicubic": "bicubic", "val/psnr_input": "input"}
    names |= {"val/score": "score", "val/score_judge": "judge"}
    names |= {"val/ssim": "SSIM", "val/psnr_y": "PSNR Y"}
    return [
        (f"{name} x{scale}", metric, scale)
        for metric, name in names.items()
        for scale in scales
        if any(scale in run.scales and run.value(metric, scale) is not None for run in runs)
    ]


def all_runs(
    title: str, runs: Sequence[Run], metrics: Sequence[tuple[str, str, int | None]]
) -> dict[str, Any]:
    """Build the table of all runs: state, differing settings, metrics and time."""
    readable = [run for run in runs if run.config]
    main = [key for key in variant_keys(readable) if key not in OWN_COLUMNS]
    extra = [key for key in differing(readable) if key not in (*main, *OWN_COLUMNS)]
    names = ["run", "state", "sweep", "net", "scale", "gamma", "seed", *main, *extra]
    names += [heading for heading, _, _ in metrics]
    names += ["best epoch", "time", "parameters", "device", "commit"]
    rows = [[*first_cells(run, [*main, *extra]), *result_cells(run, metrics)] for run in runs]
    hidden = {*extra, "device", "commit"}
    hidden |= {heading for heading, metric, _ in metrics if metric in ("val/ssim", "val/psnr_y")}
    keep = [
        k
        for k in range(len(names))
        if k < 2 or any(row[k]["text"] not in ("", "-") for row in rows)
    ]
    return {
        "title": title,
        "columns": [column(names[k], rows, k, extra=names[k] in hidden) for k in keep],
        "rows": [[row[k] for k in keep] for row in rows],
    }


def first_cells(run: Run, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the cells that identify a run."""
    settings = run.settings
    scale = "-".join(f"x{scale}" for scale in run.scales)
    place = str(display_path(run.folder))
    state = run.state if not run.note else f"{run.state}: {run.note}"
    warnings = run.result.get("warnings")
    if warnings:
        state += f", {plural(len(warnings), 'warning')}"
    cells = [
        text_cell(run.folder.name if run.config else place, place),
        text_cell(state),
        text_cell(run.sweep or "-"),
        text_cell(run.net if run.config else ""),
        number_cell(run.scales[0] + 0.1 * len(run.scales), scale) if scale else text_cell(""),
        number_cell(run.gamma, "" if run.gamma is None else f"{run.gamma:g}"),
        number_cell(run.seed, "" if run.seed is None else str(run.seed)),
    ]
    for key in keys:
        value = settings.get(key)
        text = cell(value) if key in settings else ""
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        cells.append(number_cell(value, text) if plain else text_cell(text))
    return cells


def result_cells(run: Run, metrics: Sequence[tuple[str, str, int | None]]) -> list[dict[str, Any]]:
    """Return the cells with a run's results."""
    cells = []
    for _, metric, scale in metrics:
        value = run.value(metric, scale) if scale is None or scale in run.scales else None
        digits = 2 if "psnr" in metric else 4 if metric not in SCORES else 3
        cells.append(number_cell(value, "-" if value is None else f"{value:.{digits}f}"))
    best, epochs = run.result.get("best_epoch"), run.result.get("epochs")
    seconds, size = run.result.get("wall_time_s"), run.result.get("num_parameters")
    git = run.result.get("git") or {}
    commit = str(git.get("commit") or "")[:8]
    return [
        *cells,
        number_cell(best, "-" if best is None else f"{best} of {epochs}"),
        number_cell(seconds, "-" if seconds is None else duration(seconds)),
        number_cell(size, "-" if size is None else f"{size:,}"),
        text_cell(str(run.result.get("device") or "")),
        text_cell(f"{commit}, changed" if git.get("dirty") else commit),
    ]


def duration(seconds: float) -> str:
    """Format a duration: `8 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
