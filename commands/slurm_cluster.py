"""Sweeps on a SLURM cluster: a SLURM job for each job of the sweep, its ranks started by SLURM.

Built on submitit, with the settings of hydra-submitit-launcher. Each rank is a fresh process of
run.py. A job that is preempted, or that reaches its time limit, is queued again under the same
number and goes on after its last full epoch.
"""

import getpass
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import submitit
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf

from commands.jobs import LIFELINE, RANK_VARIABLES, Job, Runner, State, begin, settle
from commands.run_folder import ROOT, read_json
from lightning_modules.json_files import write_json

log = logging.getLogger(__name__)

GENERAL = set(OmegaConf.structured(BaseQueueConf).keys())  # the others are SLURM's own
PATIENCE = 15.0  # seconds for a result to arrive on a shared file system


class SlurmCluster(Runner):
    """The SLURM cluster of this machine.

    Args:
        submitit_folder: where submitit keeps its files; `%j` is the SLURM job's number.
        max_num_timeout: how often a job goes on after its time limit.
        stop_at_failure: whether jobs that wait are given up when one fails.
        wait: whether to see the jobs end; else they are submitted only, and the same command looks
            after them later.
        parameters: of `sbatch`, as hydra-submitit-launcher names them.
    """

    pause = 1.0

    def __init__(
        self,
        *,
        submitit_folder: str,
        max_num_timeout: int,
        stop_at_failure: bool,
        wait: bool,
        parameters: dict[str, Any],
    ) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.folder = Path(submitit_folder).absolute()
        self.max_num_timeout = max_num_timeout
        self.wait = wait
        self.parameters = parameters
        self.numbers: dict[Path, str] = {}  # SLURM's numbers by run folder
        self.gone: dict[Path, float] = {}  # since when SLURM does not know a job any more

    def fit(self, job: Job, config: DictConfig) -> None:
        """Notes what a job needs: machines, and ranks and GPUs on each."""
        trainer = config.get("trainer")
        if trainer is None:
            job.devices = int(config.get("device", "cpu") != "cpu")
            return
        if not isinstance(trainer.devices, int) or trainer.devices < 1:
            raise ValueError(f"trainer.devices={trainer.devices}: a number is needed, per machine")
        job.nodes, job.ranks = trainer.get("num_nodes", 1), trainer.devices
        job.devices = trainer.devices if trainer.accelerator == "gpu" else 0

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Runs the jobs that wait, or only submits them."""
        if not any(job.state is State.WAITING for job in jobs):
            return None
        self.known = self.states()
        if self.wait:
            return super().run(jobs)
        for job in jobs:
            if job.state is State.WAITING:
                self.start(job)
        return None

    def start(self, job: Job) -> None:
        """Submits a job, unless an earlier sweep has and it has not ended."""
        note = job.folder / "slurm.json"
        earlier = str((read_json(note) or {}).get("job_id"))
        if earlier in self.known:
            self.numbers[job.folder], job.state = earlier, State.QUEUED
            log.info("attached  %s  (SLURM job %s)", job.name, earlier)
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "console.log").unlink(missing_ok=True)
        try:
            executor = submitit.AutoExecutor(
                self.folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout
            )
            executor.update_parameters(**self.sbatch(job))
            task = Task(job.words, job.folder.absolute(), os.getcwd())
            submitted = executor.submit(task)
        except (RuntimeError, submitit.core.utils.FailedJobError, NameError, TypeError) as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise ValueError(
                f"SLURM refuses {job.name}: {lines[-1] if lines else error}"
            ) from error
        self.numbers[job.folder] = submitted.job_id
        write_json(note, {"job_id": submitted.job_id, "submitit_folder": str(self.folder)})
        job.state = State.QUEUED
        log.info("submitted %s  (SLURM job %s)", job.name, submitted.job_id)

    def sbatch(self, job: Job) -> dict[str, Any]:
        """What the job asks of SLURM."""
        asked = self.parameters | {"nodes": job.nodes, "tasks_per_node": job.ranks}
        asked["name"] = re.sub(r"[^\w.=+-]+", "_", job.name)[:60]
        if job.devices and asked.get("gres") is None:
            asked["gpus_per_node"] = job.devices
        if job.nodes * job.ranks > 1:  # a rank that fails takes the others along
            asked["srun_args"] = [*(asked.get("srun_args") or []), "--kill-on-bad-exit=1"]
        return {
            name if name in GENERAL else f"slurm_{name}": value
            for name, value in asked.items()
            if value is not None
        }

    def states(self) -> dict[str, str]:
        """State of each of this user's jobs that SLURM knows, by number.

        Raises:
            ValueError: if there is no SLURM here.
        """
        command = ["squeue", "--noheader", "--format=%i %T", f"--user={getpass.getuser()}"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except FileNotFoundError as error:
            raise ValueError("hydra/launcher=slurm: there is no squeue on this machine") from error
        except subprocess.CalledProcessError as error:
            raise ValueError(f"hydra/launcher=slurm: {error.stderr.strip()}") from error
        return dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)

    def watch(self, jobs: Sequence[Job]) -> None:
        """Sees which jobs have begun, were queued again, and have ended."""
        try:
            self.known = self.states()
        except ValueError:  # SLURM's controller may be away for a while
            return
        for job in jobs:
            if job.state not in (State.QUEUED, State.RUNNING):
                continue
            number = self.numbers[job.folder]
            state = self.known.get(number)
            if state == "PENDING" and job.state is State.RUNNING:
                job.state = State.QUEUED
                log.info("requeued  %s  (SLURM job %s)", job.name, number)
            elif state in ("RUNNING", "COMPLETING") and job.state is State.QUEUED:
                begin(job, f"SLURM job {number}")
            elif state is None:
                self.end(job, number)

    def end(self, job: Job, number: str) -> None:
        """Marks a job as ended that SLURM does not list any more."""
        found = [
            path
            for rank in range(job.nodes * job.ranks)
            if (
                path := submitit.core.utils.JobPaths(self.folder, number, rank).result_pickle
            ).exists()
        ]
        asked = job.deadline is not None
        since = self.gone.setdefault(job.folder, time.monotonic())
        if len(found) < job.nodes * job.ranks and time.monotonic() - since < PATIENCE and not asked:
            return
        results = [pickle.loads(path.read_bytes()) for path in found]
        errors = [text for kind, text in results if kind == "error"]
        if results and not errors and len(found) == job.nodes * job.ranks:
            settle(job, 0)
            return
        code = re.search(r"TaskFailed: exit code (-?\d+)", errors[0]) if errors else None
        if code is not None or asked:
            settle(job, int(code.group(1)) if code else 1, asked=asked)
            return
        lines = errors[0].strip().splitlines() if errors else ["ended without a result"]
        job.state = State.FAILED
        logs = str(self.folder).replace("%j", number)
        job.note = f"SLURM job {number}: {lines[-1]}; its log is in {logs}"
        log.info("%-9s %s  %s", job.state, job.name, job.note)

    def stop(self, jobs: Sequence[Job], *, impatient: bool) -> None:
        """Cancels what is queued or runs."""
        for job in jobs:
            if job.state in (State.QUEUED, State.RUNNING) and job.deadline is None:
                job.deadline = time.monotonic()
                subprocess.run(["scancel", self.numbers[job.folder]], check=False)

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Does not start what waits."""
        super().give_up(jobs)
        self.stop([job for job in jobs if job.state is State.QUEUED], impatient=False)


