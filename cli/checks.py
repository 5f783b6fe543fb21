"""Check a command's configuration before any work starts.

Three kinds: what Hydra would refuse (unknown keys, groups and options, with the nearest valid
name), what a class under construction would refuse (arguments it does not have or of another type,
read off its signature), and what the command itself refuses (its `Options` and `problems`). All
mistakes that need no class are reported at once; classes, which take seconds to import, come after.
"""

import contextlib
import re

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from cli import bounds, overrides
from cli.composing import (
    INVALID,
    all_groups,
    composed,
    first_line,
    flat_keys,
    loaded,
    option_values,
    options,
)
from cli.mistakes import key_of, raise_all
from cli.value_checks import LISTS, TEXT_KEYS, check_composed, check_values
from cli.yaml_files import searchpath_problems
from commands import load_command
from configuration import signatures
from configuration.hints import called_elsewhere, fitting, key_meant, near, nearest
from configuration.parsing import flatten, plain
from configuration.signatures import locate, shown
from configuration.source import has_argument, is_number
from system.places import CONF

OURS = ("hydra_plugins.launchers.", "hydra_plugins.study_sweeper.")
PLUGINS = ("hydra/launcher", "hydra/sweeper")


def typed(command: str, words: list[str], *, folder: str | None, sweep: bool) -> list[str]:
    """Quote the values of keys whose type is text, as `overrides.as_text` does.

    The keys are found by the types in the command's `Options` and in the signatures of the
    classes that the configuration names.
    """
    unclear = [word for word in words if "=" in word and not overrides.is_plain(word)]
    if not unclear:
        return words
    kinds = dict(TEXT_KEYS)
    fields = load_command(command).Options.model_fields
    for name, field in fields.items():
        kind = signatures.text_type(field.annotation)
        if kind is not None:
            kinds[name] = kind
    arguments = [word for word in unclear if "." in key_in(word) and key_in(word) not in TEXT_KEYS]
    if arguments:
        kinds |= class_texts(command, words, arguments, folder)
    return [overrides.as_text(word, kinds, sweep=sweep) for word in words]


def key_in(word: str) -> str:
    """Return the key of `key=value`."""
    return word.lstrip("+").partition("=")[0]


def class_texts(
    command: str, words: list[str], arguments: list[str], folder: str | None
) -> dict[str, signatures.Text]:
    """Find which of the arguments of classes are text, by the signatures of those classes.

    Classes are not imported if a key is wrong, because the call is refused anyway, as long as
    Hydra can parse it.
    """
    with loaded(folder) as loader:
        groups = all_groups(loader)
        chosen = [word for word in words if key_in(word) in groups and "," not in word]
        for attempt in (chosen, []):  # a wrong choice is reported later
            with contextlib.suppress(ValueError):
                cfg = composed(command, attempt)
                break
        else:
            return {}
    known = {*flat_keys(cfg), *groups}
    settings = [word for word in words if "=" in word and not word.startswith(("+", "hydra"))]
    wrong = any(key_in(word) not in known for word in settings)
    if wrong and all(map(overrides.parses, arguments)):
        return {}
    keys = [key_in(word) for word in arguments]
    return dict(signatures.text_arguments("", cfg, [key for key in keys if may_be_text(cfg, key)]))


def may_be_text(cfg: DictConfig, key: str) -> bool:
    """Return whether an argument can be text; False only if the source of its class says so."""
    with contextlib.suppress(Exception):  # damaged modules are reported elsewhere
        node, argument = holder(cfg, key)
        return not (isinstance(node, DictConfig) and is_number(node["_target_"], argument))
    return True


