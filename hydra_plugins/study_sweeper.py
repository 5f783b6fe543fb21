"""Hydra's sweeper for a search by Optuna, in a study that the same command goes on with.

`hydra/sweeper=optuna` uses it. The search itself is hydra-optuna-sweeper's; here are the storage,
the number of trials over all starts, and what becomes of trials that were interrupted.
"""

import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from pydantic import PositiveInt

log = logging.getLogger(__name__)


class StudySweeper(Sweeper):
    """Searches for the values that are best by the metric that trainings are judged by.

    Args:
        direction: `max` or `min`, as `callbacks.checkpoint.mode` says.
        n_trials: of the study, over all starts of the command.
        n_jobs: trials that are chosen at a time.
        study_name: of the study; null makes it from the overrides, so that other settings have
            another one.
        storage: where it is kept, as Optuna knows places.
        sampler: one of hydra-optuna-sweeper's.
        max_failure_rate: share of the trials at a time that may fail.
        custom_search_space: a function, see hydra-optuna-sweeper.
        params: ranges and choices by key.
    """

    def __init__(
        self,
        direction: Literal["max", "min"],
        n_trials: PositiveInt,
        n_jobs: PositiveInt,
        study_name: str | None,
        storage: str,
        sampler: Any,  # noqa: ANN401
        max_failure_rate: float,
        custom_search_space: str | None,
        params: Any,  # noqa: ANN401
    ) -> None:
        self.options = {
            "direction": {"max": "maximize", "min": "minimize"}[direction],
            "n_jobs": n_jobs,
            "storage": storage,
            "sampler": sampler,
            "max_failure_rate": max_failure_rate,
            "custom_search_space": custom_search_space,
            "params": params,
            "search_space": None,  # their older name for params
        }
        self.num_trials, self.name = n_trials, study_name

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra says what is to be run."""
        self.context: dict[str, Any] = {
            "hydra_context": hydra_context,
            "task_function": task_function,
            "config": config,
        }

    def sweep(self, arguments: list[str]) -> None:
        """Runs the trials that the study lacks, and says which was the best."""
        # Here, because Hydra imports this file in every command.
        from system.locks import locked
        from system.terminal import report_error, show_messages

        folder = Path(self.context["config"].hydra.sweep.dir)
        try:
            if not self.context["config"].hydra.launcher.get("wait", True):
                raise ValueError("hydra.launcher.wait=false: a search has to see its trials end")
            # Without the lock, the trials of another search would be taken for dead ones.
            with locked(folder), show_messages():
                self.search(arguments)
        except ValueError as error:
            sys.exit(report_error(error))

    def search(self, arguments: list[str]) -> None:
        """Goes on with the study.

        Raises:
            ValueError: if the extra is missing, or the study is damaged or of other choices.
        """
        from configuration.parsing import parse_task

        try:
            import optuna
            from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
            from sqlalchemy.exc import SQLAlchemyError
        except ImportError as error:
            raise ValueError(f"hydra/sweeper=optuna: {error}; pip install '.[optuna]'") from error
        optuna.logging.set_verbosity(logging.WARNING)
        logging.getLogger("hydra_plugins.hydra_optuna_sweeper").setLevel(logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # stable since 3.0
        params = self.options["params"] or {}
        if not params and not any(word.is_sweep_override() for word in parse_task(arguments)):
            raise ValueError(
                "nothing to search: give choices a,b or ranges such as gamma=interval(0,1)"
            )
        name = self.name or study_name(arguments, params)
        storage, direction = self.options["storage"], self.options["direction"]
        try:
            study = optuna.create_study(
                study_name=name, storage=storage, direction=direction, load_if_exists=True
            )
            ended = enqueue_interrupted(study)
        except (SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"hydra.sweeper.storage={storage}: {reason}") from error
        left = max(0, self.num_trials - ended)
        log.info("study %s in %s", name, storage)
        log.info("%d of %d trials have ended", ended, self.num_trials)
        if left:
            impl = OptunaSweeperImpl(**self.options, n_trials=left, study_name=name)
            impl.setup(**self.context)
            try:
                impl.sweep(arguments)
            except ValueError:  # of a study in which every trial has failed
                if best_of(study) is not None:
                    raise
        best = best_of(study)
        if best is None:
            log.info("no trial has finished")
            sys.exit(1)
        values = " ".join(f"{key}={value}" for key, value in best.params.items())
        log.info("best of %d trials: %s  %.4f", ended + left, values, best.value)


def best_of(study: Any) -> Any:  # noqa: ANN401
    """The best trial, or None if none has finished."""
    if any(trial.state.name == "COMPLETE" for trial in study.trials):
        return study.best_trial
    return None


def study_name(arguments: Sequence[str], params: Mapping[str, Any]) -> str:
    """Name of a study: that of its jobs' folders, without what is searched, and that."""
    from configuration.parsing import parse_task
    from runs.naming import run_name

    parsed = parse_task(arguments)
    fixed = [str(word.input_line) for word in parsed if not word.is_sweep_override()]
    searched = [str(word.input_line) for word in parsed if word.is_sweep_override()]
    searched += [f"{key}={value}" for key, value in params.items()]
    return " ".join([run_name(fixed, sweep=True, counted=["experiment"]), *sorted(searched)])


def enqueue_interrupted(study: Any) -> int:  # noqa: ANN401
    """Has trials that never ended chosen again, so that their runs go on; counts those that did."""
    from optuna.trial import Trial, TrialState

    ended = 0
    for trial in study.trials:
        if trial.state is TrialState.RUNNING:
            Trial(study, trial._trial_id).set_user_attr("interrupted", True)
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)
        elif trial.state.is_finished() and not trial.user_attrs.get("interrupted"):
            ended += 1
    return ended
