"""Tables of the jobs of a sweep: of the running ones on a terminal, and of all at the end."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runs.run_folder import read_json
from sweeps.job import OPEN, Job, JobState, in_state
from system.places import display_path
from system.progress import format_seconds
from system.terminal import (
    differing_part,
    format_table,
    shorten,
    table_width,
    terminal_width,
)


def live_table(jobs: Sequence[Job]) -> AbstractContextManager[object]:
    """Show a line for each running job while the context lasts; no effect without a terminal."""
    console = Console()
    if not console.is_terminal:
        return contextlib.nullcontext()
    return Live(
        console=console,
        get_renderable=lambda: running_table(jobs),
        refresh_per_second=2,
        transient=True,
    )


def running_table(jobs: Sequence[Job]) -> Table:
    """Make a table of the running jobs from the progress files in their folders."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    for job in in_state(jobs, JobState.RUNNING):
        progress = None
        with contextlib.suppress(ValueError):  # a damaged file
            progress = read_json(job.folder / "progress.json")
        name = shorten(job.name, terminal_width() // 2)
        elapsed = format_seconds(time.monotonic() - job.started)
        table.add_row(name, elapsed, progress_line(progress or {}))
    num_ended = len(jobs) - len(in_state(jobs, *OPEN))
    table.add_row(f"{num_ended} of {len(jobs)} jobs have ended")
    return table


def progress_line(progress: Mapping[str, Any]) -> str:
    """Format epoch, metric and time left."""
    if not {"epoch", "epochs", "left_s"} <= progress.keys():
        return "starting"
    line = f"epoch {progress['epoch']}/{progress['epochs']}"
    if progress.get("value") is not None:
        line += f"  {progress['monitor']} {progress['value']:.4g}"
    left = progress["left_s"]
    return line if left is None else f"{line}  {format_seconds(left)} left"


def summary(jobs: Sequence[Job], limit: int | None = None) -> str:
    """Return the table at the end of a sweep, and the reasons of failures.

    Args:
        jobs: all jobs of the sweep.
        limit: characters per line of the table; None means the terminal's.
    """
    limit = limit or terminal_width()
    done = (JobState.DONE, JobState.ALREADY_DONE)
    metrics = [job.metric() if job.state in done else None for job in jobs]
    names = {metric[0] for metric in metrics if metric}
    keys = list(dict.fromkeys(key for job in jobs for key in job.settings))
    columns = [setting_column(jobs, key) for key in keys] or [["job", *(job.name for job in jobs)]]
    columns.append(["state", *(job.state.value for job in jobs)])
    values = [f"{metric[1]:.4f}" if metric else "-" for metric in metrics]
    columns.append([names.pop() if len(names) == 1 else "metric", *values])
    columns.append(["time", *(format_seconds(job.seconds) if job.seconds else "-" for job in jobs)])
    folders = ["folder", *(job.folder.name for job in jobs)]
    lines = list(zip(*columns, folders, strict=True))
    if table_width(lines) > limit:
        lines = list(zip(*columns, strict=True))
    title = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    title += f" in {display_path(jobs[0].folder.parent)}"
    failures = [
        f"{job.name}: {job.note} ({display_path(job.console)})"
        for job in in_state(jobs, JobState.FAILED)
    ]
    return "\n".join([format_table(title, lines[0], lines[1:], limit), *failures])


def setting_column(jobs: Sequence[Job], key: str) -> list[str]:
    """Return a heading and each job's value of a setting; paths are reduced to what differs."""
    last = key.split(".")[-1]
    others = {other.split(".")[-1] for job in jobs for other in job.settings if other != key}
    values = [job.settings.get(key, "-").strip("'\"") for job in jobs]
    paths = [value for value in values if "/" in value]
    if len(set(paths)) > 1:
        values = [differing_part(value, paths) if value in paths else value for value in values]
    return [key if last in others else last, *values]