def check(
    command: str, words: list[str], *, multirun: bool = True, folder: str | None = None
) -> None:
    """Check everything that can be checked before work starts; sweeps (`a,b`) value by value.

    Raises:
        ValueError: listing all mistakes that need no class, or if there are none, all others.
    """
    problems: list[str] = []
    with loaded(folder) as loader:
        parsed = overrides.parse_overrides([*swept(command, words), *words], problems)
        if not multirun:
            problems += [
                f"{override.input_line}: several values need -m (one run each) or brackets "
                "(one list)"
                for override in parsed
                if override.is_sweep_override()
            ]
        valid = check_words(command, loader, parsed, problems)
        if multirun:
            valid = check_plugins(command, loader, valid, problems)
        here = not (multirun and on_cluster(command, words))
        wrong = {key_of(problem) for problem in problems} - {""}
        variants = list(overrides.variants(valid))

        def found(*, classes: bool) -> list[str]:
            each = [
                check_composed(command, words, here=here, classes=classes) for words in variants
            ]
            return [one for some in each for one in some if key_of(one) not in wrong]

        if problems or len(variants) > 1:  # classes take seconds to import: all else comes first
            problems += found(classes=False)
        if not problems:
            problems += found(classes=True)
        if not problems:
            problems += check_values(command, variants[0], valid)
    raise_all(problems)


def check_shown(
    command: str, words: list[str], *, folder: str | None, resolve: bool, package: str | None
) -> None:
    """Check a configuration that is only shown (--cfg, --info): it may be incomplete.

    Raises:
        ValueError: listing all mistakes.
    """
    with loaded(folder) as loader:
        valid = check_typed(command, words, loader)
        cfg = composed(command, valid, with_hydra=True)
        try:
            if package is not None and OmegaConf.select(cfg, package) is None:
                raise ValueError(f"--package {package}: no such part of the configuration")
            if resolve:
                part = cfg if package is None else OmegaConf.select(cfg, package)
                if package is None:  # Hydra's own settings are not shown
                    part = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
                if OmegaConf.is_config(part):
                    OmegaConf.to_container(part, resolve=True)
        except INVALID as error:
            raise ValueError(first_line(error)) from error


def check_typed(command: str, words: list[str], loader: ConfigLoader) -> list[str]:
    """Check keys and choices, not values; return the overrides, for a sweep those of one job."""
    problems: list[str] = []
    parsed = overrides.parse_overrides(words, problems)
    valid = check_words(command, loader, parsed, problems)
    raise_all(problems)
    return next(overrides.variants(valid))


