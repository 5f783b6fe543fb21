"""Mix the weights of two trainings of one network."""

import torch
from torch import Tensor

from lightning_modules.record import Record
from system.terminal import printable


def same_network(one: Record, two: Record) -> None:
    """Refuse trainings of different networks, whose weights cannot be mixed."""
    differing = [
        f"{key}: {one.net.get(key)} and {two.net.get(key)}"
        for key in {**one.net, **two.net}
        if one.net.get(key) != two.net.get(key)
    ]
    if differing:
        shown = printable(", ".join(differing))
        raise ValueError(f"checkpoints: need two trainings of the same network, not {shown}")


def mixed(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Interpolate two state dicts: share 0 is the first, 1 the second. Counters are not mixed."""
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value
        for name, value in first.items()
    }
