"""The command line around Hydra: which command, its help, and how errors are shown."""

import difflib
import importlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from commands import config
from commands.stopping import Stop
from commands.trust import import_from_here

COMMANDS = {
    "train": "trains a scorer or an enhancer (the default)",
    "evaluate": "measures a checkpoint on held-out photos",
    "enhance": "enhances photos",
    "score": "rates photos",
    "report": "compares runs in one HTML page and figures",
    "interpolate": "measures networks between two, for a curve of fidelity and score",
    "prepare": "fetches, verifies and packs data sets",
    "import_weights": "reads a scorer that others trained",
    "export": "writes a checkpoint's network as half-precision safetensors or as ONNX",
    "dashboard": "writes the W&B workspace that compares runs",
    "serve": "the web page: upload photos, enhance, rate and compare them",
}
# Hydra refuses a file of the same name as a plugin's; ours is the one whose studies go on.
RENAMED = {"hydra/sweeper=optuna": "hydra/sweeper=study"}
PLAIN_FLAGS = {"-m", "--multirun"}
VALUE_FLAGS = {  # Hydra's own flags that take a value
    "--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn",
    "--config-dir", "-cd", "--experimental-rerun", "--info", "-i",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A command line taken apart."""

    command: str
    overrides: list[str]
    flags: list[str]
    help: bool

    @property
    def is_plain(self) -> bool:
        """Whether it runs the command, rather than asking Hydra to print something."""
        return set(self.flags) <= PLAIN_FLAGS

    @property
    def is_multirun(self) -> bool:
        """Whether it is a sweep."""
        if "hydra.mode=RUN" in self.overrides:  # a job of one
            return False
        files = [word for word in self.overrides if re.match("sweep=(?!null$)", word)]
        return bool(files) or bool(set(self.flags) & PLAIN_FLAGS)


def parse(arguments: list[str]) -> Call:
    """Takes a command line apart.

    Raises:
        ValueError: for an unknown command, or a multirun with one name for all runs.
    """
    words, flags, wants_help = [], [], False
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            wants_help = True
        elif word.startswith("-"):
            flags.append(word)
            if word in VALUE_FLAGS and rest and "=" not in rest[0]:
                flags.append(rest.pop(0))
        else:
            words.append(word)
    command = "train"
    if words and re.fullmatch(r"[A-Za-z_][\w-]*", words[0]):
        command = words.pop(0)
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        listing = "\n".join(f"  {name:<16}{what}" for name, what in COMMANDS.items())
        raise ValueError(f"unknown command {command!r}{hint}; the commands are\n{listing}")
    overrides = [config.quote_path(RENAMED.get(word, word)) for word in words]
    call = Call(command, overrides, flags, wants_help)
    named = [word for word in words if re.match(r"\+*name=", word)]
    if named and call.is_multirun:
        raise ValueError(f"{named[0]} in a multirun: the runs would share one folder")
    return call


def help_text(command: str) -> str:
    """What `--help` prints: the command's own configuration file says what can be set."""
    lines = ["python run.py [command] [key=value ...]", ""]
    lines += [f"  {name:<16}{what}" for name, what in COMMANDS.items()]
    lines += ["", f"{command}: what can be set (conf/{command}.yaml)", ""]
    lines.append((config.CONF / f"{command}.yaml").read_text().rstrip())
    groups = config.group_options(command)
    if groups:
        lines += ["", "Choices (GROUP=NAME; a group's own keys are set as GROUP.KEY=VALUE):", ""]
        lines += [f"  {group:<12}{' '.join(options)}" for group, options in groups.items()]
    lines += [
        "",
        "python run.py COMMAND --help         the same for another command",
        "python run.py COMMAND --cfg job      the whole configuration that would run",
        "python run.py -m gamma=0,0.1,0.4     one run for each value; sweep=gamma: those of a file",
    ]
    return "\n".join(lines)


def refuse(error: Exception) -> int:
    """Prints what the user got wrong, without traceback; returns exit code 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {error}", file=sys.stderr)
    return 2


def job(command: str, stop: Stop) -> Callable[[DictConfig], Any]:
    """Return the function that Hydra calls with the configuration.

    Args:
        command: name of the command.
        stop: knows the signal that ends it.
    """

    def run(cfg: DictConfig) -> Any:  # noqa: ANN401
        try:
            import torch  # here, because help and most refusals do without it

            quieten()
            # float32 means float32; bf16-mixed is the fast way
            torch.backends.cudnn.allow_tf32 = False
            config.use_best(cfg)
            import_from_here(cfg)
            return getattr(importlib.import_module(f"commands.{command}"), command)(cfg)
        except KeyboardInterrupt as error:
            stop.farewell(*error.args)
            sys.exit(stop.code)
        except Exception as error:
            if stop.number is not None:  # such as that of a worker, which the signal reached too
                stop.farewell()
                sys.exit(stop.code)
            cause = user_error(error)
            if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            remove_empty(Path(HydraConfig.get().runtime.output_dir))
            sys.exit(refuse(cause))

    return run


def remove_empty(folder: Path) -> None:
    """Removes a folder that a refused command left empty, and its empty parents below here.

    A lock and a log alone are nothing: what a run has begun with is run.json.
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
    """The error to show if it is one that the user can mend; None for a bug of ours."""
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        return user_error(error.__cause__)
    if type(error).__module__.startswith("wandb."):
        return ValueError(f"W&B: {error}; logger.wandb.offline=true needs no account")
    kinds = (ValueError, OSError, MisconfigurationException, HydraException, OmegaConfBaseException)
    return error if isinstance(error, kinds) else None


def quieten() -> None:
    """Silences what Lightning says in every run and nobody needs, and all ranks but the first."""
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0):
        logging.getLogger().setLevel(logging.ERROR)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*smaller than the logging interval.*",  # an epoch of few steps is no mistake
        ".*does not have many workers.*",  # the built-in data are in memory
        ".*Checkpoint directory .* exists and is not empty.*",  # run folders are found again
        ".*Found .* module.* in eval mode.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*decompression bomb.*",  # large photos are no attack; truly huge ones are refused
        ".*`srun` command is available.*",  # a login node; hydra/launcher=slurm is the way
        ".*lr_scheduler.step.* before .*optimizer.step.*",  # after a resume; the order is right
    ):
        warnings.filterwarnings("ignore", message=message)
