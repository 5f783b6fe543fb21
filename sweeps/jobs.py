"""Jobs of a sweep: fresh processes in single-run mode, side by side on a pool of devices.

Lightning starts the other ranks of a job by running `sys.argv` again. In a multirun that would be
the whole sweep, on every rank, so that each job is a process of its own here, with its own
environment, and a sweep's process only starts, watches and stops them.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from sweeps.job import Job, State, failed, pending
from sweeps.table import last_line, live_lines
from system.locks import locked
from system.places import ROOT
from system.progress import format_seconds

log = logging.getLogger(__name__)

LIFELINE = "SWEEP_LIFELINE"  # a pipe that ends when the sweep's process does
GRACE = 20.0  # seconds that a job has to end by itself
# Of the process that starts the sweep, which may itself be a rank or a cluster's task.
NOT_INHERITED = ("SLURM_", "TORCHELASTIC_", "PMI_")
BY_MPIRUN = "OMPI_COMM_WORLD_SIZE"  # without it, OMPI_MCA_... are settings of the machine
RANK_VARIABLES = {
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED", "WANDB_RUN_ID", "WANDB_SERVICE"),
}


class Slots:
    """Which devices are free.

    Args:
        devices: their names, each once.
        share: jobs that may use a device at a time.
    """

    def __init__(self, devices: Sequence[str], share: int = 1) -> None:
        self.free = dict.fromkeys(devices, share)

    def take(self, count: int) -> tuple[str, ...] | None:
        """`count` different devices, the freest first; None while there are not so many."""
        order = sorted((name for name, n in self.free.items() if n), key=lambda d: -self.free[d])
        if count > len(order):
            return None
        taken = tuple(order[:count])
        for name in taken:
            self.free[name] -= 1
        return taken

    def give(self, taken: Sequence[str]) -> None:
        """Gives devices back."""
        for name in taken:
            self.free[name] += 1


class Runner(ABC):
    """Runs the jobs of a sweep and sees them end; a subclass says where.

    Args:
        stop_at_failure: whether jobs that wait are given up when one fails.
    """

    pause = 0.1  # seconds between two looks

    def __init__(self, *, stop_at_failure: bool = False) -> None:
        self.stop_at_failure = stop_at_failure
        self.signals: list[int] = []  # that have arrived

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Runs the jobs that wait, each as soon as there is room for it, and sees them end.

        Ctrl-C and SIGTERM stop them all; a second one does not wait for them.

        Returns:
            The signal that stopped them, if one did.
        """
        with caught_signals() as signals, live_lines(jobs) as refresh, self.opened(jobs):
            self.signals = signals
            heard = 0
            while pending(jobs):
                if len(signals) > heard:
                    heard = len(signals)
                    log.info("%s", self.stopping(jobs, impatient=heard > 1))
                if signals or (self.stop_at_failure and failed(jobs)):
                    self.give_up(jobs)
                for job in jobs:
                    if job.state is State.WAITING:
                        self.start(job)
                if signals:
                    self.stop(jobs, impatient=len(signals) > 1)
                self.watch(jobs)
                refresh()
                time.sleep(self.pause)
        return signals[0] if signals else None

    @contextlib.contextmanager
    def opened(self, jobs: Sequence[Job]) -> Iterator[None]:
        """What is to be there while jobs run, and is not left behind."""
        yield

    @abstractmethod
    def start(self, job: Job) -> None:
        """Starts a job if there is room."""

    @abstractmethod
    def watch(self, jobs: Sequence[Job]) -> None:
        """Sees which jobs have begun and which have ended."""

    def stopping(self, jobs: Sequence[Job], *, impatient: bool) -> str:
        """What is said when a signal arrives."""
        num = sum(job.state in (State.QUEUED, State.RUNNING) for job in jobs)
        what = "1 job" if num == 1 else f"{num} jobs"
        if impatient:
            return f"killing {what}"
        trains = any(job.words[:1] == ["train"] for job in jobs)
        kept = " (their last full epoch is kept)" if trains else ""
        return f"stopping {what}{kept}; Ctrl-C again kills"

    @abstractmethod
    def stop(self, jobs: Sequence[Job], *, impatient: bool) -> None:
        """Interrupts what runs, all ranks of it; kills it after a while, or now."""

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Does not start what waits."""
        for job in jobs:
            if job.state is State.WAITING:
                job.state = State.STOPPED


class Pool(Runner):
    """Runs jobs on the devices of this machine.

    Args:
        devices: GPUs, as CUDA_VISIBLE_DEVICES names them, or places for jobs on the CPU.
        on_gpu: which of the two.
        share: jobs that may use a device at a time.
        threads: CPU threads of each rank.
        stop_at_failure: whether jobs that wait are given up when one fails.
    """

    def __init__(
        self,
        devices: Sequence[str],
        *,
        on_gpu: bool,
        share: int = 1,
        threads: int = 1,
        stop_at_failure: bool = False,
    ) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.slots = Slots(devices, share)
        self.on_gpu = on_gpu
        self.threads = threads

    @contextlib.contextmanager
    def opened(self, jobs: Sequence[Job]) -> Iterator[None]:
        """The pipe that jobs read and nobody writes; at the end no job is left."""
        self.lifeline, writer = os.pipe()
        try:
            yield
        finally:
            for job in jobs:
                end_group(job)
            os.close(writer)
            os.close(self.lifeline)

    def start(self, job: Job) -> None:
        """Starts a job if there is room."""
        taken = self.slots.take(job.devices)
        if taken is None:
            return
        try:
            with locked(job.folder):  # console.log is the one of whoever is at it
                console = open(job.folder / "console.log", "wb")  # noqa: SIM115
        except ValueError as error:
            self.slots.give(taken)
            fail(job, str(error))
            return
        with console:
            job.process = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *job.words],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=self.environment(os.environ, taken, self.lifeline),
                pass_fds=(self.lifeline,),
                start_new_session=True,  # its ranks are in its group, and Ctrl-C comes from us
            )
        job.taken = taken
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        begin(job, f"GPU {', '.join(taken)}" if self.on_gpu else threads)

    def environment(
        self, outer: Mapping[str, str], taken: Sequence[str], lifeline: int
    ) -> dict[str, str]:
        """A job's environment: nothing of other ranks or clusters, its own devices and port."""
        foreign = (*NOT_INHERITED, "OMPI_") if BY_MPIRUN in outer else NOT_INHERITED
        cleaned = {
            name: value
            for name, value in outer.items()
            if name not in RANK_VARIABLES and not name.startswith(foreign)
        }
        threads = str(self.threads)
        own = {"MASTER_PORT": str(free_port()), LIFELINE: str(lifeline), "OMP_NUM_THREADS": threads}
        return cleaned | own | {"CUDA_VISIBLE_DEVICES": ",".join(taken) if self.on_gpu else ""}

    def watch(self, jobs: Sequence[Job]) -> None:
        """Sees which jobs have ended."""
        for job in jobs:
            if job.process is None or job.state is not State.RUNNING:
                continue
            code = job.process.poll()
            if code is not None:
                end_group(job)  # ranks that outlived the first one
                self.slots.give(job.taken)
                settle(job, code, asked=job.deadline is not None)

    def stop(self, jobs: Sequence[Job], *, impatient: bool) -> None:
        """Interrupts what runs, all ranks of it; kills it after a while, or now."""
        for job in jobs:
            if job.state is not State.RUNNING:
                continue
            if job.deadline is None:
                job.deadline = time.monotonic() + GRACE
                signal_group(job, signal.SIGINT)
            if impatient or time.monotonic() > job.deadline:
                signal_group(job, signal.SIGKILL)


