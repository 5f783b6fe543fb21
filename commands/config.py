"""Checks a command's configuration before any work starts, and finds all its mistakes at once.

Three kinds: what Hydra would refuse (unknown keys, groups and options, with the nearest valid
name), what a class under construction would refuse (arguments it does not have or of another type,
read off its signature), and what the command itself refuses (its `Options` and `problems`).
"""

import contextlib
import difflib
import importlib
import inspect
import math
import os
import re
import tempfile
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from commands.run_folder import BEST, flatten, not_read, run_name, trained_scorer
from commands.trust import import_from_here, trusted_problems

RESOLVING = "raised while resolving interpolation: "  # how OmegaConf begins its message
ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
FOLDER_COMMANDS = ("train", "evaluate", "interpolate")  # those with run folders
OURS = ("hydra_plugins.launchers.", "hydra_plugins.study_sweeper.")
PATH_KEYS = (
    *(
        "input",
        "output",
        "checkpoint",
        "scorer.checkpoint",
        "judge.checkpoint",
        "init_from",
        "root",
        "ratings",
        "store",
        "sheet",
        "runs",
    ),
    *("paths.output_dir", "paths.data_dir", "paths.store", "data.root", "data.store"),
    *("data.train_hr", "data.val_hr", "data.train_lr", "data.val_lr"),
    *("data.images", "data.ratings", "data.train_list", "data.val_list", "data.test_list"),
    *("scorer.pretrained",),
)
# Where a run folder stands for its best checkpoint.
CHECKPOINT_KEYS = (
    "checkpoint",
    "checkpoints",
    "scorer.checkpoint",
    "judge.checkpoint",
    "init_from",
)

OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("run_name", lambda task: run_name(task), replace=True)


def sweep_name(task: list[str], *, _root_: DictConfig) -> str:
    """Name of a sweep's job, made from what it reads of the overrides.

    The experiment counts where the sweep is not named after it.
    """
    counted = ["experiment"] if chosen_sweep(_root_) else []
    return run_name(task, sweep=True, unread=not_read(_root_), counted=counted)


def chosen_sweep(root: DictConfig) -> str | None:
    """The file that says what is swept."""
    name = root.hydra.runtime.choices.get("sweep")
    return None if name in (None, "null") else str(name)


def sweep_group(*, _root_: DictConfig) -> str:
    """Name of a sweep: that of its file, or of the experiment."""
    return chosen_sweep(_root_) or str(_root_.hydra.runtime.choices.experiment)


def scorer_of_sweep(sweep: str, *, _root_: DictConfig) -> str | None:
    """The scorer of the chosen backbone that a sweep has trained; None where they are trained."""
    if str(_root_.model._target_).endswith(".NIMAModule"):
        return None
    folder = Path(str(_root_.paths.output_dir)).expanduser() / "sweeps" / sweep
    return trained_scorer(folder, str(_root_.scorer.backbone))


OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("sweep_group", sweep_group, replace=True)
OmegaConf.register_new_resolver("scorer_of_sweep", scorer_of_sweep, replace=True)


def quote_path(text: str) -> str:
    """Quotes the value of a path key, so that spaces, commas and `=` in file names are no syntax.

    Only where it is needed: the file exists under that very name, or Hydra could not parse it.
    """
    key, equals, value = text.partition("=")
    if not equals or key.lstrip("+") not in PATH_KEYS or value[:1] in ("'", '"'):
        return text
    if value.startswith("~"):  # shells expand it only at the start of a word
        value = os.path.expanduser(value)
        text = f"{key}={value}"
    odd = re.search(r"[^\w./-]", value, re.ASCII)
    if odd and (Path(value).expanduser().exists() or not parses(text)):
        escaped = value.replace('"', '\\"').replace("${", "\\${")
        return f'{key}="{escaped}"'
    return text