def check_words(
    command: str, loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Drop overrides that a configuration could not be composed with."""
    if missing := list(searchpath_problems(parsed)):
        raise_all([*problems, *missing])
    valid = overrides.check_sweep(parsed, problems)
    valid = check_deleted(valid, problems)
    valid = check_groups(loader, valid, problems)
    return check_keys(command, loader, valid, problems)


def swept(command: str, words: list[str]) -> list[str]:
    """Return the overrides in a sweep's file, without those given on the command line."""
    files = [word for word in words if word.partition("=")[0] == "sweep"]
    if not files:
        return []
    try:
        params = composed(command, files, with_hydra=True).hydra.sweeper.params or {}
    except ValueError:
        return []  # reported by `check_groups`
    given = {word.partition("=")[0] for word in words}
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def check_deleted(parsed: list[Override], problems: list[str]) -> list[Override]:
    """Drop overrides that delete keys which commands need; callbacks and loggers may go."""
    wrong = [
        override
        for override in parsed
        if override.is_delete()
        and not re.match(
            r"(callbacks|logger|net|hydra|loss)\.(?!.*(_target_|\.weight))", override.key_or_group
        )
    ]
    problems += [
        f"{override.input_line}: the command needs {override.key_or_group}; only parts of "
        "callbacks, logger, net and loss can be deleted"
        for override in wrong
    ]
    return [override for override in parsed if override not in wrong]


def check_plugins(
    command: str, loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Check launcher and sweeper, and drop their overrides, which do not concern jobs."""
    for override in parsed:
        allowed = options(loader, override.key_or_group) if override.key_or_group in PLUGINS else []
        if allowed and override.value() not in allowed:
            problems.append(
                f"{override.input_line}: no such {override.key_or_group.partition('/')[2]}"
                f"{nearest(str(override.value()), allowed)}"
            )
            return [other for other in parsed if other is not override]
    chosen = [o for o in parsed if o.key_or_group in (*PLUGINS, "sweep")]
    own = [o for o in parsed if re.match(r"hydra\.(launcher|sweeper)\.", o.key_or_group)]
    rest = [o for o in parsed if o not in own]
    if not chosen and not own:
        return rest
    cfg = composed(command, [str(o.input_line) for o in chosen], with_hydra=True).hydra
    wrong = set()
    for name in ("launcher", "sweeper"):
        known = [str(key) for key in cfg[name] if key != "_target_"]
        for override in parsed:
            prefix, _, key = override.key_or_group.rpartition(".")
            if prefix == f"hydra.{name}" and key not in known and not override.is_add():
                problems.append(f"hydra.{name}.{key}: no such key{nearest(key, known)}")
                wrong.add(override.input_line)
    words = [str(o.input_line) for o in (*chosen, *own) if o.input_line not in wrong]
    try:
        cfg = composed(command, words, with_hydra=True)
    except ValueError as error:
        problems.append(str(error))
        return rest
    for name in ("launcher", "sweeper"):
        node = cfg.hydra[name]
        if str(node._target_).startswith(OURS):
            problems += signatures.check_node(f"hydra.{name}", node)
            problems += [f"hydra.{name}.{text}" for text in bounds.number_problems(node)]
    return rest


def on_cluster(command: str, words: list[str]) -> bool:
    """Return whether the jobs of a sweep run on other machines."""
    words = [word for word in words if re.match("sweep=|hydra/launcher=", word)]
    if not words:
        return False
    try:
        hydra = composed(command, words, with_hydra=True).hydra
    except ValueError:
        return False
    return hydra.runtime.choices["hydra/launcher"] in ("slurm", "ray")


def check_groups(
    loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Drop overrides that choose an option which a group does not have."""
    groups = [group for group in all_groups(loader) if group != "hydra"]
    valid = []
    for override in parsed:
        group = override.key_or_group
        if group not in groups or override.is_delete():
            valid.append(override)
            continue
        allowed = options(loader, group)
        values = overrides.values_of(override)
        key = group.replace("/", ".")
        if None in values and group not in ("debug", "sweep"):
            problems.append(f"{key}=null: choose one of {', '.join(allowed)}")
            continue
        if group == "loss" and override.value() == []:
            problems.append(f"loss=[]: choose at least one of {', '.join(allowed)}")
            continue
        if isinstance(override.value(), list) and group not in LISTS:
            listing = ",".join(map(str, values))
            problems.append(
                f"{key}=[{listing}]: only one {key} is allowed; -m {key}={listing} runs each of "
                "them"
            )
            continue
        if group in LISTS:  # a sweep has lists as text
            values = [
                name for v in values if v is not None for name in str(v).strip("[]").split(",")
            ]
        wrong = [v for v in values if v is not None and str(v) not in allowed]
        for name in wrong:
            owners = [g for g in groups if g != group and str(name) in options(loader, g)]
            meant = f"; did you mean {owners[0]}={name}?" if len(owners) == 1 else ""
            hint = meant or nearest(str(name), allowed)
            problems.append(f"{key}={shown(name)}: no such {key.rpartition('.')[2]}{hint}")
        if not wrong:
            valid.append(override)
    return valid


def check_keys(
    command: str, loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Drop overrides of keys that the configuration does not have."""
    groups = all_groups(loader)
    chosen = [o for o in parsed if o.key_or_group in groups and o.key_or_group != "hydra"]
    try:
        cfg = composed(command, [overrides.variants_of(o)[0] for o in chosen])
    except ValueError as error:
        absent = re.match(r"Could not override '(\w+)/(\w+)'", str(error))
        where = absent and f"{absent[1]}.{absent[2]}: {absent[1]} has no {absent[2]} to choose"
        problems.append(where or str(error))
        return []
    keys = list(flat_keys(cfg))
    valid = []
    for override in parsed:
        key = override.key_or_group
        added = (override.is_add() or override.is_force_add()) and takes_keys(cfg, key)
        if override.is_add() and key in keys and not OmegaConf.is_missing(*holder(cfg, key)):
            problems.append(f"+{key}: already exists; {key}=... sets it")
            continue
        if override in chosen or added or re.match("hydra[./]", key) or key in keys:
            valid.append(override)
        else:
            choices = [group for group in groups if group != "hydra" and group in cfg]
            value = override.input_line.partition("=")[2] if override.input_line else ""
            hint = key_hint(command, key, loader, keys, choices)
            known = called_elsewhere(key) or (hint and "." not in key)
            argument = None if known else argument_of(cfg, key)
            if argument is not None:
                problems.append(f"{key}: is not set yet; +{argument}={value} adds it")
                continue
            problems.append(f"{key}: no such key in {command}{fitting(hint, key, value)}")
    return valid


def holder(cfg: DictConfig, key: str) -> tuple[object, str]:
    """Return the node that holds a dotted key, and the last part of the key."""
    parent, _, name = key.rpartition(".")
    return (OmegaConf.select(cfg, parent) if parent else cfg), name


def takes_keys(cfg: DictConfig, key: str) -> bool:
    """Return whether a key can be added: an argument of a class, a callback or a logger."""
    parent, _, _ = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else None
    if node is None and parent:
        return takes_keys(cfg, parent)
    return isinstance(node, DictConfig) and ("_target_" in node or parent in LISTS)


def argument_of(cfg: DictConfig, key: str) -> str | None:
    """Find the argument of a class that a key would set, such as trainer.val_check_interval."""
    for name in (key, f"trainer.{key}"):
        parent, _, argument = name.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else None
        if isinstance(node, DictConfig) and "_target_" in node and argument not in node:
            with contextlib.suppress(Exception):  # a failed import is reported elsewhere
                found = has_argument(node["_target_"], argument)
                if found or (found is None and argument in locate(node["_target_"])[1]):
                    return name
    return None


def key_hint(
    command: str, key: str, loader: ConfigLoader, keys: list[str], groups: list[str]
) -> str:
    """Hint at the key that was meant by one that a command lacks, as the end of a message."""
    meant = key_meant(key, command, keys, groups, {})
    if meant is None or near(key, [meant]) is not None:  # rather the very name in an option
        group, _, rest = key.rpartition(".")
        asked = [group.partition(".")[0]] if rest and group else groups
        elsewhere = {
            f"{name}=[{option},...]" if name in LISTS else f"{name}={option}": (
                option_keys(name, option)
            )
            for name in asked
            if name in groups and name not in ("experiment", "sweep", "debug")
            if mentions(name, rest)
            for option in options(loader, name)
        }
        meant = key_meant(key, command, keys, groups, elsewhere)
    if meant and meant.startswith(f"{key}, which "):
        return f"; it {meant.removeprefix(f'{key}, which ')}"
    return f"; did you mean {meant}?" if meant else ""


def meant(command: str, key: str, folder: str | None) -> str | None:
    """Return the key of a command that a user meant; None if there is none."""
    with loaded(folder) as loader:
        try:
            cfg = composed(command, [])
        except ValueError:
            return None
        keys = list(flat_keys(cfg))
        groups = [group for group in loader.list_groups("") if group in cfg]
        return key if key in (*keys, *groups) else key_meant(key, command, keys, groups, {})


def mentions(group: str, key: str) -> bool:
    """Return whether a file of a group has a key, at any depth: parsing them all takes longer."""
    return any(f"{key}:" in path.read_text() for path in (CONF / group).glob("*.yaml"))


def option_keys(group: str, option: str) -> list[str]:
    """Return the dotted keys in the file of a group's option and in the files it builds on."""
    first = (CONF / group / f"{option}.yaml").read_text().partition("\n")[0]
    package = first.removeprefix("# @package ") if first.startswith("# @package ") else group
    values = plain(option_values(CONF, group, option), resolve=False)
    return [f"{package}.{key}" for key in flatten(values)]