def begin(job: Job, where: str) -> None:
    """Marks a job as running."""
    job.state, job.began = State.RUNNING, time.monotonic()
    log.info("started   %s  (%s)", job.name, where)


def settle(job: Job, code: int, *, asked: bool = False) -> None:
    """Marks a job as ended.

    Args:
        job: that has run.
        code: its exit code, below 0 for a signal.
        asked: whether it was to stop.
    """
    if job.began:  # a cluster may have ended it in the queue
        job.seconds = time.monotonic() - job.began
    metric = job.metric() if code == 0 else None
    if code == 0:
        job.state = State.DONE
    elif asked:
        job.state = State.STOPPED
    else:
        fail(job, last_line(job.folder / "console.log", code))
        return
    shown = f"  {metric[0]} {metric[1]:.4g}" if metric else ""
    log.info("%-9s %s  %s%s", job.state, job.name, format_seconds(job.seconds), shown)


def fail(job: Job, note: str) -> None:
    """Marks a job as failed, and says why."""
    job.state, job.note = State.FAILED, note
    log.info("%-9s %s  %s  %s", job.state, job.name, format_seconds(job.seconds), note)


def signal_group(job: Job, number: int) -> None:
    """Sends a signal to a job and to its ranks."""
    assert job.process is not None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(job.process.pid, number)


def end_group(job: Job) -> None:
    """Leaves nothing of a job running."""
    if job.process is not None:
        signal_group(job, signal.SIGKILL)
        job.process.wait()


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of ending this process."""
    seen: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        seen.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_sweep() -> None:
    """Ends this job, with its ranks, as soon as the sweep's process is gone, however it went."""
    text = os.environ.pop(LIFELINE, None)
    if text is None or os.getpgrp() != os.getpid():
        return

    def wait(pipe: int) -> None:
        os.read(pipe, 1)  # returns when the last writer has gone
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, args=(int(text),), daemon=True).start()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