def parses(text: str) -> bool:
    """Whether Hydra can parse an override."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def check(command: str, overrides: list[str], *, multirun: bool = True) -> None:
    """Checks everything that can be checked before work starts.

    Args:
        command: name of the command.
        overrides: `key=value` words of the command line; sweeps (`a,b`) are checked per value.
        multirun: whether there may be any.

    Raises:
        ValueError: listing all mistakes.
    """
    problems: list[str] = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed = parse_overrides([*swept(command, overrides), *overrides], problems)
        if not multirun:
            problems += [
                f"{override.input_line}: several values need -m, for one run each, or brackets, "
                "for a list"
                for override in parsed
                if override.is_sweep_override()
            ]
        valid = check_groups(loader, parsed, problems)
        valid = check_keys(command, loader, valid, problems)
        if multirun:
            valid = check_plugins(command, loader, valid, problems)
        here = not (multirun and on_cluster(command, overrides))
        for words in variants(valid):
            problems += check_composed(command, words, here=here)
    if problems:
        unique = list(dict.fromkeys(problems))
        raise ValueError(unique[0] if len(unique) == 1 else "\n  ".join([
            f"{len(unique)} mistakes in the configuration:", *unique
        ]))  # fmt: skip


def swept(command: str, overrides: list[str]) -> list[str]:
    """The overrides that a sweep's file stands for, less those that the command line gives."""
    files = [word for word in overrides if word.partition("=")[0] == "sweep"]
    if not files:
        return []
    try:
        params = compose(command, files, return_hydra_config=True).hydra.sweeper.params or {}
    except (HydraException, OmegaConfBaseException):
        return []  # `check_groups` says what there is
    given = {word.partition("=")[0] for word in overrides}
    return [f"{key}={value}" for key, value in params.items() if key not in given]