class TaskFailed(Exception):
    """A rank that ended with an error, so that SLURM ends the others."""


class Task:
    """What SLURM starts for each rank: run.py in a process of its own.

    Args:
        words: its command line.
        folder: of the run; console.log is there.
        cwd: where the command was typed.
    """

    def __init__(self, words: list[str], folder: Path, cwd: str) -> None:
        self.words, self.folder, self.cwd = words, folder, cwd

    def __call__(self) -> int:
        """Runs it to its end.

        Raises:
            TaskFailed: if it failed by itself.
        """
        told: list[int] = []

        def remember(number: int, _: FrameType | None) -> None:
            told.append(number)

        signal.signal(signal.SIGTERM, remember)
        threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
        reader, self.writer = os.pipe()  # run.py ends with this process
        environment |= {LIFELINE: str(reader), "OMP_NUM_THREADS": threads}
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited: it would end run.py
        with open(self.folder / "console.log", "ab") as console:
            child = subprocess.Popen(
                [sys.executable, str(ROOT / "run.py"), *self.words],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.cwd,
                pass_fds=(reader,),
                start_new_session=True,
            )
        signal.signal(signal.SIGUSR2, before)
        code = child.wait()
        # SLURM sends SIGTERM, to run.py too, when it is about to preempt or cancel a job. What ends
        # now by itself would be a failed job; what is ended by SLURM is queued again or cancelled.
        while code and told:
            time.sleep(1)
        if code:
            raise TaskFailed(f"exit code {code}")
        return code

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What SLURM starts when the job is queued again; submitit asks after SIGUSR2."""
        os.close(self.writer)  # ends run.py, which goes on after its last full epoch
        return submitit.helpers.DelayedSubmission(Task(self.words, self.folder, self.cwd))
