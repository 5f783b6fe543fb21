"""Search with Optuna: propose trials, run them as jobs, and resume the study."""

import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import optuna
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from configuration.parsing import parse_task
from runs.naming import run_name

log = logging.getLogger(__name__)


def search(arguments: Sequence[str], config: DictConfig, launcher: Launcher) -> None:
    """Run trials until the study has `n_trials`, and print the best one.

    Args:
        arguments: the sweep's overrides; they take precedence over `hydra.sweeper.params`.
        config: the sweep's configuration. See `hydra_plugins.study_sweeper.StudySweeper` for
            `config.hydra.sweeper`.
        launcher: runs the jobs of a batch of trials.

    Raises:
        ValueError: if nothing is searched, or the storage cannot be used.
    """
    options = config.hydra.sweeper
    params = options.params or {}
    parsed = parse_task([*(f"{key}={value}" for key, value in params.items()), *arguments])
    overrides = {override.get_key_element(): override for override in parsed}
    searched = {k: distribution(o) for k, o in overrides.items() if o.is_sweep_override()}
    fixed = [str(o.input_line) for o in overrides.values() if not o.is_sweep_override()]
    if not searched and not options.custom_search_space:
        raise ValueError(
            "nothing to search: give choices a,b or ranges such as gamma=interval(0,1)"
        )
    suggest_more = load_function(options.custom_search_space)
    study = open_study(options.study_name or study_name(arguments, params), options)
    ended = enqueue_interrupted(study)
    log.info("study %s in %s", study.study_name, options.storage)
    log.info("%d of %d trials have ended", ended, options.n_trials)
    for first in range(ended, options.n_trials, options.n_jobs):
        trials = [study.ask(searched) for _ in range(min(options.n_jobs, options.n_trials - first))]
        for trial in trials:
            suggest_more(config, trial)
        jobs = [[*fixed, *(f"{k}={v}" for k, v in trial.params.items())] for trial in trials]
        num_failed = 0
        for trial, job in zip(trials, launcher.launch(jobs, initial_job_idx=first), strict=True):
            value = job.return_value if job.status is JobStatus.COMPLETED else None
            num_failed += value is None
            study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
        if num_failed > options.max_failure_rate * len(trials):
            limit = f"hydra.sweeper.max_failure_rate={options.max_failure_rate}"
            log.error("%d of %d trials failed; %s", num_failed, len(trials), limit)
            sys.exit(1)
    report_best(study, max(ended, options.n_trials), Path(config.hydra.sweep.dir))


def distribution(override: Override) -> BaseDistribution:
    """Convert a sweep override such as `gamma=interval(0,1)` to what Optuna samples from.

    Intervals and ranges include both ends. They are of integers if all their numbers are; intervals
    tagged `log` are logarithmic.

    Raises:
        ValueError: if Optuna cannot sample from it.
    """
    sweep = override.value()
    try:
        if isinstance(sweep, IntervalSweep):
            low, high, step, is_log = sweep.start, sweep.end, None, "log" in sweep.tags
        elif isinstance(sweep, RangeSweep):
            low, high, step, is_log = sweep.start, sweep.stop, sweep.step, False
        else:
            if isinstance(sweep, ChoiceSweep):
                sweep.shuffle = False  # choices of a resumed study have the same order
            choices = list(override.sweep_iterator(Transformer.encode))
            return CategoricalDistribution(cast("list[CategoricalChoiceType]", choices))
        assert low is not None
        assert high is not None
        if isinstance(low, int) and isinstance(high, int) and not isinstance(step, float):
            return IntDistribution(low, high, is_log, step or 1)
        return FloatDistribution(low, high, is_log, step)
    except (ValueError, HydraException) as error:
        raise ValueError(f"{override.input_line}: {error}") from error


def load_function(name: str | None) -> Callable[[DictConfig, optuna.Trial], None]:
    """Import `hydra.sweeper.custom_search_space`; None stands for a function without effect.

    Raises:
        ValueError: if it cannot be imported.
    """
    if name is None:
        return lambda config, trial: None
    try:
        return get_method(name)
    except (ImportError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"hydra.sweeper.custom_search_space={name}: {reason}") from error


def open_study(name: str, options: DictConfig) -> optuna.Study:
    """Load a study, or create it.

    Raises:
        ValueError: if the storage is damaged, out of reach, or was created by another version of
            Optuna.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        return optuna.create_study(
            study_name=name,
            storage=options.storage,
            sampler=instantiate(options.sampler),
            direction="maximize" if options.direction == "max" else "minimize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError) as error:
        # A storage of Optuna 2 is a RuntimeError that names the command for upgrading it.
        reason = str(error).partition("\n")[0].replace("$STORAGE_URL", shlex.quote(options.storage))
        raise ValueError(f"hydra.sweeper.storage={options.storage}: {reason}") from error


def study_name(arguments: Sequence[str], params: Mapping[str, object]) -> str:
    """Make the name of a study from its fixed and searched overrides, which it is specific to."""
    parsed = parse_task(arguments)
    fixed = [str(word.input_line) for word in parsed if not word.is_sweep_override()]
    searched = [str(word.input_line) for word in parsed if word.is_sweep_override()]
    searched += [f"{key}={value}" for key, value in params.items()]
    return " ".join([run_name(fixed, sweep=True, counted=["experiment"]), *sorted(searched)])


def enqueue_interrupted(study: optuna.Study) -> int:
    """Enqueue interrupted trials, whose runs resume; return the number of trials that ended."""
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.enqueue_trial(trial.params, user_attrs={"resumes": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)
    resumed = {trial.user_attrs.get("resumes") for trial in study.trials}
    return sum(trial.state.is_finished() and trial.number not in resumed for trial in study.trials)


def report_best(study: optuna.Study, num_trials: int, folder: Path) -> None:
    """Print the best trial, and write it to optimization_results.yaml."""
    if not study.get_trials(states=[TrialState.COMPLETE]):
        log.info("no trial has finished")
        sys.exit(1)
    best = study.best_trial
    values = " ".join(f"{key}={value}" for key, value in best.params.items())
    log.info("best of %d trials: %s  %.4f", num_trials, values, best.value)
    results = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    OmegaConf.save(OmegaConf.create(results), folder / "optimization_results.yaml")
