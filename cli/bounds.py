"""Refuse numbers and networks that are too large, before anything of that size is allocated.

The limits are far above what training uses. They catch slips: `net.num_features=64000`,
`data.batch_size=16384` or a million workers would otherwise fill the memory of the machine first.
"""

import functools
import json
import os
from collections.abc import Iterator

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from configuration.parsing import plain

GB = 10**9
MAX_PARAMETERS = 10**9  # of a network: 4 GB, four times as much while Adam trains it
MAX_TENSORS = 20_000  # parameters' tensors: a network of 5,000 residual blocks
MAX_NET_NUMBER = 10_000  # any whole number among a network's arguments
MAX_BATCH = 16 * GB  # bytes of the pixels of a batch
LIMITS = {  # of whole numbers, by the last part of a key
    "seed": 2**32 - 1,  # what Lightning and NumPy take
    "epochs": 10**6,
    "num_steps": 10**7,  # per epoch
    "num_train": 10**6,  # crops of the built-in photos, which are all in memory
    "num_val": 10**6,
    "num_workers": 1024,
    "num_nodes": 1024,
    "devices": 1024,
    "accumulate_grad_batches": 10**6,
    "batch_size": 10**6,
    "patch_size": 8192,
    "resize": 8192,
    "crop": 8192,
    "kernel_size": 1001,
    "num_buckets": 1000,
    "jobs": 1024,  # of hydra.launcher
    "share": 1024,
    "threads": 1024,
    "n_trials": 10**6,  # of hydra.sweeper
    "n_jobs": 1024,
}
LARGEST = 2**63 - 1  # of any whole number: more has no place in a tensor
NAME_BYTES, PATH_BYTES = 255, 4095  # what Linux takes


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of a configuration by dotted name, without interpolated ones."""
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for key in (key for key in node if isinstance(key, str)):  # others are refused elsewhere
        if OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key):
            continue
        if isinstance(node[key], DictConfig):
            yield from leaves(node[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node[key]


def number_problems(cfg: DictConfig) -> Iterator[str]:
    """Find whole numbers that are too large."""
    for key, value in leaves(cfg):
        values = value if isinstance(value, ListConfig) else [value]
        limit = LIMITS.get(key.rpartition(".")[2], LARGEST)
        if key.startswith("net."):
            limit = min(limit, MAX_NET_NUMBER)
        for number in values:
            if isinstance(number, int) and abs(number) > limit:
                shown = f"{limit:,}" if limit < LARGEST else "64 bits"
                yield f"{key}={number}: too large; at most {shown}"


def path_problems(key: str, path: str) -> Iterator[str]:
    """Yield a problem if a path is too long to be the name of a file."""
    parts = os.path.expanduser(path).split("/")
    longest = max(len(os.fsencode(part)) for part in parts)
    if longest > NAME_BYTES or len(os.fsencode(path)) > PATH_BYTES:
        shown = path if len(path) <= 60 else f"{path[:40]}...{path[-15:]}"
        yield f"{key}={shown}: too long for a file name (at most {NAME_BYTES} bytes)"


def batch_problems(cfg: DictConfig) -> Iterator[str]:
    """Yield a problem if a batch of training data does not fit into memory."""
    data = cfg.data
    size, batch_size = data.get("patch_size", data.get("crop")), data.get("batch_size")
    if not all(isinstance(number, int) for number in (size, batch_size)):
        return
    scales = data.get("scale", [])
    scales = [s for s in (scales if OmegaConf.is_list(scales) else [scales]) if isinstance(s, int)]
    num_bytes = batch_size * size**2 * 3 * 4 * (1 + max(scales, default=0) ** 2)
    if num_bytes > MAX_BATCH:
        name = "patch_size" if "patch_size" in data else "crop"
        yield (
            f"data.batch_size={batch_size}: with data.{name}={size} a batch has "
            f"{num_bytes / GB:,.0f} GB of pixels; at most {MAX_BATCH // GB} GB"
        )


def network_problems(key: str, node: DictConfig) -> Iterator[str]:
    """Yield a problem if one of our networks cannot be built or is too large.

    Args:
        key: its place in the configuration, `net` or `scorer`.
        node: its configuration. Networks of other modules are skipped, because their constructors
            may do anything.
    """
    if not str(node.get("_target_")).startswith("networks."):
        return
    spec = plain(node)
    for name in ("checkpoint", "pretrained"):  # no files, no downloads
        spec.pop(name, None)
    if reason := unbuildable(json.dumps(spec, sort_keys=True)):
        yield f"{key}: {reason}"


class TooLarge(Exception):
    """A network under construction has more parameters than allowed."""


@functools.cache
def unbuildable(spec: str) -> str | None:
    """Build a network without memory, up to the limit; return why it fails, or None."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    sizes = []

    def count(module: object, name: str, parameter: torch.Tensor | None) -> None:
        sizes.append(0 if parameter is None else parameter.numel())
        if len(sizes) > MAX_TENSORS or sum(sizes) > MAX_PARAMETERS:
            raise TooLarge

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            instantiate(json.loads(spec))
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, TooLarge):
            return (
                f"the network is too large: more than {MAX_PARAMETERS:,} parameters or "
                f"{MAX_TENSORS:,} parameter tensors"
            )
        return f"cannot be built: {cause}".partition("\n")[0]
    finally:
        hook.remove()
    return None
