"""Sweeps: which jobs there are to do, and their results for Hydra's sweepers."""

import copy
import json
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from configuration.parsing import parse_task
from runs.identity import not_read
from runs.naming import within
from runs.run_folder import State as Found
from runs.run_folder import decide
from runs.training import identify
from sweeps.job import Job, State, failed
from sweeps.jobs import Pool
from sweeps.table import summary
from system.places import display_path, program
from system.workers import num_cores

log = logging.getLogger(__name__)

LONG = 200  # characters; lists of more names become a number: the table has them all


class Place(Protocol):
    """Where a sweep's jobs run."""

    def fit(self, job: Job, config: DictConfig) -> None:
        """Notes on a job what it needs.

        Raises:
            ValueError: if it cannot have that here.
        """

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Runs the jobs that wait and sees them end; returns the signal that stopped them."""


class Machine:
    """This machine: its GPUs, or its CPU for jobs that do not ask for one.

    Args:
        jobs: on the CPU, how many run at a time.
        gpus: which GPUs, by their place among the visible ones; None is all.
        share: jobs that may use a GPU at a time.
        threads: CPU threads of each rank; None is what OMP_NUM_THREADS says, and without it shares
            the cores among those at a time.
        stop_at_failure: whether jobs that wait are given up when one fails.
    """

    def __init__(
        self,
        *,
        jobs: int,
        gpus: list[int] | None,
        share: int,
        threads: int | None,
        stop_at_failure: bool,
    ) -> None:
        visible = visible_gpus()
        self.gpus = visible if gpus is None else [visible[k] for k in gpus if 0 <= k < len(visible)]
        if gpus is not None and len(self.gpus) < len(gpus):
            raise ValueError(f"hydra.launcher.gpus={gpus}: {len(visible)} GPUs are visible")
        self.jobs, self.share, self.threads = jobs, share, threads
        self.stop_at_failure = stop_at_failure

    def fit(self, job: Job, config: DictConfig) -> None:
        """Notes how many GPUs a job needs, 0 if it runs on the CPU, and how many ranks it has."""
        job.devices = num_gpus(config, self.gpus)
        devices = config.trainer.devices if "trainer" in config else 1
        job.ranks = job.devices or (devices if isinstance(devices, int) and devices > 0 else 1)

    def run(self, jobs: Sequence[Job]) -> int | None:
        """Runs the jobs side by side."""
        on_gpu = any(job.devices > 0 for job in jobs)
        places = self.gpus if on_gpu else [f"cpu{k}" for k in range(self.jobs)]
        for job in jobs:
            job.devices = max(1, job.devices)
        share = self.share if on_gpu else 1
        # Each rank has as many: on GPUs one rank for each, on the CPU those of a job.
        at_a_time = len(places) * share * (1 if on_gpu else max(job.ranks for job in jobs))
        pool = Pool(
            places,
            on_gpu=on_gpu,
            share=share,
            threads=self.threads or threads_told() or max(1, num_cores() // at_a_time),
            stop_at_failure=self.stop_at_failure,
        )
        return pool.run(jobs)


def threads_told() -> int | None:
    """OMP_NUM_THREADS as a number, if it is one."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) > 0 else None


def run_sweep(
    command: str, master: DictConfig, configs: Sequence[DictConfig], place: Place
) -> list[JobReturn]:
    """Runs what is left to do of a sweep, and prints a table.

    Jobs that are equal in all that they read have one folder and are run once; finished ones are
    found, and half finished ones go on.

    Args:
        command: name of the command.
        master: the sweep's own configuration.
        configs: one for each job, as Hydra composes them.
        place: where the jobs run.

    Returns:
        For each config its metric, or that it failed.

    Raises:
        ValueError: if a folder holds what must not be touched, or a job needs more than there is.
    """
    unique: dict[Path, Job] = {}
    own: dict[Path, DictConfig] = {}
    planned = []  # a job for each config; equal ones are one
    for config in configs:
        job = plan(command, config)
        place.fit(job, config)
        planned.append(unique.setdefault(job.folder, job))
        own.setdefault(job.folder, config)
    jobs = list(unique.values())
    label(jobs, [str(word) for word in master.hydra.overrides.task])
    continued = look(command, unique, own)
    folder = display_path(Path(configs[0].hydra.sweep.dir).absolute())
    log.info("%s in %s", "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs", folder)
    if len(planned) > len(jobs):
        log.info(
            "%d of the %d combinations are equal to another in all that they read: run once",
            len(planned) - len(jobs),
            len(planned),
        )
    finished = [job for job in jobs if job.state is State.FOUND]
    for what, found in (("finished already", finished), ("to be continued", continued)):
        if found:
            listed = ", ".join(job.name for job in found)
            log.info("%s: %s", what, listed if len(listed) <= LONG else f"{len(found)} jobs")
    stopped_by = place.run(jobs)
    if stopped_by is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left that it could stop
    log.info("\n%s", summary(jobs))
    if command == "train" and any(job.state in (State.DONE, State.FOUND) for job in jobs):
        log.info("to compare them: %s report %s", program(), shlex.quote(f"runs={folder}"))
    if stopped_by is not None:
        log.info("interrupted; the same command goes on")
        sys.exit(128 + stopped_by)
    grid = "BasicSweeper" in master.hydra.sweeper._target_
    given_up = any(job.state is State.STOPPED for job in jobs)  # by on_failure=stop
    if given_up or (grid and failed(planned)):
        sys.exit(1)
    return [outcome(job, config) for job, config in zip(planned, configs, strict=True)]


