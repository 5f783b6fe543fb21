"""Check the values of one complete configuration."""

import contextlib
import importlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from cli import bounds, overrides
from cli.composing import (
    composed,
    first_line,
)
from cli.mistakes import essential, sources
from configuration import signatures
from configuration.parsing import flatten
from configuration.signatures import Text, shown
from configuration.trust import import_from_here, trusted_problems
from runs.identity import derived_keys
from runs.requirements import require_folder, use_best
from system.places import expanded

FOLDER_COMMANDS = ("train", "evaluate", "interpolate")  # those with run folders
LISTS = ("logger", "callbacks")  # groups of which several options go together
# Keys that are neither among a command's `Options` nor arguments of a class.
TEXT_KEYS = {
    "scorer.checkpoint": Text(optional=True),
    "judge.checkpoint": Text(optional=True),
    "paths.output_dir": Text(optional=True),  # refused with what is needed
    "paths.data_dir": Text(),
    "paths.root": Text(),
    "paths.run_dir": Text(),
    "paths.weights": Text(),
    "paths.store": Text(optional=True),
}
# Nodes that hold settings: neither a single value nor nothing can be in their place.
NODES = (
    *("paths", "model", "data", "scorer", "judge", "trainer", "callbacks"),
    *("optim", "optim.optimizer", "optim.schedule"),
)


def check_values(command: str, words: list[str], parsed: list[Override]) -> Iterator[str]:
    """Mistakes in the values of sweeps that are too long for a configuration of each value."""
    long = [o for o in parsed if overrides.num_values(o) > overrides.FULLY_CHECKED]
    if not long:
        return
    values: Any = OmegaConf.to_container(composed(command, words), resolve=True)
    for override in long:
        key = override.key_or_group
        if key in values:
            for value in overrides.values_of(override):
                number = yaml.safe_load(value)
                yield from option_problems(command, {**values, key: number})


def option_problems(command: str, values: dict[str, Any]) -> Iterator[str]:
    """Values of a command's own keys that are of another type than its `Options` say."""
    try:
        importlib.import_module(f"commands.{command}").Options.model_validate(values)
    except ValidationError as error:
        reasons: dict[str, list[str]] = {}
        for wrong in error.errors():
            key, value = given_at(values, wrong["loc"])
            if value != "???":
                why = reasons.setdefault(f"{key}={shown(value)}", [])
                why.append(signatures.reason(wrong["msg"]))
        for setting, why in reasons.items():
            yield f"{setting}: {', or '.join(dict.fromkeys(why))}"


def given_at(values: Any, place: tuple[int | str, ...]) -> tuple[str, Any]:  # noqa: ANN401
    """The key that pydantic means by a place, and its value; names of types in it are left out."""
    parts = []
    for part in place:
        known = isinstance(values, dict) and part in values
        if not known and not (isinstance(values, list) and isinstance(part, int)):
            break
        parts.append(str(part))
        values = values[part]
    return ".".join(parts), values


