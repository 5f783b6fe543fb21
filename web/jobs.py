"""Jobs: photos to enhance or score, the limits on them, and estimates of their progress."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from system.json_files import write_json
from web.enhancers import Enhancer, Task
from web.schema import JobResult
from web.speeds import Speeds


class Stopped(Exception):
    """Raised inside a job that was cancelled or interrupted."""


class Upload(NamedTuple):
    """A photo sent by a client: its file here, its name there, and its size."""

    path: Path
    name: str
    width: int
    height: int

    @property
    def megapixels(self) -> float:
        """Return the photo's size in millions of pixels."""
        return self.width * self.height / 1e6


@dataclass(eq=False)
class Job:
    """Photos to enhance or score.

    Attributes:
        folder: where the results are written; its name is the token.
        uploads: the photos.
        task: None if they are only to be scored.
        enhancers: the networks to apply.
        result: the content of result.json.
        stop: set to cancel or interrupt the job.
        deleted: whether its results are to be deleted as well.
    """

    folder: Path
    uploads: list[Upload]
    task: Task | None
    enhancers: list[Enhancer]
    result: JobResult
    stop: threading.Event = field(default_factory=threading.Event)
    deleted: bool = False

    @property
    def token(self) -> str:
        """Return the secret part of the address of the results."""
        return self.folder.name

    def update(self, **facts: object) -> None:
        """Change keys of the result; other threads see the old one or the new one."""
        self.result = self.result.model_copy(update=facts)

    def save(self) -> None:
        """Write result.json."""
        write_json(self.folder / "result.json", self.result.model_dump(mode="json"))

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` if the job was cancelled or interrupted."""
        if self.stop.is_set():
            raise Stopped


@dataclass(frozen=True)
class Limits:
    """Limits on a job, and on the number of waiting jobs."""

    photos: int
    bytes: int
    megapixels: float
    waiting: int


class Progress:
    """Progress of a job, estimated from the expected time of each network on each photo."""

    def __init__(self, job: Job, speeds: Speeds) -> None:
        self.steps: list[float] = []  # expected seconds of each network on each photo
        self.ends: list[int] = []  # number of steps up to the end of each photo
        num_networks = sum(enhancer.num_networks for enhancer in job.enhancers)
        for upload in job.uploads:
            size = upload.height, upload.width
            for enhancer in job.enhancers:
                assert job.task is not None
                network = (speeds.get(enhancer, job.task, size) or 0.0) / enhancer.num_networks
                rest = speeds.rest(job.task, size, num_networks) / num_networks
                self.steps += [network + rest] * enhancer.num_networks
            self.ends.append(len(self.steps))
        self.done = 0
        self.began = time.monotonic()

    def estimate(self, share: float) -> tuple[float, float]:
        """Return the fraction done and the seconds left, given the share of the current step."""
        total = sum(self.steps)
        done = sum(self.steps[: self.done]) + share * self.steps[self.done]
        took = time.monotonic() - self.began
        progress = min(0.99, done / total)
        left = took * (1 - progress) / progress if took > 2 and progress > 0.05 else total - done
        return round(progress, 3), round(left, 1)


def photo_problem(error: Exception, path: Path) -> str:
    """Return a sentence about what is wrong with a photo, without the name of its file here."""
    text = str(error) if isinstance(error, ValueError) else ""
    if path.name in text.removeprefix(f"{path}: ") or not text:  # not written for users
        text = f"cannot be read as an image ({type(error).__name__})"
    text = text.removeprefix(f"{path}: ").partition("\n")[0]
    return f"{text[:1].upper()}{text[1:]}."
