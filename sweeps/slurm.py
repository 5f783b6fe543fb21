"""Run the jobs of a sweep on SLURM: a SLURM job for each, whose ranks SLURM starts.

Built on submitit, with the settings of hydra-submitit-launcher. Each rank is a fresh process of
run.py. A job that is preempted, or that reaches its time limit, is requeued under the same number
and resumes after its last full epoch.
"""

import contextlib
import getpass
import logging
import math
import os
import pickle
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import submitit
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from omegaconf import DictConfig, OmegaConf
from submitit.core.utils import JobPaths

from runs.run_folder import read_json
from sweeps.executor import RANK_VARIABLES, Executor, gpus_per_node
from sweeps.job import Job, JobState, in_state
from sweeps.lifeline import LIFELINE
from system.json_files import write_json
from system.places import ROOT, display_path

log = logging.getLogger(__name__)

GENERAL = set(OmegaConf.structured(BaseQueueConf).keys())  # the other parameters are SLURM's own
RESULT_DELAY = 15.0  # seconds that a result may take to appear on a shared file system
SILENCE = 60.0  # seconds without an answer from SLURM before the sweep says so
RETRY_DELAY = 30.0  # seconds before submitting again after SLURM accepted no more jobs
GRACE = 600.0  # seconds within which SLURM kills a task that it has told to end
RETRIABLE = re.compile("Max|Limit|[Tt]imed out|Unable to contact|temporarily")  # sbatch's errors
USUAL_REASONS = ("None", "Priority", "Resources", "BeginTime", "Dependency")  # for pending jobs
RANK_FAILED = re.compile(r"RankFailed: exit code (-?\d+)")


class SlurmJob(NamedTuple):
    """A submitted job: its number, its ranks on all nodes, and submitit's folder."""

    number: str
    num_ranks: int
    folder: Path


