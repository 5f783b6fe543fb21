"""Hydra's sweeper for `hydra/sweeper=optuna`, the search in `sweeps.study`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from pydantic import Field, PositiveInt


@dataclass
class StudySweeper(Sweeper):
    """Search for the best value of the metric that selects checkpoints.

    Attributes:
        direction: `callbacks.checkpoint.mode`.
        n_trials: trials of the study, over all starts of the command.
        n_jobs: trials proposed at a time.
        study_name: null makes it from the overrides, so that other settings have another study.
        storage: URL of the study's database.
        sampler: one of `optuna.samplers`.
        max_failure_rate: the largest share of `n_jobs` trials that may fail.
        custom_search_space: dotted name of a function of the configuration and a trial, which may
            suggest more parameters.
        params: choices and ranges by key.
    """

    direction: Literal["max", "min"]
    n_trials: PositiveInt
    n_jobs: PositiveInt
    study_name: str | None
    storage: str
    sampler: DictConfig
    max_failure_rate: Annotated[float, Field(ge=0, le=1)]
    custom_search_space: str | None
    params: dict[str, object] | None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take the sweep's configuration from Hydra."""
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that the study lacks, and print the best."""
        # Imported here because Hydra imports this file in every command.
        from system.locks import locked
        from system.terminal import report_error, show_messages

        assert self.config is not None
        assert self.launcher is not None
        hydra = self.config.hydra
        try:
            from sweeps.study import search

            if not hydra.launcher.get("wait", True):
                raise ValueError("hydra.launcher.wait=false: a search waits for its trials to end")
            # Without the lock, the running trials of another search would look interrupted.
            with locked(Path(hydra.sweep.dir)), show_messages():
                search(arguments, self.config, self.launcher)
        except ImportError as error:
            missing = ValueError(f"hydra/sweeper=optuna: {error}; pip install '.[optuna]'")
            sys.exit(report_error(missing))
        except ValueError as error:
            sys.exit(report_error(error))
