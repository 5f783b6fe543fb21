"""Name a run's folder after its overrides."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from configuration.parsing import parse_task
from system.files import text_sha256

# Where a run goes and what it runs on: part of neither its name nor its hash.
NOT_SETTINGS = {
    *("experiment", "sweep", "paths", "hydra", "logger", "output", "device", "name"),
    *("resume", "overwrite", "stale", "data.num_workers", "trainer.devices", "trainer.num_nodes"),
    *("trainer.accelerator", "trainer.strategy", "trainer.deterministic", "trainer.plugins"),
    *("data.store", "data.on_device", "trusted"),
}
NOT_IN_NAME = NOT_SETTINGS | {"trainer"}  # the choice of a trainer is one of devices
MAX_NAME = 120  # characters of a folder name
FIRST = ("gamma", "net", "scale", "scorer", "seed")  # in names that are cut: what is often swept


def within(key: str, keys: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def run_name(
    task: Iterable[str],
    *,
    sweep: bool = False,
    unread: Iterable[str] = (),
    counted: Iterable[str] = (),
) -> str:
    """Folder name of a run: `gamma-0.1_net-edsr`, or `default` without overrides.

    Sorted, and in a name that has to be cut what is often swept comes first; numbers normalised
    (`.1` and `1e-1` are `0.1`); a path becomes its stem and six digits of its hash. Where the run
    goes and what it runs on do not count. Nor do `epochs` in a single run: they say how far it has
    gone, so that `resume=true epochs=40` finds it; in a sweep they do. `name=...` is taken as it
    is.

    Args:
        task: the overrides, as typed.
        sweep: whether this is a job of a sweep.
        unread: keys that the run does not read, which do not count either: jobs that differ in
            nothing else are one.
        counted: keys that count here and otherwise do not.
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
        items[key] = f"{key}-{name_value(value)}"
    name = "_".join(sorted(items.values())) or "default"
    if len(name) > MAX_NAME:
        start = "_".join(items[key] for key in sorted(items, key=lambda k: (k not in FIRST, k)))
        name = f"{start[: MAX_NAME - 9]}-{text_sha256(name)[:8]}"
    return name


def name_value(value: str) -> str:
    """An override's value as part of a folder name."""
    is_text = value[:1] in ("'", '"')  # 007 is another file than 7
    value = value.strip("'\"")
    if re.fullmatch(r"[+-]?\d+", value) and not is_text:
        return str(int(value))
    try:
        number = float(value)
        if math.isfinite(number) and not is_text:
            return f"{number:.12g}"
    except ValueError:
        pass
    if "/" in value or re.fullmatch(r".*\.(ckpt|safetensors|pt)", value):
        stem = re.sub(r"[^\w.+-]+", "-", Path(value).stem)
        return f"{stem}-{text_sha256(value)[:6]}"
    return re.sub(r"[^\w.+,-]+", "-", value)
