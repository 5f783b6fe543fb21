"""Hydra's launchers for sweeps, which run every job as a fresh process in single-run mode.

This folder must not have an `__init__.py`: it would hide every other launcher that is installed.
"""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from sweeps.executor import Executor

OnFailure = Literal["continue", "stop"]


class ProcessLauncher(Launcher):
    """Runs the jobs of a sweep with an executor, which subclasses choose."""

    name: ClassVar[str]
    on_failure: OnFailure

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take the sweep's configuration from Hydra."""
        self.hydra_context, self.config = hydra_context, config

    @abstractmethod
    def executor(self) -> "Executor":
        """Return the executor of the jobs."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one job for each list of overrides, and return their metrics."""
        # Imported here because Hydra imports this file in every command.
        from sweeps.sweep import one_of_several_ranks, run_sweep
        from system.terminal import report_error, show_messages

        assert self.hydra_context is not None
        assert self.config is not None
        if one_of_several_ranks():
            sys.exit(
                report_error(ValueError("-m by torchrun or srun: each rank would run the sweep"))
            )
        loader = self.hydra_context.config_loader
        configs = [loader.load_sweep_config(self.config, list(words)) for words in job_overrides]
        with show_messages():
            try:
                command = self.config.hydra.job.config_name
                return run_sweep(command, self.config, configs, self.executor())
            except ImportError as error:
                hint = f"hydra/launcher={self.name}: {error}; pip install '.[{self.name}]'"
                sys.exit(report_error(ValueError(hint)))
            except (ValueError, OSError) as error:
                sys.exit(report_error(error))
            except KeyboardInterrupt:  # before the first job has started
                print("\ninterrupted; the same command resumes", file=sys.stderr)
                sys.exit(130)

    @property
    def stop_at_failure(self) -> bool:
        """Return whether a failure cancels the waiting jobs."""
        return self.on_failure == "stop"


@dataclass
class PoolLauncher(ProcessLauncher):
    """Runs jobs side by side on this machine (`sweeps.pool.PoolExecutor`)."""

    name = "pool"
    jobs: PositiveInt = 1
    gpus: list[int] | None = None
    share: PositiveInt = 1
    threads: PositiveInt | None = None
    on_failure: OnFailure = "continue"

    def executor(self) -> "Executor":
        """Return the executor of this machine."""
        from sweeps.pool import PoolExecutor, select_gpus

        return PoolExecutor(
            select_gpus(self.gpus),
            jobs=self.jobs,
            share=self.share,
            threads=self.threads,
            stop_at_failure=self.stop_at_failure,
        )


@dataclass
class RayLauncher(ProcessLauncher):
    """Runs jobs on a Ray cluster (`sweeps.ray_cluster.RayExecutor`)."""

    name = "ray"
    address: str | None = None
    threads: PositiveInt = 1
    on_failure: OnFailure = "continue"

    def executor(self) -> "Executor":
        """Return the executor of the cluster."""
        from sweeps.ray_cluster import RayExecutor

        return RayExecutor(
            address=self.address, threads=self.threads, stop_at_failure=self.stop_at_failure
        )


class SlurmLauncher(ProcessLauncher):
    """Runs jobs on a SLURM cluster (`sweeps.slurm.SlurmExecutor`).

    Keyword-only arguments are passed to sbatch, under the names of hydra-submitit-launcher.
    """

    name = "slurm"

    def __init__(
        self,
        submitit_folder: str,
        max_num_timeout: NonNegativeInt = 0,
        wait: bool = True,
        on_failure: OnFailure = "continue",
        *,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        exclude: str | None = None,
        gres: str | None = None,
        cpus_per_task: PositiveInt | None = None,
        mem_gb: PositiveInt | None = None,
        timeout_min: PositiveInt = 60,
        signal_delay_s: PositiveInt = 30,
        setup: list[str] | None = None,
        srun_args: list[str] | None = None,
        additional_parameters: dict[str, object] | None = None,
    ) -> None:
        self.on_failure = on_failure
        given = dict(locals())
        self.options = {key: given[key] for key in given.keys() - {"self", "on_failure"}}

    def executor(self) -> "Executor":
        """Return the executor of the cluster."""
        from sweeps.slurm import SlurmExecutor

        return SlurmExecutor(**self.options, stop_at_failure=self.stop_at_failure)
