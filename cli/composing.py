"""Compose configurations from conf/ and a folder of the user's, without running Hydra."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_app
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from cli.config_loader import loader_of
from cli.leftovers import drop_leftovers
from cli.mistakes import raise_all
from cli.yaml_files import folder_problems
from configuration.model_kind import trains_scorer
from runs.identity import not_read
from runs.naming import run_name
from runs.results import trained_scorer
from system.places import CONF, ROOT, expanded

RESOLVING = "raised while resolving interpolation: "  # how OmegaConf begins its message
INVALID = (
    *(HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError),
    OSError,  # an option whose name is too long for a file
)

OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("run_name", lambda task: run_name(task), replace=True)


def sweep_name(task: list[str], *, _root_: DictConfig) -> str:
    """Make the name of a sweep's job from the overrides that have an effect on it.

    The experiment counts unless the sweep is named after it.
    """
    counted = ["experiment"] if chosen_sweep(_root_) else []
    return run_name(task, sweep=True, unread=not_read(_root_), counted=counted)


def chosen_sweep(root: DictConfig) -> str | None:
    """Return the name of the file that defines the sweep."""
    name = root.hydra.runtime.choices.get("sweep")
    return None if name in (None, "null") else str(name)


def sweep_group(*, _root_: DictConfig) -> str:
    """Return the name of a sweep: that of its file, or of the experiment."""
    return chosen_sweep(_root_) or str(_root_.hydra.runtime.choices.experiment)


def scorer_of_sweep(sweep: str, *, _root_: DictConfig) -> str | None:
    """Find the scorer of the chosen backbone that a sweep trained; None when training scorers."""
    if trains_scorer(_root_):
        return None
    folder = expanded(str(_root_.paths.output_dir)) / "sweeps" / sweep
    return trained_scorer(folder, str(_root_.scorer.backbone))


OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
OmegaConf.register_new_resolver("sweep_group", sweep_group, replace=True)
OmegaConf.register_new_resolver("scorer_of_sweep", scorer_of_sweep, replace=True)


INNER_GROUPS = ("data.degradation",)  # keys of a group that are chosen by name, too


def all_groups(loader: ConfigLoader) -> list[str]:
    """Return the groups of options, including inner ones, such as `data/degradation`."""
    return [*loader.list_groups(""), *(key.replace(".", "/") for key in INNER_GROUPS)]


@contextlib.contextmanager
def loaded(folder: str | None = None) -> Iterator[ConfigLoader]:
    """Make `compose` read conf/ and, with precedence, a folder of the user's (--config-dir).

    Raises:
        ValueError: if that is not a folder, or its files are damaged or too large.
    """
    place = None if folder is None else expanded(folder).absolute()
    if place is not None:
        raise_all(list(folder_problems(place, f"--config-dir={folder}")))
    version.setbase("1.3")
    loader = loader_of(place)
    current = GlobalHydra.instance()
    before, current.hydra = current.hydra, Hydra("run", loader)
    try:
        yield loader
    finally:
        current.hydra = before


def run_composed(
    command: str, words: list[str], task: TaskFunction, folder: str | None, *, multirun: bool
) -> None:
    """Run a command as `hydra.main` does, with what was read for its checks."""
    with loaded(folder):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        mode = hydra.get_mode(command, words)
        _run_app(not multirun, multirun, mode, hydra, command, task, list(words))


def composed(command: str, words: list[str], *, with_hydra: bool = False) -> DictConfig:
    """Compose a configuration.

    Raises:
        ValueError: in one line, if that fails.
    """
    try:
        cfg = compose(command, words, return_hydra_config=True)
        if not with_hydra:
            with open_dict(cfg):
                del cfg["hydra"]
        drop_leftovers(cfg, words)
    except INVALID as error:
        raise ValueError(first_line(error)) from error
    return cfg


def first_line(error: BaseException) -> str:
    """Return an error's message as one line, without OmegaConf's prefix."""
    if isinstance(error, RecursionError):
        return "the configuration is nested too deeply"
    if isinstance(error, yaml.YAMLError):
        return f"cannot be read as YAML: {' '.join(str(error).split())}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0].removeprefix(f"ValueError {RESOLVING}")
    key = getattr(error, "full_key", None)
    return f"{key}: {text}" if isinstance(error, InterpolationResolutionError) and key else text


def group_options(command: str, folder: str | None) -> dict[str, list[str]]:
    """Return the groups that a command's configuration chooses from, with their options."""
    places = [CONF] if folder is None else [CONF, expanded(folder)]
    text = (CONF / f"{command}.yaml").read_text()
    names = re.findall(r"^  - (?:override )?/?(\w+):", text, flags=re.MULTILINE)
    hidden = ("paths", "hydra")
    found = {
        name: {path.stem for place in places for path in (place / name).glob("[!_]*.yaml")}
        for name in names
        if name not in hidden
    }
    return {name: sorted(options) for name, options in found.items()}


def option_values(folder: Path, group: str, option: str) -> DictConfig:
    """Merge the file of a group's option with the files that it builds on."""
    files = [place / group / f"{option}.yaml" for place in (folder, CONF)]
    file = next((file for file in files if file.is_file()), None)
    found = OmegaConf.create({}) if file is None else OmegaConf.load(file)
    assert isinstance(found, DictConfig)
    parts = []
    for base in found.pop("defaults", []):
        if isinstance(base, str):
            parts.append(found if base == "_self_" else option_values(folder, group, base))
        else:
            inner = {str(name): str(chosen) for name, chosen in base.items()}
            parts += [
                OmegaConf.create({name: option_values(folder, f"{group}/{name}", chosen)})
                for name, chosen in inner.items()
            ]
    merged = OmegaConf.merge(*(parts or [found]))
    assert isinstance(merged, DictConfig)
    return merged


def options(loader: ConfigLoader, group: str) -> list[str]:
    """Return the options that a group offers to users."""
    names = loader.get_group_options(group, ObjectType.CONFIG)
    return [name for name in names if not name.startswith("_")]


def flat_keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all keys, including inner nodes."""
    for key in cfg:
        name = f"{prefix}{key!s}"
        yield name
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_interpolation():
            yield from flat_keys(child, f"{name}.")
