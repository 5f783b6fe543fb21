"""The enhancers on the page: single networks, and series of networks between two trainings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.checkpoint import load_network
from lightning_modules.interpolation import mixed, same_network
from lightning_modules.record import Record
from lightning_modules.tasks import task_of
from networks.reach import reach_of
from networks.scales import at_scale, scales_of
from runs.measuring import named

LABELS = {
    "super-resolution": "Enlarge",
    "deblurring": "Deblur",
    "restoration": "Restore",
    "tone": "Exposure and colour",
}
ENLARGING = {
    "super-resolution": "Enlarge",
    "deblurring": "Deblur and enlarge",
    "restoration": "Restore and enlarge",
    "tone": "Correct exposure and colour, and enlarge",
}


class Task(NamedTuple):
    """A kind of enhancement at a scale.

    Attributes:
        name: see `lightning_modules.tasks`; the API takes it from requests.
        scale: 1 keeps the size.
    """

    name: str
    scale: int

    @property
    def label(self) -> str:
        """Return the name of the task on the page."""
        if self.scale == 1:
            return LABELS[self.name]
        return f"{ENLARGING[self.name]} x{self.scale}"


@dataclass(eq=False)
class Enhancer:
    """A network, or a series of networks whose weights are mixed from two trainings.

    Attributes:
        name: class and gamma, as in the tables of `evaluate`.
        note: its size and training data, in one line.
        net: the network; in a series, its weights are set by `mix`.
        degraded: degradations of its training photos besides shrinking.
        ends: weights of the first and last network of a series; None for a single network.
        gammas: of the networks of a series, from the first training's to the last one's.
    """

    name: str
    note: str
    net: nn.Module
    degraded: Mapping[str, object]
    ends: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    gammas: list[float] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """Return the first word of the name, such as `EDSR`."""
        return self.name.partition(" ")[0]

    @property
    def id(self) -> str:
        """Return the name as one word, such as `edsr-gamma-0.4`."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")

    @cached_property
    def architecture(self) -> str:
        """Return the layers without their weights, which determine the speed."""
        return repr(self.net)

    @property
    def num_networks(self) -> int:
        """Return the number of networks of a series; 1 for a single network."""
        return max(1, len(self.gammas))

    @cached_property
    def margin(self) -> int:
        """Return how many pixels around a tile the network reads."""
        return reach_of(at_scale(self.net, scales_of(self.net)[0])).margin

    @property
    def tasks(self) -> list[Task]:
        """Return the tasks it can be used for."""
        return [Task(task_of(self.degraded, scale), scale) for scale in scales_of(self.net)]

    def networks(self, scale: int) -> list[tuple[float | None, nn.Module]]:
        """Return pairs of gamma and network; gamma is None for a single network.

        The networks of a series are one module, whose weights `mix` sets.
        """
        net = at_scale(self.net, scale)
        return [(gamma, net) for gamma in self.gammas] or [(None, net)]

    def mix(self, gamma: float | None) -> None:
        """Set the weights of a series' network to those for a gamma; else do nothing."""
        if self.ends is not None and gamma is not None:
            first, last = self.gammas[0], self.gammas[-1]
            place = self.gammas.index(gamma) / (len(self.gammas) - 1) if first != last else 0.0
            self.net.load_state_dict(mixed(*self.ends, place))


def load_enhancers(
    checkpoints: Sequence[str],
    pairs: Sequence[Sequence[str]],
    steps: int,
    device: torch.device,
    trusted: Sequence[str] = (),
) -> list[Enhancer]:
    """Load the checkpoints, and for each pair a series of so many steps, including both ends.

    Raises:
        ValueError: if a file is not an enhancer, the networks of a pair differ, or two enhancers
            have the same name.
    """
    loaded = [load_network(path, "enhancer", trusted) for path in checkpoints]
    enhancers = [
        Enhancer(name, note(net, record), net, record.trained_degradation or {})
        for (name, net), (_, record) in zip(
            named(loaded, list(checkpoints)).items(), loaded, strict=True
        )
    ]
    enhancers += [load_series(pair, steps, trusted) for pair in pairs]
    for enhancer in enhancers:
        enhancer.net.to(device)
    names = [enhancer.id for enhancer in enhancers]
    for enhancer in enhancers:
        if names.count(enhancer.id) > 1:
            raise ValueError(f"two models would have the same name, {enhancer.name}")
    return enhancers


def load_series(pair: Sequence[str], steps: int, trusted: Sequence[str]) -> Enhancer:
    """Load a series of networks between two trainings."""
    loaded = [load_network(path, "enhancer", trusted) for path in pair]
    (first, one), (second, two) = loaded
    same_network(one, two)
    if one.trained_degradation != two.trained_degradation:
        raise ValueError(f"pairs={list(pair)}: the two were trained on different degradations")
    low, high = one.gamma, two.gamma
    if low is None or high is None:
        raise ValueError(f"pairs={list(pair)}: files of others do not say their gamma")
    if not low < high:
        raise ValueError(
            f"pairs={list(pair)}: gamma must increase from the first to the second, "
            f"not {low:g} to {high:g}"
        )
    return Enhancer(
        f"{one.class_name} gamma={low:g} to {high:g}",
        f"weights between the two trainings, {steps} steps; {note(second, two)}",
        first,
        two.trained_degradation or {},
        (weights(first), weights(second)),
        [round(low + (high - low) * k / (steps - 1), 4) for k in range(steps)],
    )


def note(net: nn.Module, record: Record) -> str:
    """Return the size and training data of a network in one line."""
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    return f"{millions:.2f} M parameters, trained on {record.data}"


def weights(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's weights."""
    return {name: value.clone() for name, value in net.state_dict().items()}