def check_composed(command: str, words: list[str], *, here: bool = True) -> list[str]:
    """Mistakes of one complete configuration.

    Args:
        command: name of the command.
        words: its overrides.
        here: whether it runs on this machine.
    """
    try:
        cfg = composed(command, words)
    except ValueError as error:
        return [str(error)]
    module = importlib.import_module(f"commands.{command}")
    problems = list(node_problems(cfg))
    if problems:
        return problems
    derived = derived_keys(cfg)
    import_from_here(cfg)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        problems += [f"{key}: is required; give {key}=..." for key in missing]
        values: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        with contextlib.suppress(Exception):  # data of the wrong kind need keys that are not there
            problems += module.problems(cfg)
        return problems or [unresolved(error, cfg, derived)]
    use_best(cfg)
    problems += option_problems(command, values)
    typed = {key: value for key, value in flatten(values).items() if key not in derived}
    problems += [
        f"{key}={value}: has to be finite"
        for key, value in typed.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    for key in ("scale", "scales"):  # 2.0 and true are equal to scales, but no index
        given = cfg.get(key)
        if any(type(v) in (float, bool) for v in (given if OmegaConf.is_list(given) else [given])):
            problems.append(f"{key}={shown(given)}: should be 1, 2, 3 or 4")
    problems += bounds.number_problems(cfg)
    texts = [(key, v) for key, v in typed.items() if isinstance(v, str)]
    too_long = [text for key, value in texts for text in bounds.path_problems(key, value)]
    problems += too_long
    problems += place_problems(command, cfg) if not too_long else ()
    if isinstance(cfg.get("device"), str):
        from system.device import device_problems  # with torch, which help does without

        problems += device_problems(cfg.device, must_exist=here)
    problems += trusted_problems(cfg)
    keys = [word.partition("=")[0].lstrip("+") for word in words]
    problems += signatures.check_node("", cfg, keys)
    if "trainer" in cfg:
        problems += training_problems(cfg, sound=not problems)
    try:
        problems += [] if too_long else module.problems(cfg)
        if hasattr(module, "typed_problems") and not too_long:
            problems += module.typed_problems(cfg, words)
        if here and hasattr(module, "machine_problems"):
            problems += module.machine_problems(cfg)
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError):
        if not problems:  # else it stumbled over one of them
            raise
    return essential(problems, derived)


def unresolved(error: OmegaConfBaseException, cfg: DictConfig, derived: Mapping[str, str]) -> str:
    """Write why a configuration cannot be resolved, naming the key that was set, not its heirs."""
    key, text = str(error.full_key), first_line(error)
    failing = [source for source in sources(key, derived) if not resolves(cfg, source)]
    first = [one for one in failing if not set(failing) & set(sources(one, derived))]
    return text.replace(f"{key}: ", f"{first[0]}: ", 1) if first else text


def resolves(cfg: DictConfig, key: str) -> bool:
    """Whether the value of a key can be computed."""
    try:
        OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return False
    return True


def place_problems(command: str, cfg: DictConfig) -> Iterator[str]:
    """Mistakes in where things are read and written."""
    for key in TEXT_KEYS:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, str | None):
            yield f"{key}={shown(value)}: the name of one file or folder is needed"
    for key in ("paths.root", "paths.weights"):
        folder = OmegaConf.select(cfg, key)
        if not folder or not expanded(str(folder)).is_dir():
            yield f"{key}={folder}: no such folder"
    output = cfg.paths.output_dir
    if not output:
        yield "paths.output_dir: has to be a folder's name"
    elif command in FOLDER_COMMANDS:  # the `output` of others is what they write
        yield from require_folder("paths.output_dir", str(output))


def node_problems(cfg: DictConfig) -> Iterator[str]:
    """Values where settings are needed: optim.optimizer=null, data=3 in a file."""
    for key in NODES:
        parent, _, name = key.rpartition(".")
        holder = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(holder, DictConfig) or (name not in holder and not parent):
            continue
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, DictConfig):
            group = key.partition(".")[0]
            yield f"{key}={shown(value)}: holds settings, such as those in conf/{group}/"
    for group in LISTS:
        for key, value in (OmegaConf.select(cfg, group) or {}).items():
            if value is not None and not isinstance(value, DictConfig):
                yield f"{group}.{key}={value}: null leaves it out; else it is a class with settings"


def training_problems(cfg: DictConfig, *, sound: bool) -> Iterator[str]:
    """What a training could not allocate, or has no devices for.

    Args:
        cfg: the configuration.
        sound: whether it is without mistakes so far, so that networks can be built.
    """
    devices = cfg.trainer.get("devices")
    if not isinstance(devices, int) or devices < -1:
        yield (
            f"trainer.devices={shown(devices)}: a number is needed, or -1 for all GPUs; "
            "CUDA_VISIBLE_DEVICES=0,1 chooses which"
        )
    if cfg.trainer.get("accelerator") == "cpu" and devices == -1:
        yield "trainer.devices=-1: a number is needed, per machine: -1 stands for all GPUs"
    yield from bounds.batch_problems(cfg)
    for key in ("net", "scorer"):
        if sound and isinstance(cfg.get(key), DictConfig):
            yield from bounds.network_problems(key, cfg[key])
