"""Executors run the jobs of a sweep: on this machine, on SLURM or on Ray.

Each job is a fresh process in single-run mode. Lightning starts the other ranks of a job by running
`sys.argv` again, which in a multirun would be the whole sweep, on every rank.
"""

import contextlib
import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import FrameType

from omegaconf import DictConfig

from sweeps.job import OPEN, Job, JobState, in_state
from sweeps.table import live_table

log = logging.getLogger(__name__)

GRACE = 20.0  # seconds that an interrupted job has before it is killed
# Set by whatever started the sweep, which may itself be a rank.
RANK_VARIABLES = {
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "WANDB_RUN_ID", "WANDB_SERVICE"),
}


class Executor(ABC):
    """Runs the jobs of a sweep; subclasses define where.

    Args:
        stop_at_failure: whether a failure cancels the waiting jobs.
    """

    interval = 0.1  # seconds between polls
    second_signal = "Ctrl-C again kills"

    def __init__(self, *, stop_at_failure: bool = False) -> None:
        self.stop_at_failure = stop_at_failure
        self.signals: list[int] = []  # received so far

    @abstractmethod
    def set_resources(self, job: Job, config: DictConfig) -> None:
        """Set the numbers of GPUs, nodes and ranks that a job needs.

        Raises:
            ValueError: if they are not available.
        """

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Run the waiting jobs, each as soon as there is room, until all have ended.

        SIGINT and SIGTERM stop them all; a second signal kills them.

        Returns:
            The signal that stopped them, or None.
        """
        with caught_signals() as self.signals, live_table(jobs), self.session(jobs):
            seen = 0
            while in_state(jobs, *OPEN):
                if len(self.signals) > seen:
                    seen = len(self.signals)
                    self.announce_stop(jobs, kill=seen > 1)
                if seen or (self.stop_at_failure and in_state(jobs, JobState.FAILED)):
                    self.cancel(jobs)
                for job in in_state(jobs, JobState.WAITING):
                    self.start(job)
                if seen:
                    self.stop(jobs, kill=seen > 1)
                self.poll(jobs)
                time.sleep(self.interval)
        return self.signals[0] if self.signals else None

    @contextlib.contextmanager
    def session(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Hold what is needed while jobs run."""
        yield

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a job if there is room."""

    @abstractmethod
    def poll(self, jobs: Sequence[Job]) -> None:
        """Update the states of the jobs."""

    @abstractmethod
    def stop(self, jobs: Sequence[Job], *, kill: bool) -> None:
        """Interrupt all ranks of the jobs; kill them after a grace period, or at once."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel the waiting and queued jobs."""
        for job in in_state(jobs, JobState.WAITING):
            job.state = JobState.STOPPED
        self.stop(in_state(jobs, JobState.QUEUED), kill=False)

    def announce_stop(self, jobs: Sequence[Job], *, kill: bool) -> None:
        """Print what a signal does."""
        num = len(in_state(jobs, JobState.QUEUED, JobState.RUNNING))
        what = "1 job" if num == 1 else f"{num} jobs"
        trains = any(job.arguments[:1] == ["train"] for job in jobs)
        kept = " (their last full epoch is kept)" if trains else ""
        if kill:
            log.info("killing %s", what)
        else:
            log.info("stopping %s%s; %s", what, kept, self.second_signal)


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of ending this process."""
    received: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def gpus_per_node(config: DictConfig) -> int:
    """Return how many GPUs a job needs on each machine of a cluster.

    Commands that measure get one by `device=cuda`.

    Raises:
        ValueError: unless the configuration gives the number.
    """
    trainer = config.get("trainer")
    if trainer is None:
        device = str(config.get("device", "cpu"))
        if device.startswith("cuda:"):
            raise ValueError(f"device={device}: in a sweep a job's own GPU is device=cuda")
        return int(device == "cuda")
    if not isinstance(trainer.devices, int) or trainer.devices < 1:
        raise ValueError(f"trainer.devices={trainer.devices}: a number is needed, per machine")
    return int(trainer.devices) if trainer.accelerator == "gpu" else 0


def check_single_node(config: DictConfig) -> None:
    """Refuse jobs that need several machines.

    Raises:
        ValueError: with the remedy.
    """
    num_nodes = config.trainer.get("num_nodes", 1) if "trainer" in config else 1
    if num_nodes != 1:
        raise ValueError(
            f"trainer.num_nodes={num_nodes}: this launcher's jobs have one machine each; "
            "hydra/launcher=slurm, or torchrun for a single job"
        )
