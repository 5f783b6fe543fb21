"""The queue of jobs, done one after the other in one thread; each can be stopped."""

import datetime
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

import torch

from lightning_modules.record import Record
from lightning_modules.tasks import TASKS
from networks.nima import NIMA
from system.device import release_memory
from web.enhancers import Enhancer, Task
from web.jobs import Job, Limits, Stopped, Upload
from web.processing import Processor
from web.schema import JobResult, ScorerFacts, State
from web.speeds import Speeds
from web.store import FullError, Store

log = logging.getLogger(__name__)


class Worker:
    """Do one job at a time in a separate thread, so that memory is bounded."""

    def __init__(
        self,
        store: Store,
        enhancers: Sequence[Enhancer],
        scorer: NIMA,
        scorer_record: Record,
        *,
        device: torch.device,
        tile: int,
        limits: Limits,
    ) -> None:
        self.store = store
        self.enhancers = {enhancer.id: enhancer for enhancer in enhancers}
        self.scorer_facts = ScorerFacts(
            name=scorer_record.backbone, trained_on=scorer_record.data, buckets=scorer.num_buckets
        )
        self.device = device
        self.limits = limits
        self.waiting: deque[Job] = deque()
        self.current: Job | None = None
        self.changed = threading.Condition()
        self.processor = Processor(store, scorer, device=device, tile=tile, busy=self.busy)
        self.ending = False
        self.thread = threading.Thread(target=self.run, name="worker", daemon=True)

    @property
    def speeds(self) -> Speeds:
        """Return the measured speeds of the enhancers."""
        return self.processor.speeds

    @property
    def device_name(self) -> str:
        """Return the name of the device for users."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return self.device.type.upper()

    def tasks(self) -> dict[Task, list[Enhancer]]:
        """Return the possible tasks with the enhancers for each, super-resolution first."""
        found: dict[Task, list[Enhancer]] = {}
        for enhancer in self.enhancers.values():
            for task in enhancer.tasks:
                found.setdefault(task, []).append(enhancer)
        return {
            task: found[task] for task in sorted(found, key=lambda t: (TASKS.index(t[0]), t[1]))
        }

    def submit(self, uploads: Sequence[Upload], task: Task | None, ids: Sequence[str]) -> Job:
        """Append a job to the queue, which takes ownership of the uploads; task None means scoring.

        Raises:
            ValueError: if the request is invalid, with a sentence for users.
            FullError: if the queue is full.
        """
        enhancers = self.select(task, ids)
        if not uploads:
            raise ValueError("Give at least one photo.")
        if len(uploads) > self.limits.photos:
            raise ValueError(f"{len(uploads)} photos; the limit is {self.limits.photos} at a time.")
        with self.changed:
            if len(self.waiting) >= self.limits.waiting:
                raise FullError("The queue is full; please try again later.")
            folder = self.store.create()
            now = datetime.datetime.now(datetime.UTC)  # with fractions: ages must not tie
            result = JobResult(
                token=folder.name,
                created=now,
                expires=now + datetime.timedelta(seconds=self.store.keep_seconds),
                task=task.name if task else None,
                scale=task.scale if task else 1,
                label=task.label if task else "Score",
                device=self.device_name,
                scorer=self.scorer_facts,
            )
            job = Job(folder, list(uploads), task, enhancers, result)
            job.save()
            self.waiting.append(job)
            self.changed.notify_all()
        return job

    def select(self, task: Task | None, ids: Sequence[str]) -> list[Enhancer]:
        """Return the enhancers that a request names."""
        if task is None:
            return []
        available = self.tasks().get(task)
        if available is None:
            known = ", ".join(f"{name} {scale}" for name, scale in self.tasks())
            raise ValueError(f"{task.name} {task.scale} is not available; choose from: {known}.")
        allowed = [enhancer.id for enhancer in available]
        unknown = [name for name in ids if name not in allowed]
        if unknown or not ids:
            what = f"No such model: {unknown[0][:80]}" if unknown else "No model was chosen"
            raise ValueError(f"{what}; available for this task: {', '.join(allowed)}.")
        return [enhancer for enhancer in available if enhancer.id in ids]

    def state(self, token: str) -> JobResult | None:
        """Return a job's result, including the current progress of unfinished jobs."""
        with self.changed:
            for place, job in enumerate(self.unfinished()):
                if job.token == token and job is self.current:
                    return job.result
                if job.token == token:
                    return job.result.model_copy(update={"waiting": place})
        folder = self.store.find(token)
        return self.store.result(folder) if folder else None

    def unfinished(self) -> list[Job]:
        """Return the current job and those that wait, in order; needs the lock."""
        return [*([self.current] if self.current else []), *self.waiting]

    def stop_job(self, token: str, *, delete: bool = False) -> bool:
        """Cancel a job and optionally delete its results; return False if there is no such job."""
        with self.changed:
            for job in self.unfinished():
                if job.token == token:
                    job.deleted |= delete
                    job.stop.set()
                    if job in self.waiting:
                        self.waiting.remove(job)
                        self.close(job, "cancelled")
                    return True
        folder = self.store.find(token)
        if folder and delete:
            self.store.remove_job(folder)
        return folder is not None

    def busy(self) -> set[str]:
        """Return the tokens and uploads of unfinished jobs."""
        with self.changed:
            jobs = self.unfinished()
        return {name for job in jobs for name in (job.token, *(u.path.name for u in job.uploads))}

    def num_unfinished(self) -> int:
        """Return the number of jobs ahead of a new one."""
        with self.changed:
            return len(self.unfinished())

    def end(self) -> None:
        """Stop after the current tile and interrupt unfinished jobs."""
        with self.changed:
            self.ending = True
            for job in self.unfinished():
                job.stop.set()
            self.changed.notify_all()
        self.thread.join(timeout=30)

    def run(self) -> None:
        """Measure the enhancers' speed, then do jobs until `end` is called."""
        try:
            self.speeds.measure(list(self.enhancers.values()), self.device, lambda: self.ending)
        except Exception:  # the page works without estimates
            log.exception("could not measure the speed of the models")
        while True:
            with self.changed:
                while not self.waiting and not self.ending:
                    self.changed.wait()
                if self.ending:
                    while self.waiting:
                        self.close(self.waiting.popleft(), "interrupted")
                    return
                job = self.current = self.waiting.popleft()
                job.update(state="working")
            began = time.monotonic()
            state, error = self.attempt(job)
            with self.changed:
                try:
                    self.close(job, state, error)
                except OSError:  # the next job must still run
                    log.exception("could not write the result of a job")
                finally:
                    self.current = None
            release_memory()
            took = time.monotonic() - began
            num = len(job.uploads)
            log.info("%s: %d photo%s, %.1f s", state, num, "" if num == 1 else "s", took)

    def attempt(self, job: Job) -> tuple[State, str | None]:
        """Do a job; return its final state and, if it failed, the reason."""
        try:
            self.processor.process(job)
        except Stopped:
            return ("interrupted" if self.ending else "cancelled"), None
        except FullError as error:  # keeping its pictures would displace others' results
            for pattern in ("*.png", "*.webp"):
                for path in job.folder.glob(pattern):
                    path.unlink()
            job.update(photos=[])
            return "failed", str(error)
        except Exception as error:  # the next job must still run
            if isinstance(error, OSError) and error.strerror:
                return "failed", f"The server could not continue: {error.strerror}."
            log.exception("a job failed")
            memory = isinstance(error, MemoryError) or "memory" in str(error)
            what = "not enough memory for this photo" if memory else "an internal error"
            return "failed", f"The server could not continue: {what}."
        return "done", None

    def close(self, job: Job, state: State, error: str | None = None) -> None:
        """Write the final state of a job and delete its uploads."""
        for upload in job.uploads:
            upload.path.unlink(missing_ok=True)
        job.update(state=state, error=error, now="", seconds_left=None)
        if state == "done":
            job.update(progress=1.0)
        if job.deleted:
            self.store.remove_job(job.folder)
        else:
            job.save()
