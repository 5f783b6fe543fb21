"""A job of a sweep and its state."""

import logging
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from runs.run_folder import read_json
from system.progress import format_seconds

log = logging.getLogger(__name__)


class JobState(StrEnum):
    """State of a job, as the table shows it."""

    WAITING = "waiting"
    QUEUED = "queued"  # by a cluster
    RUNNING = "running"
    DONE = "done"
    ALREADY_DONE = "already done"
    ELSEWHERE = "running elsewhere"  # started by another sweep or by hand
    FAILED = "failed"
    STOPPED = "stopped"


OPEN = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)


@dataclass
class Job:
    """One run of a sweep.

    Attributes:
        arguments: its command line, in single-run mode: the command and overrides.
        folder: run folder.
        name: the overrides in which it differs from the sweep's other jobs.
        settings: the same by key.
        num_gpus: GPUs needed on each machine; 0 runs on the CPU.
        num_nodes: machines needed.
        num_ranks: processes on each machine.
        state: where it stands.
        note: why it failed, or why the cluster lets it wait.
        started: when it started, in seconds of `time.monotonic`; 0 if it has not.
        seconds: how long it ran.
        deadline: when it is killed; None unless it has been interrupted.
        devices: devices of this machine that it occupies.
        process: its first rank, if that runs on this machine.
    """

    arguments: list[str]
    folder: Path
    name: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    num_gpus: int = 0
    num_nodes: int = 1
    num_ranks: int = 1
    state: JobState = JobState.WAITING
    note: str = ""
    started: float = 0.0
    seconds: float = 0.0
    deadline: float | None = None
    devices: list[str] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def console(self) -> Path:
        """File with the output of all ranks."""
        return self.folder / "console.log"

    def metric(self) -> tuple[str, float] | None:
        """Return name and value of the monitored metric of a finished training."""
        try:
            result = read_json(self.folder / "result.json") or {}
            name = result["monitor"]
            return str(name), float(result["metrics"][name])
        except (ValueError, KeyError, TypeError):  # another command, or a damaged file
            return None

    def start(self, where: str) -> None:
        """Mark the job as running."""
        self.state, self.started = JobState.RUNNING, time.monotonic()
        log.info("started   %s  (%s)", self.name, where)

    def end(self, code: int) -> None:
        """Mark the job as ended.

        Args:
            code: its exit code, below 0 for a signal.
        """
        if self.started:  # a cluster may cancel it in the queue
            self.seconds = time.monotonic() - self.started
        if code and self.deadline is None:
            self.fail(last_line(self.console, code))
            return
        self.state = JobState.STOPPED if code else JobState.DONE
        metric = None if code else self.metric()
        shown = f"  {metric[0]} {metric[1]:.4g}" if metric else ""
        log.info("%-9s %s  %s%s", self.state, self.name, format_seconds(self.seconds), shown)

    def fail(self, note: str) -> None:
        """Mark the job as failed, and print the reason."""
        self.state, self.note = JobState.FAILED, note
        log.info("%-9s %s  %s  %s", self.state, self.name, format_seconds(self.seconds), note)

    def leave(self) -> None:
        """Mark the job as running elsewhere."""
        self.state = JobState.ELSEWHERE
        log.info("%s: %s", self.state, self.name)


def in_state(jobs: Iterable[Job], *states: JobState) -> list[Job]:
    """Return the jobs in any of these states."""
    return [job for job in jobs if job.state in states]


def last_line(console: Path, code: int) -> str:
    """Return the last error that a job printed, or else its last line, with its exit code."""
    lines = [line for line in console.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    last = (errors or lines or [""])[-1]
    if code < 0:  # the signal came from outside, so the last line is not the reason
        return f"signal {-code}; its last line: {last}" if last else f"signal {-code}"
    return f"exit code {code}: {last}" if last else f"exit code {code}"