class SlurmExecutor(Executor):
    """Runs jobs on the SLURM cluster that this machine belongs to.

    Args:
        submitit_folder: folder of submitit's files; `%j` is the SLURM job's number.
        max_num_timeout: how often a job is requeued at its time limit.
        stop_at_failure: whether a failure cancels the waiting jobs.
        wait: whether to wait for the jobs; otherwise they are only submitted, and the same command
            follows them later.
        **parameters: parameters for `sbatch`, named as in hydra-submitit-launcher.
    """

    interval = 1.0
    second_signal = "Ctrl-C again does not wait for SLURM"

    def __init__(
        self,
        *,
        submitit_folder: str,
        max_num_timeout: int,
        stop_at_failure: bool,
        wait: bool,
        **parameters: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(stop_at_failure=stop_at_failure)
        self.folder = Path(submitit_folder).absolute()
        self.max_num_timeout = max_num_timeout
        self.wait = wait
        self.parameters = parameters
        self.submitted: dict[Path, SlurmJob] = {}  # by run folder
        self.gone: dict[Path, float] = {}  # when SLURM first did not list a job
        self.answered = time.monotonic()  # when SLURM last answered
        self.refused = -math.inf  # when it last accepted no more jobs

    def set_resources(self, job: Job, config: DictConfig) -> None:
        """Set the number of nodes, and of ranks and GPUs on each."""
        job.num_gpus = gpus_per_node(config)
        trainer = config.get("trainer")
        if trainer is not None:
            job.num_nodes, job.num_ranks = trainer.get("num_nodes", 1), trainer.devices

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Run the waiting jobs, or only submit them."""
        waiting = in_state(jobs, JobState.WAITING)
        if not waiting:
            return None
        self.states = self.query()
        make_private(root_of(self.folder))
        self.attach(waiting)
        if self.wait:
            return super().run(jobs)
        for job in in_state(waiting, JobState.WAITING):
            self.start(job)
        return None

    def attach(self, jobs: Sequence[Job]) -> None:
        """Follow jobs that an earlier sweep submitted and that have not ended.

        Raises:
            ValueError: if such a job is to be trained anew (`overwrite=true`).
        """
        records = {job.folder: read_json(job.folder / "slurm.json") or {} for job in jobs}
        numbers = {folder: str(record.get("job_id")) for folder, record in records.items()}
        until = time.monotonic() + RESULT_DELAY
        while time.monotonic() < until and any(
            self.states.get(number) == "COMPLETING" for number in numbers.values()
        ):
            time.sleep(0.5)  # it is about to end or to be requeued
            self.states = self.query()
        for job in jobs:
            record, number = records[job.folder], numbers[job.folder]
            if self.states.get(number, "COMPLETING") == "COMPLETING":
                continue
            if "overwrite=true" in job.arguments:
                raise ValueError(
                    f"{job.folder}: SLURM job {number} is running this; scancel {number} ends it"
                )
            folder = Path(str(record.get("submitit_folder")))
            self.submitted[job.folder] = SlurmJob(number, int(record.get("ranks", 1)), folder)
            job.state = JobState.QUEUED
            log.info("attached  %s  (SLURM job %s)", job.name, number)

    def start(self, job: Job) -> None:
        """Submit a job.

        Raises:
            ValueError: if SLURM refuses the very first one.
        """
        if time.monotonic() - self.refused < RETRY_DELAY:
            return
        try:
            executor = submitit.AutoExecutor(
                self.folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout
            )
            executor.update_parameters(**self.sbatch_parameters(job))
            number = executor.submit(Rank(job.arguments, job.folder.absolute())).job_id
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:
            if self.signals:
                return  # Ctrl-C has also ended sbatch
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = f"SLURM refuses {job.name}: {lines[-1] if lines else error}"
            if not self.submitted:
                raise ValueError(reason) from error
            if RETRIABLE.search(str(error)) and self.wait:
                if self.refused == -math.inf:
                    log.info("%s; it waits for others to end", reason)
                self.refused = time.monotonic()
            else:
                job.fail(reason)
            return
        num_ranks = job.num_nodes * job.num_ranks
        self.submitted[job.folder] = SlurmJob(number, num_ranks, self.folder)
        record = {"job_id": number, "ranks": num_ranks, "submitit_folder": str(self.folder)}
        write_json(job.folder / "slurm.json", record)
        job.state = JobState.QUEUED
        log.info("submitted %s  (SLURM job %s)", job.name, number)

    def sbatch_parameters(self, job: Job) -> dict[str, Any]:
        """Return the parameters of a job for submitit."""
        asked = self.parameters | {"nodes": job.num_nodes, "tasks_per_node": job.num_ranks}
        # Never the job's name alone: if it is `bash`, Lightning takes the job for a terminal.
        name = re.sub(r"[^\w.=+-]+", "_", job.name)[:60]
        asked["name"] = f"{job.arguments[0]}:{name}"
        if job.num_gpus and asked.get("gres") is None:
            asked["gpus_per_node"] = job.num_gpus
        # A failing rank ends the others; srun does not inherit the number of cores.
        srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={asked.get('cpus_per_task') or 1}"]
        asked["srun_args"] = [*srun, *(asked.get("srun_args") or [])]
        # On the node, submitit must import this file and not that of another checkout.
        path = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
        asked["setup"] = [path, *(asked.get("setup") or [])]
        requeue = {"requeue": True}  # not every cluster's default
        asked["additional_parameters"] = requeue | (asked.get("additional_parameters") or {})
        return {
            name if name in GENERAL else f"slurm_{name}": value
            for name, value in asked.items()
            if value is not None
        }

    def query(self) -> dict[str, str]:
        """Ask SLURM for the states of this user's jobs, by number.

        Raises:
            ValueError: if there is no SLURM on this machine.
        """
        command = ["squeue", "--noheader", "--format=%i %T %r", f"--user={getpass.getuser()}"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except FileNotFoundError as error:
            raise ValueError("hydra/launcher=slurm: there is no squeue on this machine") from error
        except subprocess.CalledProcessError as error:
            raise ValueError(f"hydra/launcher=slurm: {error.stderr.strip()}") from error
        parts = [line.split(" ", 2) for line in listed.splitlines()]
        self.reasons = {number: reason for number, state, reason in parts if state == "PENDING"}
        return {number: state for number, state, _ in parts}

    def poll(self, jobs: Sequence[Job]) -> None:
        """Find out which jobs have started, were requeued, or have ended."""
        try:
            self.states = self.query()
        except ValueError as error:  # its controller may be away for a while
            if time.monotonic() - self.answered > SILENCE:
                self.answered = time.monotonic()
                log.warning("%s; waiting for it", error)
            return
        self.answered = time.monotonic()
        for job in in_state(jobs, JobState.QUEUED, JobState.RUNNING):
            number = self.submitted[job.folder].number
            state = self.states.get(number)
            if state is None:
                self.end(job)
                continue
            self.gone.pop(job.folder, None)
            reason = self.reasons.get(number, "None")
            if reason not in (*USUAL_REASONS, job.note):
                job.note = reason
                log.info("waiting   %s  (SLURM job %s: %s)", job.name, number, reason)
            if state == "PENDING" and job.state is JobState.RUNNING:
                job.state = JobState.QUEUED
                log.info("requeued  %s  (SLURM job %s)", job.name, number)
            elif state in ("RUNNING", "COMPLETING") and job.state is JobState.QUEUED:
                job.start(f"SLURM job {number}")

    def end(self, job: Job) -> None:
        """Mark a job that SLURM no longer lists as ended, once its results have arrived."""
        number, num_ranks, folder = self.submitted[job.folder]
        paths = (JobPaths(folder, number, rank).result_pickle for rank in range(num_ranks))
        results = [path for path in paths if path.exists()]
        exposed = [p for p in (root_of(folder), *results) if results and not is_private(p)]
        if exposed:  # unpickling runs what others may have written there
            job.fail(f"{exposed[0]}: others can write there, so the result is not read")
            return
        loaded = [pickle.loads(path.read_bytes()) for path in results]
        errors = [str(text) for kind, text in loaded if kind == "error"]
        since = self.gone.setdefault(job.folder, time.monotonic())
        if not errors and (len(loaded) == num_ranks or has_result(job)):
            job.end(0)
        elif job.deadline is not None:
            job.end(1)
        elif len(loaded) < num_ranks and time.monotonic() - since < RESULT_DELAY:
            return
        elif failed := [match for text in errors if (match := RANK_FAILED.search(text))]:
            job.end(int(failed[0].group(1)))
        else:
            reason = errors[0].strip().splitlines()[-1] if errors else "ended without a result"
            logs = display_path(str(folder).replace("%j", number))
            job.fail(f"SLURM job {number}: {reason}; its log is in {logs}")

    def stop(self, jobs: Sequence[Job], *, kill: bool) -> None:
        """Cancel queued and running jobs; do not wait for SLURM if `kill`."""
        for job in in_state(jobs, JobState.QUEUED, JobState.RUNNING):
            if job.deadline is None:
                job.deadline = time.monotonic()
                subprocess.run(["scancel", self.submitted[job.folder].number], check=False)
            if kill:
                job.state = JobState.STOPPED


def has_result(job: Job) -> bool:
    """Return whether a job has written a result since it was submitted."""
    result, record = job.folder / "result.json", job.folder / "slurm.json"
    return result.exists() and result.stat().st_mtime >= record.stat().st_mtime


def root_of(folder: Path) -> Path:
    """Return the folder of all of submitit's files: the part before the job's number (`%j`)."""
    named = [part for part in (folder, *folder.parents) if "%" in part.name]
    return named[-1].parent if named else folder


def is_private(path: Path) -> bool:
    """Return whether nobody but this user (and root) can write there."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, whatever the umask.

    Raises:
        ValueError: if it exists, and others could have written into it.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
    elif not is_private(folder):
        raise ValueError(
            f"hydra.launcher.submitit_folder={folder}: others can write there, and what is read "
            f"back from it can run code; remove it, or chmod go-w if you trust what it holds"
        )
    folder.chmod(0o700)
    parent = folder.parent
    shared = parent.stat().st_mode
    if shared & 0o022 and not shared & stat.S_ISVTX:
        log.warning("%s: others can write there, and so replace %s", parent, folder.name)


class RankFailed(Exception):
    """A rank exited with an error, so SLURM ends the others."""


class Rank:
    """What SLURM starts for each rank: run.py in a process of its own.

    Args:
        arguments: command line of run.py.
        folder: run folder, which gets console.log.
    """

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.arguments, self.folder = arguments, folder
        self.cwd, self.root = os.getcwd(), ROOT
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Run it to its end.

        Raises:
            RankFailed: if it exits with an error.
        """
        signals: list[int] = []

        def end(number: int, _: FrameType | None) -> None:
            signals.append(number)
            self.kill()

        arguments = self.arguments
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0):  # it resumes what it has begun
            arguments = [word for word in arguments if not word.startswith("overwrite=")]
        environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
        reader, _ = os.pipe()  # run.py ends with this process, which has the only writing end
        threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        environment |= {LIFELINE: str(reader), "OMP_NUM_THREADS": threads}
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited: it would end run.py
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "console.log", "ab") as console:
            self.child = subprocess.Popen(
                [sys.executable, str(self.root / "run.py"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.cwd,
                pass_fds=(reader,),
                start_new_session=True,
            )
        signal.signal(signal.SIGUSR2, before)
        signal.signal(signal.SIGTERM, end)
        code = self.child.wait()
        if code and signals:
            requeue_if_preempted()
        if code:
            raise RankFailed(f"exit code {code}")
        return code

    def kill(self) -> None:
        """Kill run.py, which resumes after its last full epoch when the job is requeued.

        At once: Lightning's own answer to SIGTERM can keep ranks waiting for each other.
        """
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return what SLURM starts when the job is requeued; submitit calls it after SIGUSR2."""
        self.kill()
        return submitit.helpers.DelayedSubmission(Rank(self.arguments, self.folder))


def requeue_if_preempted() -> None:
    """After SIGTERM, requeue the job if it is preempted, and wait to be killed.

    A job that ended by itself now would count as failed. SIGTERM also arrives when the job is
    cancelled or another rank has failed; then it must not run again.
    """
    number = os.environ["SLURM_JOB_ID"]
    if os.environ["SLURM_PROCID"] == "0":
        command = ["scontrol", "show", "job", number]
        shown = subprocess.run(command, capture_output=True, text=True).stdout
        # A cancelled job is COMPLETING by now, and would come back to life.
        if "JobState=RUNNING" in shown and re.search(r"PreemptTime=\d", shown):
            subprocess.run(["scontrol", "requeue", number])
    time.sleep(GRACE)
