"""Sweeps on a SLURM cluster: a SLURM job for each job of the sweep, its ranks started by SLURM.

Built on submitit, with the settings of hydra-submitit-launcher. Each rank is a fresh process of
run.py. A job that is preempted, or that reaches its time limit, is queued again under the same
number and goes on after its last full epoch.
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
from sweeps.job import Job, State
from sweeps.jobs import LIFELINE, RANK_VARIABLES, Runner, begin, fail, settle
from sweeps.pool import explicit_devices
from system.json_files import write_json
from system.places import ROOT, display_path

log = logging.getLogger(__name__)

GENERAL = set(OmegaConf.structured(BaseQueueConf).keys())  # the others are SLURM's own
PATIENCE = 15.0  # seconds for a result to arrive on a shared file system
SILENCE = 60.0  # seconds without an answer of SLURM after which it is said
RETRY = 30.0  # seconds until SLURM is asked again after it took no more jobs
GRACE = 600.0  # seconds in which SLURM ends a task that it has told to end
FULL = re.compile("Max|Limit|[Tt]imed out|Unable to contact|temporarily")  # of sbatch's refusals
USUAL = ("None", "Priority", "Resources", "BeginTime", "Dependency")  # to wait for
FAILED = re.compile(r"TaskFailed: exit code (-?\d+)")


class Submitted(NamedTuple):
    """A job as SLURM has it: its number, its ranks, and where submitit keeps its files."""

    number: str
    ranks: int
    folder: Path


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
        self.submitted: dict[Path, Submitted] = {}  # by run folder
        self.gone: dict[Path, float] = {}  # since when SLURM does not know a job any more
        self.answered = time.monotonic()  # when SLURM last did
        self.refused = -math.inf  # when it last took no more jobs

    def fit(self, job: Job, config: DictConfig) -> None:
        """Notes what a job needs: machines, and ranks and GPUs on each."""
        job.devices = explicit_devices(config)
        trainer = config.get("trainer")
        if trainer is not None:
            job.nodes, job.ranks = trainer.get("num_nodes", 1), trainer.devices

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Runs the jobs that wait, or only submits them."""
        waiting = [job for job in jobs if job.state is State.WAITING]
        if not waiting:
            return None
        self.known = self.states()
        make_private(root_of(self.folder))
        self.attach(waiting)
        if self.wait:
            return super().run(jobs)
        for job in waiting:
            if job.state is State.WAITING:
                self.start(job)
        return None

    def attach(self, jobs: Sequence[Job]) -> None:
        """Takes over what an earlier sweep has submitted and has not ended.

        Raises:
            ValueError: if a job is to be trained anew while the earlier one goes on.
        """
        notes = {job.folder: read_json(job.folder / "slurm.json") or {} for job in jobs}
        numbers = {folder: str(note.get("job_id")) for folder, note in notes.items()}
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(
            self.known.get(number) == "COMPLETING" for number in numbers.values()
        ):
            time.sleep(0.5)  # it is about to end, or to be queued again
            self.known = self.states()
        for job in jobs:
            note, number = notes[job.folder], numbers[job.folder]
            if self.known.get(number, "COMPLETING") == "COMPLETING":
                continue
            if any(word == "overwrite=true" for word in job.words):
                raise ValueError(
                    f"{job.folder}: SLURM job {number} is at it; scancel {number} ends it"
                )
            ranks, folder = int(note.get("ranks", 1)), Path(str(note.get("submitit_folder")))
            self.submitted[job.folder] = Submitted(number, ranks, folder)
            job.state = State.QUEUED
            log.info("attached  %s  (SLURM job %s)", job.name, number)

    def start(self, job: Job) -> None:
        """Submits a job.

        Raises:
            ValueError: if SLURM refuses the first of all.
        """
        if time.monotonic() - self.refused < RETRY:
            return
        try:
            executor = submitit.AutoExecutor(
                self.folder, cluster="slurm", slurm_max_num_timeout=self.max_num_timeout
            )
            executor.update_parameters(**self.sbatch(job))
            number = executor.submit(Task(job.words, job.folder.absolute())).job_id
        except (RuntimeError, submitit.core.utils.FailedJobError) as error:
            if self.signals:
                return  # Ctrl-C has ended sbatch, too
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = f"SLURM refuses {job.name}: {lines[-1] if lines else error}"
            if not self.submitted:
                raise ValueError(reason) from error
            if FULL.search(str(error)) and self.wait:
                if self.refused == -math.inf:
                    log.info("%s; it waits for others to end", reason)
                self.refused = time.monotonic()
            else:
                fail(job, reason)
            return
        ranks = job.nodes * job.ranks
        self.submitted[job.folder] = Submitted(number, ranks, self.folder)
        note = {"job_id": number, "ranks": ranks, "submitit_folder": str(self.folder)}
        write_json(job.folder / "slurm.json", note)
        job.state = State.QUEUED
        log.info("submitted %s  (SLURM job %s)", job.name, number)

    def sbatch(self, job: Job) -> dict[str, Any]:
        """What the job asks of SLURM."""
        asked = self.parameters | {"nodes": job.nodes, "tasks_per_node": job.ranks}
        # Never the job's name alone: where it is `bash`, Lightning takes the job for a terminal.
        name = re.sub(r"[^\w.=+-]+", "_", job.name)[:60]
        asked["name"] = f"{job.words[0]}:{name}"
        if job.devices and asked.get("gres") is None:
            asked["gpus_per_node"] = job.devices
        # A rank that fails takes the others along; and srun does not inherit a rank's cores.
        srun = ["--kill-on-bad-exit=1", f"--cpus-per-task={asked.get('cpus_per_task') or 1}"]
        asked["srun_args"] = [*srun, *(asked.get("srun_args") or [])]
        # submitit imports this file, on the node, and not that of another checkout.
        path = f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"
        asked["setup"] = [path, *(asked.get("setup") or [])]
        requeue = {"requeue": True}  # also where it is not the cluster's default
        asked["additional_parameters"] = requeue | (asked.get("additional_parameters") or {})
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

    def watch(self, jobs: Sequence[Job]) -> None:
        """Sees which jobs have begun, were queued again, and have ended."""
        try:
            self.known = self.states()
        except ValueError as error:  # its controller may be away for a while
            if time.monotonic() - self.answered > SILENCE:
                self.answered = time.monotonic()
                log.warning("%s; waiting for it", error)
            return
        self.answered = time.monotonic()
        for job in jobs:
            if job.state not in (State.QUEUED, State.RUNNING):
                continue
            number = self.submitted[job.folder].number
            state = self.known.get(number)
            if state is None:
                self.end(job)
                continue
            self.gone.pop(job.folder, None)
            reason = self.reasons.get(number, "None")
            if reason not in (*USUAL, job.note):
                job.note = reason
                log.info("waiting   %s  (SLURM job %s: %s)", job.name, number, reason)
            if state == "PENDING" and job.state is State.RUNNING:
                job.state = State.QUEUED
                log.info("requeued  %s  (SLURM job %s)", job.name, number)
            elif state in ("RUNNING", "COMPLETING") and job.state is State.QUEUED:
                begin(job, f"SLURM job {number}")

    def end(self, job: Job) -> None:
        """Marks a job as ended that SLURM does not list any more."""
        number, ranks, folder = self.submitted[job.folder]
        paths = (JobPaths(folder, number, rank).result_pickle for rank in range(ranks))
        there = [path for path in paths if path.exists()]
        foreign = [p for p in (root_of(folder), *there) if there and not is_private(p)]
        if foreign:  # unpickling runs what others may have written there
            fail(job, f"{foreign[0]}: others can write there, so the result is not read")
            return
        found = [pickle.loads(path.read_bytes()) for path in there]
        errors = [str(text) for kind, text in found if kind == "error"]
        asked = job.deadline is not None
        since = self.gone.setdefault(job.folder, time.monotonic())
        if not errors and (len(found) == ranks or has_result(job)):
            settle(job, 0)
        elif not asked and len(found) < ranks and time.monotonic() - since < PATIENCE:
            return
        elif asked:
            settle(job, 1, asked=True)
        elif code := [match for text in errors if (match := FAILED.search(text))]:
            settle(job, int(code[0].group(1)))
        else:
            reason = errors[0].strip().splitlines()[-1] if errors else "ended without a result"
            logs = display_path(str(folder).replace("%j", number))
            fail(job, f"SLURM job {number}: {reason}; its log is in {logs}")

    def stopping(self, jobs: Sequence[Job], *, impatient: bool) -> str:
        """What is said when a signal arrives."""
        if impatient:
            return "not waiting for SLURM to end them"
        return f"{super().stopping(jobs, impatient=False)} without waiting for SLURM"

    def stop(self, jobs: Sequence[Job], *, impatient: bool) -> None:
        """Cancels what is queued or runs; does not wait for SLURM if impatient."""
        for job in jobs:
            if job.state not in (State.QUEUED, State.RUNNING):
                continue
            if job.deadline is None:
                job.deadline = time.monotonic()
                subprocess.run(["scancel", self.submitted[job.folder].number], check=False)
            if impatient:
                job.state = State.STOPPED

    def give_up(self, jobs: Sequence[Job]) -> None:
        """Does not start what waits."""
        super().give_up(jobs)
        self.stop([job for job in jobs if job.state is State.QUEUED], impatient=False)


