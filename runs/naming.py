"""Name a run's folder after its overrides."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from configuration.parsing import parse_task
from system.files import text_sha256

# The place of a run and its hardware belong to neither its name nor its hash.
NOT_SETTINGS = {
    *("experiment", "sweep", "paths", "hydra", "logger", "output", "device", "name"),
    *("resume", "overwrite", "stale", "data.num_workers", "trainer.devices", "trainer.num_nodes"),
    *("trainer.accelerator", "trainer.strategy", "trainer.deterministic", "trainer.plugins"),
    *("data.store", "data.on_device", "trusted"),
}
NOT_IN_NAME = NOT_SETTINGS | {"trainer"}  # choosing a trainer is choosing devices
MAX_NAME = 120  # characters of a folder name
FIRST = (
    "gamma",
    "share",
    "loss",
    "net",
    "scale",
    "scorer",
    "scorer.backbone",
    "seed",
)  # come first in names that are cut: the keys swept most often


def within(key: str, keys: Iterable[str]) -> bool:
    """Return whether a dotted key is one of these, or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def run_name(
    task: Iterable[str],
    *,
    sweep: bool = False,
    unread: Iterable[str] = (),
    counted: Iterable[str] = (),
) -> str:
    """Make the folder name of a run: `gamma-0.1_net-edsr`, or `default` without overrides.

    Keys are sorted; in a name that has to be cut, those swept most often come first. Numbers are
    normalised (`.1` and `1e-1` become `0.1`), and a path becomes its stem and six digits of its
    hash. The place of the run and its hardware do not count. Neither does `epochs` in a single run,
    so that `resume=true epochs=40` finds its folder; in a sweep it does. `name=...` is used as is.

    Args:
        task: the overrides, as typed.
        sweep: whether this is a job of a sweep.
        unread: keys that have no effect and do not count either: jobs that differ only in them
            are the same job.
        counted: keys that count although they are ignored otherwise.
    """
    given = {override.key_or_group: override for override in parse_task(task)}
    if "name" in given and given["name"].value() is not None:
        return given["name"].get_value_element_as_str().strip("'\"")
    ignored = NOT_IN_NAME if sweep else NOT_IN_NAME | {"epochs"}
    items: dict[str, str] = {}
    for key, override in given.items():
        left_out = key in ignored or key.split(".")[0] in NOT_SETTINGS or within(key, unread)
        if left_out and key not in counted:
            continue
        value = "deleted" if override.is_delete() else override.get_value_element_as_str()
        items[key] = f"{key.replace('/', '.')}-{name_value(value)}"
    name = "_".join(sorted(items.values())) or "default"
    if len(name) > MAX_NAME:
        start = "_".join(items[key] for key in sorted(items, key=lambda k: (k not in FIRST, k)))
        name = f"{start[: MAX_NAME - 9]}-{text_sha256(name)[:8]}"
    return name


def name_value(value: str) -> str:
    """Format an override's value as part of a folder name."""
    is_text = value[:1] in ("'", '"')  # 007 and 7 are different files
    value = value.strip("'\"")
    if re.fullmatch(r"[+-]?\d+", value) and not is_text:
        return str(int(value))
    try:
        number = float(value)
        if math.isfinite(number) and not is_text:
            return f"{number:.12g}"
    except ValueError:
        pass
    if "/" in value or re.fullmatch(r".*\.(ckpt|safetensors|pt)\]?", value):
        stem = re.sub(r"[^\w.+-]+", "-", Path(value.strip("[]")).stem)
        return f"{stem}-{text_sha256(value)[:6]}"
    if re.fullmatch(r"\[[\w,]+\]", value):  # commas would need quotes in a path
        return value[1:-1].replace(",", "+")
    return re.sub(r"[^\w.+,-]+", "-", value)