def check_plugins(
    command: str, loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Checks the launcher and the sweeper; drops their overrides, which are not a job's."""
    groups = ("hydra/launcher", "hydra/sweeper")
    for override in parsed:
        allowed = options(loader, override.key_or_group) if override.key_or_group in groups else []
        if allowed and override.value() not in allowed:
            problems.append(
                f"{override.input_line}: no such {override.key_or_group.partition('/')[2]}"
                f"{nearest(str(override.value()), allowed)}"
            )
            return [other for other in parsed if other is not override]
    chosen = [o for o in parsed if o.key_or_group in (*groups, "sweep")]
    cfg = compose(command, [str(o.input_line) for o in chosen], return_hydra_config=True).hydra
    wrong = set()
    for name in ("launcher", "sweeper"):
        known = [str(key) for key in cfg[name] if key != "_target_"]
        for override in parsed:
            prefix, _, key = override.key_or_group.rpartition(".")
            if prefix == f"hydra.{name}" and key not in known and not override.is_add():
                problems.append(f"hydra.{name}.{key}: no such key{nearest(key, known)}")
                wrong.add(override.input_line)
    own = [o for o in parsed if re.match(r"hydra\.(launcher|sweeper)\.", o.key_or_group)]
    words = [str(o.input_line) for o in (*chosen, *own) if o.input_line not in wrong]
    try:
        cfg = compose(command, words, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(str(error).partition("\n")[0])
        return [o for o in parsed if o not in own]
    for name in ("launcher", "sweeper"):
        if str(cfg.hydra[name]._target_).startswith(OURS):
            problems += check_node(f"hydra.{name}", cfg.hydra[name])
    return [o for o in parsed if o not in own]


def on_cluster(command: str, overrides: list[str]) -> bool:
    """Whether the jobs of a sweep run on other machines than this one."""
    words = [word for word in overrides if re.match("sweep=|hydra/launcher=", word)]
    try:
        hydra = compose(command, words, return_hydra_config=True).hydra
    except (HydraException, OmegaConfBaseException):
        return False
    return hydra.runtime.choices["hydra/launcher"] in ("slurm", "ray")


def group_options(command: str) -> dict[str, list[str]]:
    """The groups that a command's configuration chooses from, with their options."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        text = (CONF / f"{command}.yaml").read_text()
        names = re.findall(r"^  - (?:override )?/?(\w+):", text, flags=re.MULTILINE)
        hidden = ("paths", "hydra")
        return {name: options(loader, name) for name in names if name not in hidden}


def options(loader: ConfigLoader, group: str) -> list[str]:
    """What a group offers to users."""
    names = loader.get_group_options(group, ObjectType.CONFIG)
    return [name for name in names if not name.startswith("_")]


def nearest(name: str, names: list[str]) -> str:
    """Hint at the most similar valid name, or all of them if they are few."""
    near = difflib.get_close_matches(name, names, 1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; allowed are {', '.join(names)}" if len(names) <= 12 else ""


def parse_overrides(overrides: list[str], problems: list[str]) -> list[Override]:
    """Parses each word; what cannot be parsed becomes a problem."""
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            problems.append(f"{text!r} is not of the form key=value")
            continue
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            problems.append(
                f"{text!r} cannot be parsed; a value with spaces, commas, brackets or = needs "
                "quotes within quotes: 'key=\"value\"'"
            )
    return parsed


def values_of(override: Override) -> list[Any]:
    """The values that an override gives, one if it is no sweep, the ends if it is an interval."""
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        return [interval.start, interval.end]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    value = override.value()
    return value if isinstance(value, list) else [value]


def check_groups(
    loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Drops overrides that choose an option which a group does not have."""
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    valid = []
    for override in parsed:
        group = override.key_or_group
        if group not in groups or override.is_delete():
            valid.append(override)
            continue
        allowed = options(loader, group)
        if None in values_of(override) and group != "debug":
            problems.append(f"{group}=null: choose one of {', '.join(allowed)}")
            continue
        wrong = [v for v in values_of(override) if v is not None and str(v) not in allowed]
        problems += [
            f"{group}={name}: no such {group}{nearest(str(name), allowed)}" for name in wrong
        ]
        if not wrong:
            valid.append(override)
    return valid


def check_keys(
    command: str, loader: ConfigLoader, parsed: list[Override], problems: list[str]
) -> list[Override]:
    """Drops overrides of keys that the configuration does not have."""
    groups = loader.list_groups("")
    chosen = [o for o in parsed if o.key_or_group in groups and o.key_or_group != "hydra"]
    try:
        cfg = compose(command, [first_variant(o) for o in chosen])
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(str(error).partition("\n")[0])
        return []
    keys = list(flat_keys(cfg))
    valid = []
    for override in parsed:
        key = override.key_or_group
        added = override.is_add() or override.is_force_add()
        known = override in chosen or (added and "." in key)  # classes refuse what they lack
        if known or re.match("hydra[./]", key) or key in keys:
            valid.append(override)
        else:
            names = keys + [g for g in groups if g != "hydra"]
            problems.append(f"{key}: no such key in {command}{nearest(key, names)}")
    return valid


def flat_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys, inner nodes too."""
    for key in cfg:
        name = f"{prefix}{key!s}"
        yield name
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from flat_keys(child, f"{name}.")


def first_variant(override: Override) -> str:
    """An override with the first value of its sweep, as text."""
    return variants_of(override)[0]


def variants_of(override: Override) -> list[str]:
    """An override once for each value of its sweep, as text."""
    if override.is_sweep_override():
        key = override.get_key_element()
        return [f"{key}={value}" for value in map(str, values_of(override))]
    assert override.input_line is not None
    return [override.input_line]


def variants(parsed: list[Override]) -> list[list[str]]:
    """Override lists in which every value of every sweep appears (a sum, not the product)."""
    all_variants = [variants_of(override) for override in parsed]
    first = [words[0] for words in all_variants]
    others = [
        [*first[:i], word, *first[i + 1 :]]
        for i, words in enumerate(all_variants)
        for word in words[1:]
    ]
    return [first, *others]


def check_composed(command: str, words: list[str], *, here: bool = True) -> list[str]:
    """Mistakes of one complete configuration.

    Args:
        command: name of the command.
        words: its overrides.
        here: whether it runs on this machine.
    """
    try:
        cfg = compose(command, words)
    except (HydraException, OmegaConfBaseException) as error:
        return [str(error).partition("\n")[0]]
    problems: list[str] = []
    import_from_here(cfg)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        problems += [f"{key}: is required; give {key}=..." for key in missing]
        values = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        with contextlib.suppress(Exception):  # data of the wrong kind need keys that are not there
            problems += importlib.import_module(f"commands.{command}").problems(cfg)
        message = str(error).partition("\n")[0]
        return problems or [message.removeprefix(f"ValueError {RESOLVING}")]
    use_best(cfg)
    module = importlib.import_module(f"commands.{command}")
    try:
        module.Options.model_validate(values)
    except ValidationError as error:
        problems += [
            f"{'.'.join(map(str, e['loc']))}={shown(e['input'])}: {reason(e['msg'])}"
            for e in error.errors()
            if e["input"] != "???"
        ]
    problems += [
        f"{key}={value}: has to be finite"
        for key, value in flatten(values).items()
        if isinstance(value, float) and not math.isfinite(value)
    ]
    if isinstance(cfg.get("scale"), float):  # 2.0 is 2 to pydantic, but no index
        problems.append(f"scale={cfg.scale}: should be 1, 2, 3 or 4")
    if command not in FOLDER_COMMANDS:
        pass  # its `output` is what it writes
    elif not cfg.paths.output_dir:
        problems.append("paths.output_dir: has to be a folder's name")
    else:
        problems += require_folder("paths.output_dir", cfg.paths.output_dir)
    problems += trusted_problems(cfg)
    problems += check_node("", cfg)
    try:
        problems += module.problems(cfg)
        if hasattr(module, "typed_problems"):
            problems += module.typed_problems(cfg, words)
        if here and hasattr(module, "machine_problems"):
            problems += module.machine_problems(cfg)
    except (OmegaConfBaseException, TypeError, ValueError, AttributeError):
        if not problems:  # else it stumbled over one of them
            raise
    return problems


def shown(value: Any) -> str:  # noqa: ANN401
    """A value as the user would type it."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def reason(message: str) -> str:
    """Pydantic's message as the second half of a sentence."""
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]


def check_node(path: str, node: Any) -> Iterator[str]:  # noqa: ANN401
    """Compares nodes that have a `_target_`, at any depth, with what their classes take.

    Interpolated values are passed over: they are checked where they come from.
    """
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
        return
    keys = [key for key in node if isinstance(key, str)]  # arguments have no other names
    keys = [key for key in keys if not OmegaConf.is_interpolation(node, key)]
    keys = [key for key in keys if not OmegaConf.is_missing(node, key)]
    prefix = f"{path}." if path else ""
    for key in keys:
        yield from check_node(f"{prefix}{key}", node[key])
    if "_target_" not in keys:
        return
    try:
        target, parameters = locate(node["_target_"])
    except Exception as error:  # a module of the user's own may raise anything
        yield f"{prefix}_target_={node['_target_']}: cannot be imported ({error})"
        return
    special = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}
    if path == "trainer":
        special.add("precision")  # the command says which
    if path == "scorer":
        special.add("checkpoint")  # read by the command, not by the network
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or not parameters
    for key in keys:
        if key in special:
            continue
        if key not in parameters:
            if not takes_all:
                names = [name for name in parameters if name != "self"]
                yield f"{prefix}{key}: {target.__name__} has no such argument{nearest(key, names)}"
        elif not has_node(node[key]):
            value = OmegaConf.to_container(node, resolve=True)[key]  # type: ignore[index, call-overload]
            yield from check_type(f"{prefix}{key}", value, parameters[key].annotation)