def has_result(job: Job) -> bool:
    """Whether a job has come to a result since it was submitted; an older one is another's."""
    result, note = job.folder / "result.json", job.folder / "slurm.json"
    return result.exists() and result.stat().st_mtime >= note.stat().st_mtime


def root_of(folder: Path) -> Path:
    """The folder of all of submitit's files: what stands before the job's number (`%j`)."""
    named = [part for part in (folder, *folder.parents) if "%" in part.name]
    return named[-1].parent if named else folder


def is_private(path: Path) -> bool:
    """Whether nobody but this user (and root) can write there."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, whatever the umask.

    Raises:
        ValueError: if it is there, and others could have written into it.
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


class TaskFailed(Exception):
    """A rank that ended with an error, so that SLURM ends the others."""


class Task:
    """What SLURM starts for each rank: run.py in a process of its own.

    Args:
        words: its command line.
        folder: of the run; console.log is there.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.words, self.folder = words, folder
        self.cwd, self.root = os.getcwd(), ROOT
        self.child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Runs it to its end.

        Raises:
            TaskFailed: if it failed by itself.
        """
        told: list[int] = []

        def end(number: int, _: FrameType | None) -> None:
            told.append(number)
            self.kill()

        words = self.words
        if int(os.environ.get("SLURM_RESTART_COUNT") or 0):  # it goes on with what it has begun
            words = [word for word in words if not word.startswith("overwrite=")]
        environment = {k: v for k, v in os.environ.items() if k not in RANK_VARIABLES}
        reader, _ = os.pipe()  # run.py ends with this process, which alone could write
        threads = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        environment |= {LIFELINE: str(reader), "OMP_NUM_THREADS": threads}
        before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # inherited: it would end run.py
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "console.log", "ab") as console:
            self.child = subprocess.Popen(
                [sys.executable, str(self.root / "run.py"), *words],
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
        if code and told:
            requeue_if_preempted()
        if code:
            raise TaskFailed(f"exit code {code}")
        return code

    def kill(self) -> None:
        """Ends run.py, which goes on after its last full epoch when the job is queued again.

        At once: Lightning's own answer to SIGTERM can keep ranks waiting for each other.
        """
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What SLURM starts when the job is queued again; submitit asks after SIGUSR2."""
        self.kill()
        return submitit.helpers.DelayedSubmission(Task(self.words, self.folder))


def requeue_if_preempted() -> None:
    """After SIGTERM, has SLURM queue the job again if it is preempted; waits to be ended.

    A job that ended by itself now would be a failed one. SIGTERM also comes when the job is
    cancelled, or when another rank has failed: then it is not to run again.
    """
    number = os.environ["SLURM_JOB_ID"]
    if os.environ["SLURM_PROCID"] == "0":
        command = ["scontrol", "show", "job", number]
        shown = subprocess.run(command, capture_output=True, text=True).stdout
        # A job that is cancelled is COMPLETING by now, and would come back to life.
        if "JobState=RUNNING" in shown and re.search(r"PreemptTime=\d", shown):
            subprocess.run(["scontrol", "requeue", number])
    time.sleep(GRACE)
