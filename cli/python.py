"""Call the commands from Python, with the settings of the command line as arguments.

    from cli.python import enhance, evaluate, score, train

    result = train(experiment="sample_edsr", gamma=0.1, epochs=2)
    result = train("net.num_blocks=8", "net.num_features=32", gamma=0.1)
    result.metrics["val/psnr"], result.best

A setting whose name has a dot is a word, as on the command line, or `**{"net.num_blocks": 8}`.
Each function checks its settings as the command line does, and raises a ValueError that lists all
mistakes. Progress is logged by `logging`.
"""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from omegaconf import open_dict

from cli.command_line import complete
from cli.composing import composed, loaded
from cli.execution import execute
from cli.overrides import quoted
from lightning_modules.scoring import Rating
from runs.enhancing import Enhanced
from runs.invocation import Invocation
from runs.results import Result
from system.places import display_path

T = TypeVar("T")


def train(*words: str, config_dir: str | None = None, **settings: object) -> Result:
    """Train a scorer or an enhancer in a run folder, or read the result of a finished run.

    Args:
        words: overrides as typed on the command line, such as `data=photos`.
        config_dir: a folder of your own configuration files.
        settings: keys and values; `python run.py --help` lists them.

    Returns:
        The result, with the metrics of the best epoch and the folder.

    Raises:
        ValueError: if settings are wrong, or the folder holds another run.
    """
    return call(Result, "train", words, settings, config_dir)


def evaluate(*words: str, config_dir: str | None = None, **settings: object) -> Result:
    """Measure checkpoints on held-out photos; see `train` and `python run.py evaluate --help`.

    Returns:
        The result, with the means as `metrics` and the files written as `paths`.
    """
    return call(Result, "evaluate", words, settings, config_dir)


def enhance(*words: str, config_dir: str | None = None, **settings: object) -> list[Enhanced]:
    """Enhance image files; see `train` and `python run.py enhance --help`.

    Returns:
        One item for each photo; `problem` says why it has no result.
    """
    return call(list, "enhance", words, settings, config_dir)


def score(*words: str, config_dir: str | None = None, **settings: object) -> list[Rating]:
    """Rate image files; see `train` and `python run.py score --help`.

    Returns:
        One item for each photo; `problem` says why it has no rating.
    """
    return call(list, "score", words, settings, config_dir)


def call(
    kind: type[T],
    command: str,
    words: Sequence[str],
    settings: Mapping[str, object],
    config_dir: str | None,
) -> T:
    """Run a command and return what it made.

    Args:
        kind: type of what the command returns.
        command: name of the command.
        words: overrides as typed.
        settings: further overrides, as keys and values.
        config_dir: a folder of the user's configuration files.
    """
    typed = [*words, *(as_override(key, value) for key, value in settings.items())]
    ready = complete(command, typed, folder=config_dir)
    if ready.is_multirun:
        raise ValueError(
            "sweep=...: a function makes one run; a loop over calls, or the command line, sweeps"
        )
    ready.check()
    with loaded(ready.folder):
        cfg = composed(command, ready.overrides, with_hydra=True)
    hydra, task = cfg.hydra, copy.deepcopy(cfg)
    with open_dict(task):
        del task["hydra"]
    folder = display_path(os.path.abspath(hydra.run.dir))
    made = execute(command, task, Invocation(hydra, folder))
    if not isinstance(made, kind):
        raise ValueError(f"{command}: only the first of several ranks returns a result")
    return made


def as_override(key: str, value: object) -> str:
    """Write a setting as an override.

    Raises:
        ValueError: for an object that is no setting.
    """
    try:
        return f"{key}={as_value(value)}"
    except TypeError as error:
        raise ValueError(f"{key}: {error}") from error


def as_value(value: object) -> str:
    """Write a number, a text, a list, a dict or None as the value of an override."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else repr(value)
    if isinstance(value, str | Path):
        text = str(value)
        reserved = ("null", "true", "false", "nan", "inf")
        plain = re.fullmatch(r"[A-Za-z_]\w*", text) and text.lower() not in reserved
        return text if plain else quoted(text)
    if isinstance(value, Sequence):
        return f"[{','.join(map(as_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_value(item)}' for key, item in value.items())}}}"
    raise TypeError(f"{value!r} is not a number, a text, a list, a dict or None")
