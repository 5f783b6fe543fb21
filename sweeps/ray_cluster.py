"""Sweeps on a Ray cluster: each job a fresh process inside a Ray worker.

The code and the working directory have to be at the same place on all machines, as on a shared
file system.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from omegaconf import DictConfig
from ray.exceptions import RayError, TaskCancelledError

from sweeps.job import Job, State
from sweeps.jobs import GRACE, Pool, Runner, begin, fail, settle
from sweeps.pool import explicit_devices, one_machine
from system.places import ROOT

log = logging.getLogger(__name__)


class RayCluster(Runner):
    """A Ray cluster, or a local Ray that is started for the sweep.

    Args:
        address: of the cluster, `auto` for the one that this machine belongs to; None starts Ray
            here.
        threads: CPU cores that each rank of a job reserves, and its threads.
        stop_at_failure: whether jobs that wait are given up when one fails.
    """

    pause = 0.5

    def __init__(self, *, address: str | None, threads: int, stop_at_failure: bool) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.address, self.threads = address, threads

    def fit(self, job: Job, config: DictConfig) -> None:
        """Notes how many GPUs a job needs; 0 if it runs on the CPU."""
        job.devices = explicit_devices(config)
        one_machine(config)
        job.ranks = config.trainer.devices if "trainer" in config else 1

    @contextlib.contextmanager
    def opened(self, jobs: Sequence[Job]) -> Iterator[None]:
        """The connection to Ray."""
        if all(job.state is not State.WAITING for job in jobs):
            yield
            return
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        try:
            ray.init(
                address=self.address,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                include_dashboard=None if self.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RayError) as error:
            raise ValueError(f"hydra.launcher.address={self.address}: {error}") from error
        self.tasks: dict[Path, Any] = {}
        nodes: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
        largest = max(int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"])
        needed = max(job.devices for job in jobs)
        if needed > largest and self.address is None:
            raise ValueError(f"trainer.devices={needed}: this machine has {largest} GPUs")
        if needed > largest:  # the cluster may grow
            log.info("jobs of %d GPUs wait for a machine: the largest has %d", needed, largest)
        try:
            yield
        finally:
            ray.shutdown()  # ends its workers, and they their jobs

    def start(self, job: Job) -> None:
        """Hands a job to Ray, which starts it as soon as there is room."""
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "console.log").unlink(missing_ok=True)  # says that the job has begun
        cores = self.threads * job.ranks
        task = work.options(num_cpus=cores, num_gpus=job.devices, name=job.name)
        self.tasks[job.folder] = task.remote(
            job.words, str(job.folder), job.name, self.threads, os.getcwd()
        )
        job.state = State.QUEUED

    def watch(self, jobs: Sequence[Job]) -> None:
        """Sees which jobs have begun and which have ended."""
        for job in jobs:
            if job.state is State.QUEUED and (job.folder / "console.log").exists():
                begin(job, "Ray")
            if job.state not in (State.QUEUED, State.RUNNING):
                continue
            task = self.tasks[job.folder]
            if not ray.wait([task], timeout=0)[0]:
                continue
            try:
                settle(job, ray.get(task), asked=job.deadline is not None)
            except TaskCancelledError:
                job.state = State.STOPPED
            except RayError as error:
                fail(job, str(error).strip().splitlines()[-1])

    def stop(self, jobs: Sequence[Job], *, impatient: bool) -> None:
        """Interrupts what runs, and takes back what is queued."""
        for job in jobs:
            if job.state not in (State.QUEUED, State.RUNNING):
                continue
            if job.deadline is None:
                job.deadline = time.monotonic() + GRACE + 5  # the worker kills after GRACE
                ray.cancel(self.tasks[job.folder])
            if impatient or time.monotonic() > job.deadline:
                ray.cancel(self.tasks[job.folder], force=True)

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Does not start what waits."""
        super().give_up(jobs)
        for job in jobs:
            if job.state is State.QUEUED and job.deadline is None:
                job.deadline = time.monotonic() + GRACE
                ray.cancel(self.tasks[job.folder])


@ray.remote(max_retries=0)
def work(words: list[str], folder: str, name: str, threads: int, cwd: str) -> int:
    """Runs one job in a Ray worker and returns its exit code.

    `ray.cancel` arrives as SIGINT, which the pool hands on; when the worker is killed the job ends
    with it.
    """
    os.chdir(cwd)
    gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
    job = Job(words, Path(folder), name=name, devices=max(1, len(gpus)))
    Pool(gpus or ["cpu"], on_gpu=bool(gpus), threads=threads).run([job])
    assert job.process is not None
    return int(job.process.returncode)
