"""Import modules of the user's own, and check that their networks can be loaded again.

Only the user's configuration (`trusted=[mypackage]`) decides what is trusted, never a checkpoint.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from configuration.parsing import plain
from lightning_modules.metric_catalogue import METRICS
from lightning_modules.trusted import is_trusted
from system.json_files import not_plain

IGNORED = ("_target_", "_recursive_", "_convert_", "checkpoint")  # not arguments of the network


def targets(node: object) -> Iterator[str]:
    """Yield every `_target_` of a configuration, and the dotted path of every metric."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        if isinstance(metrics := node.get("metrics"), list):
            for name in metrics:
                if isinstance(name, str):
                    yield METRICS[name].function if name in METRICS else name
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from targets(part)


def import_from_here(cfg: DictConfig) -> None:
    """Let Python find modules in the working directory that the configuration names.

    The directory comes last, so that it hides neither our packages nor installed ones, and is added
    only if a module is found nowhere else.
    """
    trusted = cfg.get("trusted") or []
    names = [*targets(cfg), *(str(name) for name in trusted)]
    tops = {name.partition(".")[0] for name in names if re.fullmatch(r"\w+(\.\w+)*", name)}
    here = str(Path.cwd())
    if here not in sys.path and any(not is_found(top) for top in tops):
        sys.path.append(here)
        importlib.invalidate_caches()


def is_found(top: str) -> bool:
    """Return whether a top-level module exists, without importing it."""
    return top in sys.modules or importlib.util.find_spec(top) is not None


def trusted_problems(cfg: DictConfig) -> Iterator[str]:
    """Find names in `trusted` that are not modules."""
    trusted = cfg.get("trusted")
    for name in trusted if isinstance(trusted, ListConfig) else []:
        if name == "__main__" or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", str(name)):
            yield f"trusted: {name} is not the name of a module, such as trusted=[mypackage]"
        elif not is_found(str(name).partition(".")[0]):
            yield f"trusted: no module named {name}, neither installed nor in this folder"


def rebuild_problems(cfg: DictConfig) -> Iterator[str]:
    """Find reasons why the checkpoints of a training could not be loaded again."""
    spec = plain(cfg.model).get("net")
    if not isinstance(spec, dict) or not isinstance(spec.get("_target_"), str):
        return
    key = "net" if cfg.get("net") else "scorer"
    target = spec["_target_"]
    package = target.partition(".")[0]
    if package == "__main__" or "." not in target:
        yield f"{key}._target_={target}: checkpoints need a class in a module that can be imported"
    elif not is_trusted(target, [str(name) for name in cfg.trusted or []]):
        yield (
            f"{key}._target_={target}: is not in this project's networks, so its checkpoints could "
            f"not be loaded again; trusted=[{package}] allows it"
        )
    for name, value in spec.items():
        if name in IGNORED:
            continue
        if name.startswith("_") and name.endswith("_"):
            yield f"{key}.{name}: not allowed; a checkpoint could not rebuild the network with it"
        elif next(targets({name: value}), None) is not None:
            yield (
                f"{key}.{name}: is an object that Hydra builds, which a checkpoint cannot store; "
                "let the network build it from plain arguments"
            )
        elif (place := not_plain(value, f"{key}.{name}")) is not None:
            yield (
                f"{place}: a checkpoint can store only null, true, false, finite numbers, text, "
                "and lists and dicts of them with text keys"
            )
