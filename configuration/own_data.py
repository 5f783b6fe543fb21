"""Measure checkpoints on the photos that they were validated on.

A checkpoint keeps the configuration of its training, including the data set. That data set is used
unless the command line chooses another one by `data=`. Keys such as `data.limit=10` still count.
"""

import importlib
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from configuration.parsing import flatten, parse_task
from configuration.signatures import check_node
from configuration.trust import targets
from lightning_modules.record import Record
from lightning_modules.trusted import in_modules
from system.terminal import printable

# Settings of training, which do not change what is validated.
TRAINING = {
    *("train_hr", "train_lr", "batch_size", "patch_size", "num_steps", "num_workers", "seed"),
    *("on_device", "store", "scale", "shrink_to"),
}


def own_data(
    cfg: DictConfig, overrides: Iterable[str], records: Sequence[Record], paths: Sequence[str]
) -> DictConfig:
    """Return the data set of the checkpoints, or `cfg.data` if `data=` chooses one.

    Checkpoints without a data set, such as exported ones, are measured on that of the others. If
    none has one, it is `cfg.data` too.

    Raises:
        ValueError: if they were validated on different photos, or their data set cannot be built.
    """
    chosen: DictConfig = cfg.data
    typed = {override.key_or_group: override for override in parse_task(overrides)}
    if "data" in typed or "data._target_" in typed:
        return chosen
    found = {
        path: record.data_config
        for path, record in zip(paths, records, strict=True)
        if "_target_" in record.data_config
    }
    if not found:
        return chosen
    (path, own), *others = found.items()
    for other, theirs in others:
        keys = sorted((own.keys() | theirs.keys()) - TRAINING)
        for key in keys:
            if own.get(key) != theirs.get(key):
                raise ValueError(
                    f"checkpoint: {path} was validated with data.{key}={own.get(key)}, {other} "
                    f"with {theirs.get(key)}; choose the photos to measure on by data=..."
                )
    for key, value in flatten(own).items():
        if "${" in f"{key}{value}":  # resolvers read the environment and files
            raise ValueError(
                f"{path}: its data set cannot be built: data.{printable(key)} is not a plain value"
            )
    for target in targets(own):
        check_target(target, path, cfg.trusted)
    if records[0].kind == "enhancer":
        own.setdefault("scale", 2)  # a placeholder for the check; the networks determine it
    for problem in check_node("data", OmegaConf.create(own)):
        raise ValueError(f"{path}: its data set cannot be built: {printable(problem)}")
    if "scale" in own:
        own["scale"] = None  # the networks determine it
    data = OmegaConf.create(own)
    if "data/degradation" in typed:
        data.degradation = chosen.degradation
    for key, override in typed.items():
        name = key.removeprefix("data.")
        if name != key:
            if OmegaConf.select(data, name, default="???") == "???":
                raise ValueError(
                    f"{key}: the data set of {path} has no such key; data=... chooses another"
                )
            OmegaConf.update(data, name, override.value())
    return data


def check_target(target: str, path: str, trusted: Sequence[str]) -> None:
    """Refuse classes outside `datamodules` and the modules that the user trusts.

    A checkpoint must not be able to run code.

    Raises:
        ValueError: if the class may not be built.
    """
    module, _, name = target.rpartition(".")
    if in_modules(module, trusted):
        return
    try:
        found = getattr(importlib.import_module(module), name) if ours(module) else None
    except (ImportError, AttributeError):
        found = None
    if not (isinstance(found, type) and ours(found.__module__)):
        package = printable(module.partition(".")[0])
        foreign = bool(package) and not ours(module)
        hint = f"; trusted=[{package}] allows it, if you trust its code" if foreign else ""
        raise ValueError(
            f"{path}: was validated on {printable(target)}{hint}; data=... chooses another "
            "data set to measure it on"
        )


def ours(module: str) -> bool:
    """Return whether a module is one of the project's data sets."""
    return module.startswith("datamodules.")