def has_node(value: Any) -> bool:  # noqa: ANN401
    """Whether a value is built by Hydra, so that its type is not the argument's."""
    return isinstance(value, DictConfig) and "_target_" in value


def locate(name: str) -> tuple[Any, dict[str, inspect.Parameter]]:
    """The class or function of a dotted name, and its parameters with their types resolved."""
    module, _, attribute = name.rpartition(".")
    target = getattr(importlib.import_module(module), attribute)
    if not inspect.isclass(target):
        return target, parameters_of(target)
    parameters: dict[str, inspect.Parameter] = {}
    for base in target.__mro__:  # **kwargs hand over to the next class that has a constructor
        if "__init__" not in vars(base):
            continue
        own = parameters_of(vars(base)["__init__"])
        parameters = own | parameters
        if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
            kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
            return target, {k: p for k, p in parameters.items() if p.kind not in kinds}
    return target, {}  # takes anything


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:  # noqa: ANN401
    """A function's parameters with their types resolved."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    return {
        key: p.replace(annotation=hints.get(key, p.annotation)) for key, p in parameters.items()
    }


def check_type(path: str, value: Any, annotation: Any) -> Iterator[str]:  # noqa: ANN401
    """One problem if a value is not of the annotated type."""
    adapter = type_adapter(annotation)
    if adapter is None:
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        reasons = dict.fromkeys(reason(e["msg"]) for e in error.errors())
        yield f"{path}={shown(value)}: {', or '.join(reasons)}"


@cache
def type_adapter(annotation: Any) -> TypeAdapter[Any] | None:  # noqa: ANN401
    """Checker of a type, or None where there is nothing to check against."""
    if annotation is inspect.Parameter.empty:
        return None
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError):
        return None


def use_best(cfg: DictConfig) -> None:
    """Replace each run folder that is given for a checkpoint by the run's best checkpoint."""
    for key in CHECKPOINT_KEYS:
        try:
            value = OmegaConf.select(cfg, key)
        except OmegaConfBaseException:
            continue  # what cannot be resolved is a mistake of its own
        if isinstance(value, str):
            OmegaConf.update(cfg, key, best_of(value))
        elif isinstance(value, ListConfig):
            found = [best_of(item) if isinstance(item, str) else item for item in value]
            OmegaConf.update(cfg, key, found)


