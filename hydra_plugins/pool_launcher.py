"""Hydra's launcher for sweeps: every job a fresh process, side by side on the devices at hand.

`python run.py -m gamma=0,0.1` and `python run.py sweep=gamma` use it. There is no `__init__.py` in
this folder: it would hide every other launcher that is installed.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class PoolLauncher(Launcher):
    """Runs the jobs of a sweep on a pool of devices.

    Args:
        jobs: on the CPU, how many run at a time.
        gpus: which GPUs, by their place among the visible ones; None is all.
        share: jobs that may use a GPU at a time.
        threads: CPU threads of each job; None shares the cores among the jobs at a time.
        on_failure: what becomes of the jobs that wait when one fails.
    """

    def __init__(
        self,
        jobs: int = 1,
        gpus: list[int] | None = None,
        share: int = 1,
        threads: int | None = None,
        on_failure: Literal["continue", "stop"] = "continue",
    ) -> None:
        self.options = {"jobs": jobs, "gpus": gpus, "share": share, "threads": threads}
        self.stop_at_failure = on_failure == "stop"

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra says what is to be run."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs one job for each list of overrides and returns their metrics."""
        # Here, because Hydra imports this file in every command.
        from commands.cli import refuse
        from commands.sweep import run_sweep
        from commands.terminal import messages

        loader: Any = self.hydra_context.config_loader
        configs = [loader.load_sweep_config(self.config, list(words)) for words in job_overrides]
        with messages():
            try:
                return run_sweep(
                    self.config.hydra.job.config_name,
                    configs,
                    stop_at_failure=self.stop_at_failure,
                    **self.options,  # type: ignore[arg-type]
                )
            except ValueError as error:
                sys.exit(refuse(error))
