"""Run a sweep: plan its jobs, skip the finished ones, run the others, and report to Hydra."""

import copy
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from configuration.parsing import parse_task
from runs.identity import not_read
from runs.naming import within
from runs.run_folder import State as RunState
from runs.run_folder import decide
from runs.training import identify, with_scorer
from sweeps.executor import Executor
from sweeps.job import Job, JobState, in_state
from sweeps.pool import is_running
from sweeps.table import summary
from system.places import display_path, program

log = logging.getLogger(__name__)

MAX_LISTED = 200  # characters; longer lists of jobs are only counted, as the table has them all


def run_sweep(
    command: str, master: DictConfig, configs: Sequence[DictConfig], executor: Executor
) -> list[JobReturn]:
    """Run what is left of a sweep, and print a table.

    Jobs that differ only in settings they do not use share a folder and are run once. Finished jobs
    are not run again, interrupted ones resume, and those that another sweep is running are left to
    it.

    Args:
        command: name of the command.
        master: the sweep's own configuration.
        configs: one for each job, as Hydra composes them.
        executor: runs the jobs.

    Returns:
        For each configuration its metric or failure.

    Raises:
        ValueError: if a folder holds another run, or a job needs more than there is.
    """
    jobs: dict[Path, Job] = {}
    distinct: dict[Path, DictConfig] = {}
    planned = []  # a job for each configuration; equal ones are one
    for config in configs:
        job = plan_job(command, config)
        executor.set_resources(job, config)
        planned.append(jobs.setdefault(job.folder, job))
        distinct.setdefault(job.folder, config)
    todo = list(jobs.values())
    name_jobs(todo, [str(word) for word in master.hydra.overrides.task])
    for job in todo:
        if is_running(job):
            job.state = JobState.ELSEWHERE
    resumed = check_run_folders(todo, distinct) if command == "train" else []
    folder = display_path(Path(configs[0].hydra.sweep.dir).absolute())
    announce(folder, todo, resumed, num_combinations=len(configs))
    stopped_by = executor.run(todo)
    if stopped_by is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left that it could stop
    log.info("\n%s", summary(todo))
    if command == "train" and in_state(todo, JobState.DONE, JobState.ALREADY_DONE):
        log.info("to compare them: %s report %s", program(), shlex.quote(f"runs={folder}"))
    if stopped_by is not None:
        log.info("interrupted; the same command resumes")
        sys.exit(128 + stopped_by)
    is_grid = "BasicSweeper" in master.hydra.sweeper._target_
    incomplete = in_state(todo, JobState.FAILED, JobState.ELSEWHERE)
    if in_state(todo, JobState.STOPPED) or (is_grid and incomplete):
        sys.exit(1)
    return [job_return(job, config) for job, config in zip(planned, configs, strict=True)]


def announce(
    folder: Path, jobs: Sequence[Job], resumed: Sequence[Job], *, num_combinations: int
) -> None:
    """Print how many jobs there are, and which of them do not start anew."""
    log.info("%s in %s", "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs", folder)
    if num_combinations > len(jobs):
        log.info(
            "%d of %d combinations differ from others only in settings that they do not use: "
            "run once",
            num_combinations - len(jobs),
            num_combinations,
        )
    for what, found in (
        ("finished already", in_state(jobs, JobState.ALREADY_DONE)),
        ("running elsewhere, left alone", in_state(jobs, JobState.ELSEWHERE)),
        ("to be continued", resumed),
    ):
        if found:
            names = ", ".join(job.name for job in found)
            log.info("%s: %s", what, names if len(names) <= MAX_LISTED else f"{len(found)} jobs")


def one_of_several_ranks() -> bool:
    """Return whether torchrun or srun has started this process and others of its kind.

    A batch script of SLURM also has the number of tasks in its environment, but is one process.
    """
    return max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")) > 1


def plan_job(command: str, config: DictConfig) -> Job:
    """Make the job of a configuration: its command line and folder."""
    sweep = Path(config.hydra.sweep.dir).absolute()
    folder = sweep / config.hydra.sweep.subdir
    unused = not_read(config)
    given = [str(word) for word in config.hydra.overrides.task]
    keys = [override.key_or_group for override in parse_task(given)]
    task = [word for word, key in zip(given, keys, strict=True) if not within(key, unused)]
    folders = [f"hydra.run.dir={quoted(folder)}", f"hydra.sweep.dir={quoted(sweep)}"]
    sources = config.hydra.runtime.config_sources
    flags = [f"--config-dir={s.path}" for s in sources if s.provider == "command-line"]
    return Job([command, *task, "hydra.mode=RUN", *folders, *flags], display_path(folder))


def quoted(path: Path) -> str:
    """Quote a path as the value of an override, whatever its characters."""
    return '"{}"'.format(str(path).replace("\\", "\\\\").replace('"', '\\"'))


def name_jobs(jobs: Sequence[Job], given: Sequence[str]) -> None:
    """Name jobs by the overrides in which they differ.

    Args:
        jobs: all jobs of the sweep.
        given: the sweep's overrides; those with one value are common to all jobs.
    """
    common = set(given)
    if len(jobs) > 1:
        common |= set.intersection(*(set(job.arguments) for job in jobs))
    for job in jobs:
        own = [word for word in job.arguments[1:] if word not in common]
        own = [word for word in own if not word.startswith(("hydra.", "hydra/", "--"))]
        name = job.folder.name
        # A group, a key, an addition (+) or a deletion (~); what is deleted has no value.
        for word in own:
            key, _, value = word.partition("=")
            job.settings[key.lstrip("+")] = value or "deleted"
        job.name = " ".join(own) or (name if len(name) <= 40 else f"{name[:30]}...{name[-8:]}")


def check_run_folders(jobs: Sequence[Job], configs: dict[Path, DictConfig]) -> list[Job]:
    """Mark the jobs that are already done, and return those that resume.

    Args:
        jobs: trainings.
        configs: their configurations by folder.

    Raises:
        ValueError: listing all folders that hold another run.
    """
    problems: list[str] = []
    resumed: list[Job] = []
    fingerprints: dict[str, str] = {}
    for job in in_state(jobs, JobState.WAITING):
        cfg = with_scorer(task_config(configs[job.folder]))
        key = json.dumps(OmegaConf.to_container(cfg.data, resolve=True))
        if key not in fingerprints:  # packs the data before several jobs would
            fingerprints[key] = instantiate(cfg.data, _convert_="all").fingerprint()
        options = {name: cfg[name] for name in ("resume", "overwrite", "stale")}
        try:
            state = decide(job.folder, identify(cfg, fingerprints[key]), **options)
        except ValueError as error:
            problems.append(str(error))
            continue
        if state is RunState.FINISHED:
            job.state = JobState.ALREADY_DONE
        elif state is RunState.CONTINUE:
            resumed.append(job)
    if problems:
        raise ValueError("\n  ".join(problems))
    return resumed


def task_config(config: DictConfig) -> DictConfig:
    """Return a copy of the configuration without Hydra's own part, as commands get it."""
    cfg = copy.deepcopy(config)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def job_return(job: Job, config: DictConfig) -> JobReturn:
    """Return the result of a job as Hydra's sweepers expect it."""
    completed = job.state in (JobState.DONE, JobState.ALREADY_DONE, JobState.QUEUED)
    metric = job.metric() if completed else None
    error = RuntimeError(f"{job.name}: {job.note or job.state}")
    return JobReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=task_config(config),
        working_dir=str(job.folder),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if completed else JobStatus.FAILED,
        _return_value=(metric and metric[1]) if completed else error,
    )
