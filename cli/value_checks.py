"""Check the values of one complete configuration."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from cli import bounds, overrides
from cli.composing import composed, first_line
from cli.mistakes import essential, sources
from commands import ReadsClasses, ReadsMachine, ReadsTyped, load_command
from configuration import signatures
from configuration.parsing import flatten, plain
from configuration.signatures import Text, shown
from configuration.trust import import_from_here, trusted_problems
from runs.identity import derived_keys
from runs.requirements import require_folder, use_best
from system.device import device_problems
from system.places import expanded

FOLDER_COMMANDS = ("train", "evaluate", "interpolate")  # commands with run folders
LISTS = ("logger", "callbacks", "loss")  # groups that take several options at once
# Keys that are neither among a command's `Options` nor arguments of a class.
TEXT_KEYS = {
    "scorer.checkpoint": Text(optional=True, depth=1),  # several for training
    "judge.checkpoint": Text(optional=True),
    "paths.output_dir": Text(optional=True),  # null is refused below
    "paths.data_dir": Text(),
    "paths.root": Text(),
    "paths.run_dir": Text(),
    "paths.weights": Text(),
    "paths.store": Text(optional=True),
}
# Nodes that hold settings: a single value or null cannot replace them.
NODES = (
    *("paths", "model", "data", "scorer", "judge", "trainer", "callbacks"),
    *("optim", "optim.optimizer", "optim.schedule"),
)


def check_values(command: str, words: list[str], parsed: list[Override]) -> Iterator[str]:
    """Check each value of sweeps with too many values to compose a configuration for each."""
    long = [o for o in parsed if overrides.num_values(o) > overrides.FULLY_CHECKED]
    if not long:
        return
    values = plain(composed(command, words))
    for override in long:
        key = override.key_or_group
        if key in values:
            for value in overrides.values_of(override):
                number = yaml.safe_load(str(value))
                yield from option_problems(command, {**values, key: number})


def option_problems(command: str, values: dict[str, object]) -> Iterator[str]:
    """Check a command's own keys against the types in its `Options`."""
    try:
        load_command(command).Options.model_validate(values)
    except ValidationError as error:
        reasons: dict[str, list[str]] = {}
        for wrong in error.errors():
            key, value = given_at(values, wrong["loc"])
            if value != "???":
                why = reasons.setdefault(f"{key}={shown(value)}", [])
                why.append(signatures.reason(wrong["msg"]))
        for setting, why in reasons.items():
            yield f"{setting}: {', or '.join(dict.fromkeys(why))}"


def given_at(value: object, place: tuple[int | str, ...]) -> tuple[str, object]:
    """Convert a pydantic error location to a dotted key and its value, without names of types."""
    parts = []
    for part in place:
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        if not isinstance(inner, dict) or part not in inner:
            break
        value = inner[part]
        parts.append(str(part))
    return ".".join(parts), value


def check_composed(
    command: str, words: list[str], *, here: bool = True, classes: bool = True
) -> list[str]:
    """Find the mistakes in one complete configuration.

    Args:
        command: name of the command.
        words: the overrides.
        here: whether the command runs on this machine.
        classes: whether to check against the classes of the groups as well, which takes seconds to
            import; left out after the first other mistake.
    """
    try:
        cfg = composed(command, words)
    except ValueError as error:
        return [str(error)]
    module = load_command(command)
    problems = list(node_problems(cfg))
    if problems:
        return problems
    derived = derived_keys(cfg)
    import_from_here(cfg)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        problems += [f"{key}: is required; give {key}=..." for key in missing]
        values = plain(cfg)
    except OmegaConfBaseException as error:
        with contextlib.suppress(Exception):  # data of the wrong kind refer to missing keys
            problems += module.problems(cfg)
            if isinstance(module, ReadsClasses) and not problems:
                problems += module.class_problems(cfg)
        return problems or [unresolved(error, cfg, derived)]
    use_best(cfg)
    typed = {key: value for key, value in flatten(values).items() if key not in derived}
    too_long = [
        text
        for key, value in typed.items()
        if isinstance(value, str)
        for text in bounds.path_problems(key, value)
    ]
    problems += option_problems(command, values)
    problems += scalar_problems(cfg, typed)
    problems += too_long
    problems += place_problems(command, cfg) if not too_long else ()
    if "trainer" in cfg:
        problems += training_problems(cfg)
    problems += trusted_problems(cfg)
    with tolerant(problems):
        problems += [] if too_long else module.problems(cfg)
    if classes and not problems:
        problems += class_problems(cfg, words, here=here)
        with tolerant(problems):
            if isinstance(module, ReadsClasses):
                problems += module.class_problems(cfg)
            if isinstance(module, ReadsTyped):
                problems += module.typed_problems(cfg, words)
            if here and isinstance(module, ReadsMachine):
                problems += module.machine_problems(cfg)
    return essential(problems, derived)