def best_of(path: str) -> str:
    """Return the best checkpoint of a run folder; any other path as it is."""
    best = Path(path) / BEST
    return str(best) if best.expanduser().is_file() else path


def require_file(key: str, path: str | None) -> Iterator[str]:
    """One problem if a path is given and is no file."""
    if path is None or (found := Path(path).expanduser()).is_file():
        return
    if not found.is_dir():
        yield f"{key}={path}: no such file"
    else:
        yield f"{key}={path}: is a folder without {BEST}; a file or a run folder is needed"


def require_folder(key: str, path: str) -> Iterator[str]:
    """One problem if a folder is not there and cannot be made."""
    folder = Path(path).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        yield f"{key}={path}: {folder} is a file; a folder is needed"
    else:
        try:
            with tempfile.TemporaryDirectory(dir=folder):
                pass
        except OSError:
            yield f"{key}={path}: {folder} cannot be written to"


def require_kind(cfg: DictConfig, wanted: str) -> Iterator[str]:
    """One problem if the data are not of the kind (`pairs` or `rated`) that is needed."""
    target, _ = locate(cfg.data._target_)
    if target.kind != wanted:
        what = "LR/HR pairs" if wanted == "pairs" else "rated photos"
        yield f"data: {target.__name__} does not give {what}; data=sample_{wanted} does"


def check_name(cfg: DictConfig) -> Iterator[str]:
    """One problem if the name of the run folder is none."""
    if cfg.name is not None and not re.fullmatch(r"[\w.+,-]*\w[\w.+,-]*", str(cfg.name)):
        yield f"name={cfg.name}: letters, digits and . _ + , - only; paths.output_dir= is the place"


def check_output(cfg: DictConfig, *suffixes: str, key: str = "output") -> Iterator[str]:
    """Problems of the file that a command writes to `output`; none where that is null."""
    if cfg[key] is None:
        return
    path = Path(cfg[key]).expanduser()
    if path.suffix not in suffixes:
        yield f"{key}={cfg[key]}: a name that ends in {' or '.join(suffixes)} is needed"
    if path.is_dir():
        yield f"{key}={cfg[key]}: is a folder"
    elif path.exists() and not cfg.overwrite:
        yield f"{key}={cfg[key]} exists: overwrite=true replaces it"
    else:
        yield from require_folder(key, str(path.parent))
