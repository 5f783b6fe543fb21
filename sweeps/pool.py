"""Run the jobs of a sweep side by side on the GPUs or the CPU of this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

import torch
from omegaconf import DictConfig

from sweeps.executor import GRACE, RANK_VARIABLES, Executor, check_single_node, gpus_per_node
from sweeps.job import Job, JobState, in_state
from sweeps.lifeline import LIFELINE
from system.locks import lock, locked
from system.places import ROOT
from system.workers import num_cores

CLUSTER_VARIABLES = ("SLURM_", "TORCHELASTIC_", "PMI_")  # prefixes, never inherited by jobs
MPIRUN = "OMPI_COMM_WORLD_SIZE"  # without it, OMPI_MCA_... are settings of the machine


class PoolExecutor(Executor):
    """Runs jobs on this machine: on its GPUs, or on the CPU if no job needs a GPU.

    Args:
        gpus: the GPUs to use, named as in CUDA_VISIBLE_DEVICES.
        jobs: simultaneous jobs on the CPU.
        share: simultaneous jobs per GPU.
        threads: CPU threads per rank; None: OMP_NUM_THREADS, or the cores divided among
            simultaneous ranks.
        stop_at_failure: whether a failure cancels the waiting jobs.
    """

    def __init__(
        self,
        gpus: Sequence[str] = (),
        *,
        jobs: int = 1,
        share: int = 1,
        threads: int | None = None,
        stop_at_failure: bool = False,
    ) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.gpus, self.jobs, self.share, self.threads = gpus, jobs, share, threads

    def set_resources(self, job: Job, config: DictConfig) -> None:
        """Set the numbers of GPUs and ranks that a job needs."""
        job.num_gpus = num_gpus(config, self.gpus)
        devices = config.trainer.devices if "trainer" in config else 1
        job.num_ranks = job.num_gpus or (devices if isinstance(devices, int) and devices > 0 else 1)

    @contextlib.contextmanager
    def session(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Divide the machine among the jobs; kill what is left of them at the end."""
        self.on_gpu = any(job.num_gpus for job in jobs)
        if self.on_gpu:
            self.free = Counter(dict.fromkeys(self.gpus, self.share))
            num_ranks = self.free.total()
        else:
            self.free = Counter(f"cpu{k}" for k in range(self.jobs))
            num_ranks = self.jobs * max(job.num_ranks for job in jobs)
        self.rank_threads = self.threads or openmp_threads() or max(1, num_cores() // num_ranks)
        self.lifeline, writer = os.pipe()
        try:
            yield
        finally:
            for job in jobs:
                kill(job)
            os.close(writer)
            os.close(self.lifeline)

    def start(self, job: Job) -> None:
        """Start a job if enough devices are free and no other process is running it."""
        # The least used devices come first.
        devices = [name for name, num in self.free.most_common() if num][: max(1, job.num_gpus)]
        if len(devices) < job.num_gpus or not devices:
            return
        console = lock_console(job)
        if console is None:
            job.leave()
            return
        gpus, threads = devices if self.on_gpu else [], self.rank_threads
        with console:
            job.process = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=job_environment(os.environ, gpus, threads=threads, lifeline=self.lifeline),
                pass_fds=(self.lifeline,),
                start_new_session=True,  # its ranks are in its group, and Ctrl-C comes from us
            )
        job.devices = devices
        self.free.subtract(devices)
        cpu = "1 thread" if threads == 1 else f"{threads} threads"
        job.start(f"GPU {', '.join(gpus)}" if gpus else cpu)

    def poll(self, jobs: Sequence[Job]) -> None:
        """Find out which jobs have ended."""
        for job in in_state(jobs, JobState.RUNNING):
            assert job.process is not None
            code = job.process.poll()
            if code is not None:
                kill(job)  # ranks that outlived the first one
                self.free.update(job.devices)
                job.end(code)

    def stop(self, jobs: Sequence[Job], *, kill: bool) -> None:
        """Interrupt all ranks of the jobs; kill them after a grace period, or at once."""
        for job in in_state(jobs, JobState.RUNNING):
            if job.deadline is None:
                job.deadline = time.monotonic() + GRACE
                signal_group(job, signal.SIGINT)
            if kill or time.monotonic() > job.deadline:
                signal_group(job, signal.SIGKILL)


def lock_console(job: Job) -> IO[bytes] | None:
    """Open an empty console.log, locked as long as a process of the job has it open.

    The lock belongs to the open file, which the job and its ranks inherit.

    Returns:
        The file, or None if another process is running the job.
    """
    try:
        with locked(job.folder):  # a run by hand holds this lock
            console = open(job.console, "ab")  # noqa: SIM115
    except ValueError:
        return None
    if not lock(console):
        console.close()
        return None
    console.truncate(0)
    return console


def is_running(job: Job) -> bool:
    """Return whether another sweep is running a job on this machine."""
    if not job.console.exists():
        return False
    with open(job.console, "ab") as console:
        return not lock(console)


def job_environment(
    outer: Mapping[str, str], gpus: Sequence[str], *, threads: int, lifeline: int
) -> dict[str, str]:
    """Return a job's environment: its own GPUs and port, and nothing of other ranks or clusters."""
    foreign = (*CLUSTER_VARIABLES, "OMPI_") if MPIRUN in outer else CLUSTER_VARIABLES
    inherited = {
        name: value
        for name, value in outer.items()
        if name not in RANK_VARIABLES and not name.startswith(foreign)
    }
    return inherited | {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": str(threads),
        LIFELINE: str(lifeline),
    }


def signal_group(job: Job, number: int) -> None:
    """Send a signal to a job and its ranks."""
    assert job.process is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, number)


def kill(job: Job) -> None:
    """Kill what is left of a job and its ranks."""
    if job.process is not None:
        signal_group(job, signal.SIGKILL)
        job.process.wait()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def openmp_threads() -> int | None:
    """Return OMP_NUM_THREADS if it is a positive number."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    return (int(value) or None) if value.isdecimal() else None


def select_gpus(indices: Sequence[int] | None) -> list[str]:
    """Return the visible GPUs with these indices, named as in CUDA_VISIBLE_DEVICES; None: all.

    Raises:
        ValueError: if there are fewer.
    """
    num = torch.cuda.device_count()
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    visible = names[:num] or [str(k) for k in range(num)]
    if indices is None:
        return visible
    if not all(0 <= k < num for k in indices):
        raise ValueError(f"hydra.launcher.gpus={list(indices)}: {num} GPUs are visible")
    return [visible[k] for k in indices]


def num_gpus(config: DictConfig, gpus: Sequence[str]) -> int:
    """Return how many GPUs of this machine a job needs; 0 if it runs on the CPU.

    Raises:
        ValueError: if it needs more than there are, or several machines.
    """
    trainer = config.get("trainer")
    check_single_node(config)
    if trainer is None:
        return int(bool(gpus)) if config.get("device") == "auto" else gpus_per_node(config)
    if trainer.accelerator != "gpu":
        return 0
    asked = trainer.devices
    needed = asked if isinstance(asked, int) and asked > 0 else len(gpus)
    if needed > len(gpus) or not gpus:
        raise ValueError(f"trainer.devices={asked}: the sweep has {len(gpus)} GPUs")
    return int(needed)