@contextlib.contextmanager
def tolerant(problems: list[str]) -> Iterator[None]:
    """Ignore that a check fails if an earlier mistake may be the reason."""
    try:
        yield
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError):
        if not problems:
            raise


def unresolved(error: OmegaConfBaseException, cfg: DictConfig, derived: Mapping[str, str]) -> str:
    """Write why a configuration cannot be resolved, naming the key that was set, not its heirs."""
    key, text = str(error.full_key), first_line(error)
    failing = [source for source in sources(key, derived) if not resolves(cfg, source)]
    first = [one for one in failing if not set(failing) & set(sources(one, derived))]
    return text.replace(f"{key}: ", f"{first[0]}: ", 1) if first else text


def resolves(cfg: DictConfig, key: str) -> bool:
    """Return whether the value of a key can be computed."""
    try:
        OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return False
    return True


def scalar_problems(cfg: DictConfig, typed: dict[str, object]) -> Iterator[str]:
    """Check that numbers are finite, not too large, and that scales are whole numbers."""
    for key, value in typed.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key}={value}: must be finite"
    for key in ("scale", "scales"):  # 2.0 and true equal a scale, but cannot index one
        given = cfg.get(key)
        if any(type(v) in (float, bool) for v in (given if OmegaConf.is_list(given) else [given])):
            yield f"{key}={shown(given)}: should be 1, 2, 3 or 4"
    yield from bounds.number_problems(cfg)


def class_problems(cfg: DictConfig, words: list[str], *, here: bool) -> Iterator[str]:
    """Check the device, the arguments of all classes, and that the networks can be built."""
    if isinstance(cfg.get("device"), str):
        yield from device_problems(cfg.device, must_exist=here)
    keys = [word.partition("=")[0].lstrip("+") for word in words]
    wrong = list(signatures.check_node("", cfg, keys))
    yield from wrong
    if "trainer" in cfg and not wrong:
        for key in ("net", "scorer"):
            if isinstance(cfg.get(key), DictConfig):
                yield from bounds.network_problems(key, cfg[key])
        if here:
            from runs.training_checks import term_problems

            yield from term_problems(cfg)


def place_problems(command: str, cfg: DictConfig) -> Iterator[str]:
    """Check the files and folders that are read and written."""
    for key in TEXT_KEYS:
        value = OmegaConf.select(cfg, key)
        several = isinstance(value, ListConfig) and (command, key) == ("train", "scorer.checkpoint")
        if several and all(isinstance(item, str) for item in value):
            continue
        if not isinstance(value, str | None):
            yield f"{key}={shown(value)}: must be the name of one file or folder"
    for key in ("paths.root", "paths.weights"):
        folder = OmegaConf.select(cfg, key)
        if not folder or not expanded(str(folder)).is_dir():
            yield f"{key}={folder}: no such folder"
    output = cfg.paths.output_dir
    if not output:
        yield "paths.output_dir: must be the name of a folder"
    elif command in FOLDER_COMMANDS:  # others write to `output`
        yield from require_folder("paths.output_dir", str(output))


def node_problems(cfg: DictConfig) -> Iterator[str]:
    """Find values where groups of settings are needed, such as `optim.optimizer=null`."""
    for key in NODES:
        parent, _, name = key.rpartition(".")
        holder = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(holder, DictConfig) or (name not in holder and not parent):
            continue
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, DictConfig):
            group = key.partition(".")[0]
            yield f"{key}={shown(value)}: must hold settings, such as those in conf/{group}/"
    for group in LISTS:
        for key, value in (OmegaConf.select(cfg, group) or {}).items():
            if value is not None and not isinstance(value, DictConfig):
                yield f"{group}.{key}={value}: must be null (none), or a class with its settings"


def training_problems(cfg: DictConfig) -> Iterator[str]:
    """Check the devices and the memory of a training."""
    devices = cfg.trainer.get("devices")
    if not isinstance(devices, int) or devices < -1:
        yield (
            f"trainer.devices={shown(devices)}: must be a number, or -1 for all GPUs; "
            "CUDA_VISIBLE_DEVICES=0,1 selects which"
        )
    if cfg.trainer.get("accelerator") == "cpu" and devices == -1:
        yield "trainer.devices=-1: means all GPUs; for CPUs, give the processes per machine"
    yield from bounds.batch_problems(cfg)