def one_of_several_ranks() -> bool:
    """Whether torchrun or srun has started this process and others of the same kind.

    A batch script of SLURM has the number of tasks in its environment, too, but is one process.
    """
    return max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")) > 1


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES would name them."""
    num = torch.cuda.device_count()
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[:num] if names else [str(k) for k in range(num)]


def plan(command: str, config: DictConfig) -> Job:
    """The job of a configuration: its command line and its folder."""
    sweep = Path(config.hydra.sweep.dir).absolute()
    folder = sweep / config.hydra.sweep.subdir
    unread = not_read(config)
    given = [str(word) for word in config.hydra.overrides.task]
    keys = [override.key_or_group for override in parse_task(given)]
    task = [word for word, key in zip(given, keys, strict=True) if not within(key, unread)]
    places = [f"hydra.run.dir={quoted(folder)}", f"hydra.sweep.dir={quoted(sweep)}"]
    own = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    flags = [f"--config-dir={path}" for path in own]
    words = [command, *task, "hydra.mode=RUN", *places, *flags]
    return Job(words, display_path(folder))


def quoted(path: Path) -> str:
    """A path as the value of an override, whatever its characters."""
    return '"{}"'.format(str(path).replace("\\", "\\\\").replace('"', '\\"'))


def num_gpus(config: DictConfig, gpus: Sequence[str]) -> int:
    """How many GPUs of this machine a job needs; 0 if it runs on the CPU.

    Raises:
        ValueError: if it needs more than there are, or several machines.
    """
    trainer = config.get("trainer")
    one_machine(config)
    if trainer is None:
        return int(bool(gpus)) if config.get("device") == "auto" else explicit_devices(config)
    if trainer.accelerator != "gpu":
        return 0
    asked = trainer.devices
    needed = asked if isinstance(asked, int) and asked > 0 else len(gpus)
    if needed > len(gpus) or not gpus:
        raise ValueError(f"trainer.devices={asked}: the sweep has {len(gpus)} GPUs")
    return int(needed)


def explicit_devices(config: DictConfig) -> int:
    """How many GPUs a job needs on each of its machines, which this one knows nothing of.

    Commands that measure get one by `device=cuda`.

    Raises:
        ValueError: if it takes all that there are, or names one.
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


def one_machine(config: DictConfig) -> None:
    """Refuses jobs of several machines.

    Raises:
        ValueError: with the remedy.
    """
    num_nodes = config.trainer.get("num_nodes", 1) if "trainer" in config else 1
    if num_nodes != 1:
        raise ValueError(
            f"trainer.num_nodes={num_nodes}: this launcher's jobs have one machine each; "
            "hydra/launcher=slurm, or torchrun for a single job"
        )


def label(jobs: Sequence[Job], given: Sequence[str]) -> None:
    """Names jobs by the overrides in which they differ.

    Args:
        jobs: of the sweep.
        given: the sweep's overrides; those of one value are in all its jobs.
    """
    shared = set(given)
    if len(jobs) > 1:
        shared |= set.intersection(*(set(job.words) for job in jobs))
    for job in jobs:
        own = [word for word in job.words[1:] if word not in shared]
        own = [word for word in own if not word.startswith(("hydra.", "hydra/", "--"))]
        name = job.folder.name
        # A group, a key, an addition (+) or a deletion (~); what is deleted has no value.
        for word in own:
            key, _, value = word.partition("=")
            job.differs[key.lstrip("+")] = value or "deleted"
        job.name = " ".join(own) or (name if len(name) <= 40 else f"{name[:30]}...{name[-8:]}")


def look(command: str, jobs: dict[Path, Job], configs: dict[Path, DictConfig]) -> list[Job]:
    """Looks what the folders hold already.

    Args:
        command: name of the command.
        jobs: by their folders; finished ones are marked.
        configs: of the jobs.

    Returns:
        The jobs that go on where they were interrupted.

    Raises:
        ValueError: if any folder holds what must not be touched; lists them all.
    """
    if command != "train":
        return []  # the jobs look by themselves
    problems: list[str] = []
    continued: list[Job] = []
    fingerprints: dict[str, str] = {}
    for folder, job in jobs.items():
        cfg = task_config(configs[folder])
        key = json.dumps(OmegaConf.to_container(cfg.data, resolve=True))
        if key not in fingerprints:  # packs the data before several jobs would
            fingerprints[key] = instantiate(cfg.data, _convert_="all").fingerprint()
        options = {name: cfg[name] for name in ("resume", "overwrite", "stale")}
        try:
            found = decide(folder, identify(cfg, fingerprints[key]), **options)
        except ValueError as error:
            problems.append(str(error))
            continue
        if found is Found.FINISHED:
            job.state = State.FOUND
        elif found is Found.CONTINUE:
            continued.append(job)
    if problems:
        raise ValueError("\n  ".join(problems))
    return continued


def task_config(config: DictConfig) -> DictConfig:
    """What a job's command is given: the configuration without Hydra's own."""
    cfg = copy.deepcopy(config)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    return cfg


def outcome(job: Job, config: DictConfig) -> JobReturn:
    """What a sweeper is told of a job."""
    done = job.state in (State.DONE, State.FOUND, State.QUEUED)
    value: Any = RuntimeError(f"{job.name}: {job.note or job.state}")
    if done:
        metric = job.metric()
        value = metric[1] if metric else None
    return JobReturn(
        overrides=list(config.hydra.overrides.task),
        cfg=task_config(config),
        working_dir=str(job.folder),
        task_name=config.hydra.job.name,
        status=JobStatus.COMPLETED if done else JobStatus.FAILED,
        _return_value=value,
    )
