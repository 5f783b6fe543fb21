"""Hydra's launchers for sweeps: every job a fresh process in single-run mode.

`python run.py -m gamma=0,0.1` and `python run.py sweep=gamma` use the first. There is no
`__init__.py` in this folder: it would hide every other launcher that is installed.
"""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

OnFailure = Literal["continue", "stop"]


class FreshProcesses(Launcher):
    """What the launchers share; each says where its jobs run."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra says what is to be run."""
        self.hydra_context, self.config = hydra_context, config

    @abstractmethod
    def place(self) -> Any:  # noqa: ANN401
        """Where the jobs run (`sweeps.pool.Place`)."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs one job for each list of overrides and returns their metrics."""
        # Here, because Hydra imports this file in every command.
        from sweeps.pool import one_of_several_ranks, run_sweep
        from system.terminal import report_error, show_messages

        if one_of_several_ranks():
            sys.exit(
                report_error(ValueError("-m by torchrun or srun: each rank would run the sweep"))
            )
        loader: Any = self.hydra_context.config_loader
        configs = [loader.load_sweep_config(self.config, list(words)) for words in job_overrides]
        with show_messages():
            try:
                command = self.config.hydra.job.config_name
                return run_sweep(command, self.config, configs, self.place())
            except (ValueError, OSError) as error:
                sys.exit(report_error(error))
            except KeyboardInterrupt:  # before the first job has started
                print("\ninterrupted; the same command goes on", file=sys.stderr)
                sys.exit(130)


class PoolLauncher(FreshProcesses):
    """Runs the jobs of a sweep side by side on this machine (`sweeps.pool.Machine`)."""

    def __init__(
        self,
        jobs: PositiveInt = 1,
        gpus: list[int] | None = None,
        share: PositiveInt = 1,
        threads: PositiveInt | None = None,
        on_failure: OnFailure = "continue",
    ) -> None:
        self.options: dict[str, Any] = {
            "jobs": jobs,
            "gpus": gpus,
            "share": share,
            "threads": threads,
            "stop_at_failure": on_failure == "stop",
        }

    def place(self) -> Any:  # noqa: ANN401
        """This machine."""
        from sweeps.pool import Machine

        return Machine(**self.options)


class RayLauncher(FreshProcesses):
    """Runs the jobs of a sweep on a Ray cluster (`sweeps.ray_cluster.RayCluster`)."""

    def __init__(
        self,
        address: str | None = None,
        threads: PositiveInt = 1,
        on_failure: OnFailure = "continue",
    ) -> None:
        self.options: dict[str, Any] = {
            "address": address,
            "threads": threads,
            "stop_at_failure": on_failure == "stop",
        }

    def place(self) -> Any:  # noqa: ANN401
        """The cluster."""
        try:
            from sweeps.ray_cluster import RayCluster
        except ImportError as error:
            raise ValueError(f"hydra/launcher=ray: {error}; pip install '.[ray]'") from error
        return RayCluster(**self.options)


class SlurmLauncher(FreshProcesses):
    """Runs the jobs of a sweep on a SLURM cluster (`sweeps.slurm.SlurmCluster`).

    What it has and that has not is sbatch's, as hydra-submitit-launcher names it.
    """

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
        additional_parameters: dict[str, Any] | None = None,
    ) -> None:
        self.options: dict[str, Any] = {
            "submitit_folder": submitit_folder,
            "max_num_timeout": max_num_timeout,
            "wait": wait,
            "stop_at_failure": on_failure == "stop",
        }
        self.options["parameters"] = {
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "exclude": exclude,
            "gres": gres,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "timeout_min": timeout_min,
            "signal_delay_s": signal_delay_s,
            "setup": plain(setup),
            "srun_args": plain(srun_args),
            "additional_parameters": plain(additional_parameters),
        }

    def place(self) -> Any:  # noqa: ANN401
        """The cluster."""
        try:
            from sweeps.slurm import SlurmCluster
        except ImportError as error:
            raise ValueError(f"hydra/launcher=slurm: {error}; pip install '.[slurm]'") from error
        return SlurmCluster(**self.options)


def plain(value: Any) -> Any:  # noqa: ANN401
    """A configuration's value without its wrapping."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
