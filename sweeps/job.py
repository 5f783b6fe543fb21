"""A job of a sweep and its state."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from runs.run_folder import read_json


class State(StrEnum):
    """How a job stands."""

    WAITING = "waiting"
    QUEUED = "queued"  # by a cluster
    RUNNING = "running"
    DONE = "done"
    FOUND = "found finished"
    FAILED = "failed"
    STOPPED = "stopped"


OPEN = (State.WAITING, State.QUEUED, State.RUNNING)


@dataclass
class Job:
    """One run of a sweep.

    Attributes:
        words: the command line behind `run.py`, in single-run mode.
        folder: its run folder.
        name: what people call it.
        differs: the settings by which it differs from the sweep's other jobs.
        devices: how many devices it needs, on each machine.
        nodes: machines that it needs.
        ranks: processes on each, where a cluster starts them.
        state: how it stands.
        note: what a table says of it beside its state.
    """

    words: list[str]
    folder: Path
    name: str = ""
    differs: dict[str, str] = field(default_factory=dict)
    devices: int = 1
    nodes: int = 1
    ranks: int = 1
    state: State = State.WAITING
    note: str = ""
    began: float = 0.0
    seconds: float = 0.0
    deadline: float | None = None  # when it is killed, once it has been asked to stop
    taken: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def metric(self) -> tuple[str, float] | None:
        """Name and value of what a finished training is judged by."""
        try:
            result = read_json(self.folder / "result.json") or {}
            name = result["monitor"]
            return str(name), float(result["metrics"][name])
        except (ValueError, KeyError, TypeError):  # of commands without, or not of our making
            return None


def pending(jobs: Sequence[Job]) -> bool:
    """Whether there is anything left to wait for."""
    return any(job.state in OPEN for job in jobs)


def failed(jobs: Sequence[Job]) -> list[Job]:
    """Those that ended with an error."""
    return [job for job in jobs if job.state is State.FAILED]
