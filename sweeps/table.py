"""Tables of the jobs of a sweep, while they run and at the end."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from runs.run_folder import read_json
from sweeps.job import OPEN, Job, State, failed
from system.places import display_path
from system.progress import format_seconds
from system.terminal import (
    differing_part,
    format_table,
    shorten,
    table_width,
    terminal_width,
)


def last_line(path: Path, code: int) -> str:
    """What a job said at its end, or how it ended."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors[-1] if errors else lines[-1] if lines else ""
    if code < 0:  # so what it said last is not why
        return f"signal {-code}; its last line: {said}" if said else f"signal {-code}"
    return f"exit code {code}: {said}" if said else f"exit code {code}"


@contextlib.contextmanager
def live_lines(jobs: Sequence[Job]) -> Iterator[Any]:
    """On a terminal, a line for each job that runs; what is returned draws them anew."""
    console = Console()
    if not console.is_terminal:
        yield lambda: None
        return
    drawn = 0.0
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def refresh() -> None:
            nonlocal drawn
            if time.monotonic() - drawn > 0.5:
                drawn = time.monotonic()
                live.update(running_table(jobs), refresh=True)

        yield refresh


def running_table(jobs: Sequence[Job]) -> Table:
    """How far each running job is, from the file that trainings leave in their folder."""
    lines = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        lines.add_column(no_wrap=True)
    for job in jobs:
        if job.state is State.RUNNING:
            at: dict[str, Any] = {}
            with contextlib.suppress(ValueError):  # not of our making
                at = read_json(job.folder / "progress.json") or {}
            name = shorten(job.name, terminal_width() // 2)
            lines.add_row(name, format_seconds(time.monotonic() - job.began), progress_line(at))
    ended = sum(job.state not in OPEN for job in jobs)
    lines.add_row(f"{ended} of {len(jobs)} jobs have ended")
    return lines


def progress_line(at: Mapping[str, Any]) -> str:
    """Epoch, metric and the time that is left."""
    if not {"epoch", "epochs", "left_s"} <= at.keys():
        return "starting"
    line = f"epoch {at['epoch']}/{at['epochs']}"
    if at.get("value") is not None:
        line += f"  {at['monitor']} {at['value']:.4g}"
    return line + (f"  {format_seconds(at['left_s'])} left" if at["left_s"] is not None else "")


def summary(jobs: Sequence[Job], limit: int | None = None) -> str:
    """The table at the end of a sweep, and why jobs failed.

    Args:
        jobs: of the sweep.
        limit: characters in a line of the table; the terminal's if None.
    """
    limit = limit or terminal_width()
    metrics = [job.metric() if job.state in (State.DONE, State.FOUND) else None for job in jobs]
    names = {metric[0] for metric in metrics if metric}
    keys = list(dict.fromkeys(key for job in jobs for key in job.differs))
    columns = [setting_column(jobs, key) for key in keys] or [["job", *(job.name for job in jobs)]]
    columns.append(["state", *(job.state.value for job in jobs)])
    values = [f"{metric[1]:.4f}" if metric else "-" for metric in metrics]
    columns.append([names.pop() if len(names) == 1 else "metric", *values])
    ran = (State.DONE, State.FAILED, State.STOPPED)
    times = [
        format_seconds(job.seconds) if job.state in ran and job.seconds else "-" for job in jobs
    ]
    columns.append(["time", *times])
    folders = ["folder", *(job.folder.name for job in jobs)]
    lines = list(zip(*columns, folders, strict=True))
    if table_width(lines) > limit:
        lines = list(zip(*columns, strict=True))
    title = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    title += f" in {display_path(jobs[0].folder.parent)}"
    failures = [
        f"{job.name}: {job.note} ({display_path(job.folder)}/console.log)" for job in failed(jobs)
    ]
    return "\n".join([format_table(title, lines[0], lines[1:], limit), *failures])


def setting_column(jobs: Sequence[Job], key: str) -> list[str]:
    """A heading and each job's value of a setting, of paths what tells them apart."""
    last = key.split(".")[-1]
    others = {other.split(".")[-1] for job in jobs for other in job.differs if other != key}
    values = [job.differs.get(key, "-").strip("'\"") for job in jobs]
    paths = [value for value in values if "/" in value]
    if len(set(paths)) > 1:
        values = [differing_part(value, paths) if value in paths else value for value in values]
    return [key if last in others else last, *values]
