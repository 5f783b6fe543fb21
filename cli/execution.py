"""Run a command whose settings have been checked, and show its errors."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cli.leftovers import drop_leftovers
from commands import load_command
from configuration.trust import import_from_here
from runs.invocation import Invocation
from runs.requirements import use_best
from runs.results import Result
from system.places import display_path
from system.stopping import InterruptHandler
from system.terminal import report_error


def execute(command: str, cfg: DictConfig, invocation: Invocation) -> object:
    """Run a command whose settings have been checked, and return what it made."""
    drop_leftovers(cfg, invocation.overrides)
    use_best(cfg)
    import_from_here(cfg)
    OmegaConf.set_readonly(cfg, True)  # from here on it is what was checked
    with quiet():
        return load_command(command).run(cfg, invocation)


def job(command: str, stop: InterruptHandler) -> Callable[[DictConfig], float | None]:
    """Return the function that Hydra calls with the configuration.

    It returns the monitored metric of a training, for Hydra's sweepers.

    Args:
        command: name of the command.
        stop: records the signal that ends the process.
    """

    def run(cfg: DictConfig) -> float | None:
        try:
            hydra = cast(DictConfig, HydraConfig.get())
            folder = display_path(hydra.runtime.output_dir)
            made = execute(command, cfg, Invocation(hydra, folder))
            if isinstance(made, list) and any(item.problem is not None for item in made):
                sys.exit(1)
            return made.monitored if isinstance(made, Result) else None
        except KeyboardInterrupt as error:
            stop.report(*error.args)
            sys.exit(stop.code)
        except Exception as error:
            if stop.number is not None:  # such as that of a worker, which the signal reached too
                stop.report()
                sys.exit(stop.code)
            cause = user_error(error)
            if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            remove_empty(Path(HydraConfig.get().runtime.output_dir))
            sys.exit(report_error(cause))

    return run


def remove_empty(folder: Path) -> None:
    """Remove a folder that a refused command left empty, and its empty parents below here.

    A folder with only a lock and a log counts as empty: a run begins with run.json.
    """
    if folder == Path.cwd():
        return  # commands that work on files have no folder of their own
    held = list(folder.iterdir()) if folder.is_dir() else []
    if {path.name for path in held} <= {".lock", "train.log", "evaluate.log", "interpolate.log"}:
        for path in held:
            path.unlink()
    for path in (folder, *folder.parents):
        if path == Path.cwd() or not path.is_relative_to(Path.cwd()):
            return
        try:
            path.rmdir()
        except OSError:
            return


def user_error(error: Exception) -> Exception | None:
    """Return the error to show if the user can fix it; None for a bug of ours."""
    if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        return user_error(error.__cause__)
    if type(error).__module__.startswith("wandb."):
        return ValueError(f"W&B: {error}; logger.wandb.offline=true needs no account")
    kinds = (ValueError, OSError, HydraException, OmegaConfBaseException)
    known = isinstance(error, kinds) or type(error).__name__ == "MisconfigurationException"
    return error if known else None  # the last is Lightning's


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence messages that Lightning repeats in every run, and all ranks but the first."""
    levels = {}
    if "lightning.pytorch" in sys.modules:  # imported by the checks of what needs it
        from lightning.pytorch.utilities import rank_zero_only

        levels = {"lightning.pytorch": logging.WARNING, "lightning.fabric": logging.WARNING}
        if getattr(rank_zero_only, "rank", 0):
            levels[""] = logging.ERROR
    before = {name: logging.getLogger(name).level for name in levels}
    messages = (
        ".*smaller than the logging interval.*",  # an epoch of few steps is no mistake
        ".*does not have many workers.*",  # the built-in data are in memory
        ".*Checkpoint directory .* exists and is not empty.*",  # run folders are found again
        ".*Found .* module.* in eval mode.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*decompression bomb.*",  # large photos are no attack; truly huge ones are refused
        ".*`srun` command is available.*",  # a login node; hydra/launcher=slurm is the way
        ".*lr_scheduler.step.* before .*optimizer.step.*",  # after a resume; the order is right
    )
    with warnings.catch_warnings():
        for message in messages:
            warnings.filterwarnings("ignore", message=message)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)
