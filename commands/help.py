"""What `--help` says can be set: the command's own file, with the values that would be used."""

import re
from typing import Any

import yaml
from omegaconf import OmegaConf

from commands.composing import CONF, composed, loaded
from commands.run_folder import flatten
from commands.signatures import shown

CHOICE = re.compile(r"  - (?:override )?/?(?P<key>\w+): (?P<value>\S+)(?P<gap> *)(?P<comment>#.*)?")
ENTRY = re.compile(
    r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>[^#\s].*?))?(?P<gap> *)(?P<comment>#.*)?"
)


def effective(command: str, words: list[str], folder: str | None) -> list[str]:
    """The lines of a command's file, with the values and choices of the composed configuration.

    Comments stay. The file of `train` itself says little: an experiment sets most of its values.
    What it sets beside these follows.

    Args:
        command: name of the command.
        words: `key=value` words of the command line.
        folder: of the user's own configuration files (--config-dir).

    Raises:
        ValueError: if the configuration cannot be composed.
    """
    text = (CONF / f"{command}.yaml").read_text().rstrip()
    with loaded(folder):
        cfg = composed(command, words, with_hydra=True)
        choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if "/" not in key}
        values: Any = OmegaConf.to_container(cfg, resolve=False)
    lines = []
    parents: list[str] = []
    for line in text.splitlines():
        found = CHOICE.fullmatch(line) or ENTRY.fullmatch(line)
        if found is None or found["key"] == "defaults":
            lines.append(line)
            continue
        value: Any = choices.get(found["key"], found["value"])  # lists are not among the choices
        if "indent" in found.groupdict():
            parents = [*parents[: len(found["indent"]) // 2], found["key"]]
            value = values
            for key in parents:
                value = value[key]
        given = found["value"]
        if given is None or given == value or yaml.safe_load(given) == value:
            lines.append(line)
        else:
            lines.append(with_value(line, found, shown(value)))
    if "experiment" in choices:
        lines += [
            "",
            f"Set by experiment={choices['experiment']} or the command line beside these:",
            "",
        ]
        lines += [f"  {line}" for line in beside(command, choices, values, folder)]
    return lines


def beside(
    command: str, choices: dict[str, Any], values: dict[str, Any], folder: str | None
) -> list[str]:
    """Settings of groups that are not those of the files chosen from them."""
    groups = [key for key in choices if key != "hydra" and isinstance(values.get(key), dict)]
    chosen = [f"{key}={choices[key]}" for key in groups]
    with loaded(folder):
        plain: Any = OmegaConf.to_container(composed(command, ["~experiment", *chosen]))
    own, used = (flatten({key: tree[key] for key in groups}) for tree in (plain, values))
    return [f"{key}={shown(value)}" for key, value in used.items() if own.get(key, ...) != value]


def with_value(line: str, found: re.Match[str], value: str) -> str:
    """A line with another value, its comment where it was if there is room."""
    start, comment = line[: found.start("value")], found["comment"] or ""
    gap = found.end("gap") - found.start("value") - len(value)
    return f"{start}{value}{' ' * max(gap, 2)}{comment}".rstrip()
