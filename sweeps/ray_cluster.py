"""Run the jobs of a sweep on a Ray cluster, each as a fresh process inside a Ray worker.

Code and working directory must have the same paths on all machines, as on a shared file system.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import ray
from omegaconf import DictConfig
from ray.exceptions import RayError, TaskCancelledError

from sweeps.executor import GRACE, Executor, check_single_node, gpus_per_node
from sweeps.job import Job, JobState, in_state
from sweeps.pool import PoolExecutor, is_running
from system.places import ROOT

log = logging.getLogger(__name__)


class RayExecutor(Executor):
    """Runs jobs on a Ray cluster, or on a local Ray started for the sweep.

    Args:
        address: address of the cluster, or `auto` for the one this machine belongs to; None starts
            Ray here.
        threads: CPU cores reserved per rank, and its number of threads.
        stop_at_failure: whether a failure cancels the waiting jobs.
    """

    interval = 0.5

    def __init__(self, *, address: str | None, threads: int, stop_at_failure: bool) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.address, self.threads = address, threads
        self.tasks: dict[Path, ray.ObjectRef[int | None]] = {}  # by run folder

    def set_resources(self, job: Job, config: DictConfig) -> None:
        """Set the numbers of GPUs and ranks that a job needs."""
        job.num_gpus = gpus_per_node(config)
        check_single_node(config)
        job.num_ranks = config.trainer.devices if "trainer" in config else 1

    @contextlib.contextmanager
    def session(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Connect to Ray."""
        if not in_state(jobs, JobState.WAITING):
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
        nodes = ray.nodes()  # type: ignore[no-untyped-call]
        largest = max(int(node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"])
        needed = max(job.num_gpus for job in jobs)
        if needed > largest and self.address is None:
            raise ValueError(f"trainer.devices={needed}: this machine has {largest} GPUs")
        if needed > largest:  # the cluster may grow
            log.info("jobs with %d GPUs wait for a machine: the largest has %d", needed, largest)
        try:
            yield
        finally:
            ray.shutdown()  # ends its workers, which end their jobs

    def start(self, job: Job) -> None:
        """Submit a job to Ray, which starts it as soon as there is room."""
        if is_running(job):
            job.leave()
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        job.console.unlink(missing_ok=True)  # its existence shows that the job has started
        task = run_job.options(
            num_cpus=self.threads * job.num_ranks, num_gpus=job.num_gpus, name=job.name
        )
        self.tasks[job.folder] = task.remote(
            job.arguments, str(job.folder), job.name, self.threads, os.getcwd()
        )
        job.state = JobState.QUEUED

    def poll(self, jobs: Sequence[Job]) -> None:
        """Find out which jobs have started and which have ended."""
        for job in in_state(jobs, JobState.QUEUED, JobState.RUNNING):
            if job.state is JobState.QUEUED and job.console.exists():
                job.start("Ray")
            task = self.tasks[job.folder]
            if not ray.wait([task], timeout=0)[0]:
                continue
            try:
                code = ray.get(task)
            except TaskCancelledError:
                job.state = JobState.STOPPED
            except RayError as error:
                job.fail(str(error).strip().splitlines()[-1])
            else:
                job.leave() if code is None else job.end(code)

    def stop(self, jobs: Sequence[Job], *, kill: bool) -> None:
        """Interrupt running jobs, and cancel queued ones."""
        for job in in_state(jobs, JobState.QUEUED, JobState.RUNNING):
            if job.deadline is None:
                job.deadline = time.monotonic() + GRACE + 5  # the worker kills after GRACE
                ray.cancel(self.tasks[job.folder])
            if kill or time.monotonic() > job.deadline:
                ray.cancel(self.tasks[job.folder], force=True)


@ray.remote(max_retries=0)
def run_job(arguments: list[str], folder: str, name: str, threads: int, cwd: str) -> int | None:
    """Run one job in a Ray worker; return its exit code, or None if it is running elsewhere.

    `ray.cancel` arrives as SIGINT, which the executor passes on. If the worker is killed, the job
    ends with it.
    """
    os.chdir(cwd)
    gpus = [str(gpu) for gpu in ray.get_gpu_ids()]
    job = Job(arguments, Path(folder), name=name, num_gpus=len(gpus))
    PoolExecutor(gpus, threads=threads).run([job])
    return None if job.process is None else job.process.returncode
