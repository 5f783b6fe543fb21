"""Mix the weights of two trainings of one network."""

from typing import Any

import torch
from torch import Tensor

from lightning_modules.record import Record
from networks.tensor_files import printable


def same_network(one: Record, two: Record) -> None:
    """Refuse trainings of different networks, whose weights cannot be mixed."""
    nets: list[dict[str, Any]] = [dict(record.net) for record in (one, two)]
    if nets[0] == nets[1]:
        return
    differing = {
        key: [net.get(key) for net in nets]
        for key in nets[0] | nets[1]
        if nets[0].get(key) != nets[1].get(key)
    }
    shown = ", ".join(f"{key}: {a} and {b}" for key, (a, b) in differing.items())
    raise ValueError(f"checkpoints: need two trainings of the same network, not {printable(shown)}")


def mixed(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Interpolate two state dicts: share 0 is the first, 1 the second. Counters are the first's."""
    return {
        name: torch.lerp(value, second[name], share) if value.is_floating_point() else value
        for name, value in first.items()
    }
