"""What the page offers: enhancers by task and scale, and rows of networks between two trainings."""

import re
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.checkpoint import load_network
from lightning_modules.interpolation import mixed, same_network
from lightning_modules.record import Record
from networks.nima import NIMA
from networks.scales import at_scale, scales_of
from networks.tiling import restore, spans
from runs.measuring import named

TRIAL = 96  # pixels a side of the picture on which speed is measured at the start, on a CPU
TRIALS = 3  # measurements of an architecture, of which the middle one counts


class Task(NamedTuple):
    """What is done to a photo.

    Attributes:
        name: `super-resolution`, `deblurring` or `restoration`.
        scale: 1 is the same size.
    """

    name: str
    scale: int

    @property
    def label(self) -> str:
        """What the page calls it."""
        verb = {"super-resolution": "Enlarge", "deblurring": "Deblur", "restoration": "Restore"}
        if self.scale == 1:
            return verb[self.name]
        and_enlarge = "" if self.name == "super-resolution" else " and enlarge"
        return f"{verb[self.name]}{and_enlarge} x{self.scale}"


@dataclass(eq=False)
class Offer:
    """An enhancer, or the networks between two.

    Attributes:
        name: class and gamma, as in the tables of `evaluate`.
        note: a line about it.
        net: the network; between two, it takes the weights of `ends` mixed.
        degraded: what its training photos went through beside the shrinking.
        ends: weights of the first and the last network of a row; None for a single one.
        gammas: of a row: as many steps from the first training's gamma to the last one's.
    """

    name: str
    note: str
    net: nn.Module
    degraded: dict[str, Any]
    ends: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    gammas: list[float] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """What the name begins with: `EDSR`."""
        return self.name.partition(" ")[0]

    @property
    def id(self) -> str:
        """The name as a word: `edsr-gamma-0.4`."""
        return re.sub(r"[^a-z0-9.]+", "-", self.name.lower()).strip("-.")

    @cached_property
    def architecture(self) -> str:
        """What its speed depends on: all layers, without their weights."""
        return repr(self.net)

    @property
    def tasks(self) -> list[Task]:
        """What it can be used for."""
        tasks = []
        for scale in scales_of(self.net):
            name = "super-resolution" if scale > 1 else "restoration"
            tasks.append(Task("deblurring" if self.degraded.get("blur") else name, scale))
        return tasks

    def networks(self, scale: int) -> list[tuple[float | None, nn.Module]]:
        """What it makes results with, each with its gamma; gamma is None of a single network.

        Those of a row share one network, which `use` gives its weights.
        """
        net = at_scale(self.net, scale)
        return [(gamma, net) for gamma in self.gammas] or [(None, net)]

    def use(self, gamma: float | None) -> None:
        """Gives the network of a row the weights for this gamma."""
        if self.ends is not None and gamma is not None:
            first, last = self.gammas[0], self.gammas[-1]
            place = self.gammas.index(gamma) / (len(self.gammas) - 1) if first != last else 0.0
            self.net.load_state_dict(mixed(*self.ends, place))


class Speeds:
    """Seconds that networks take for a megapixel, by architecture and scale.

    Weights do not change them, so all networks of an architecture share what was measured. Pixels
    in the margins of tiles count as often as they are read.

    Args:
        tile: LR pixels a side that are enhanced at once.
    """

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.lock = threading.Lock()
        self.seen: dict[tuple[str, int], tuple[float, float]] = {}  # seconds, megapixels

    def get(self, offer: Offer, task: Task, size: tuple[int, int] = (1000, 1000)) -> float | None:
        """Seconds that an offer's networks together need for a photo; None before any measurement.

        Args:
            offer: one network or several.
            task: gives the scale.
            size: height and width of the photo.
        """
        with self.lock:
            seconds, megapixels = self.seen.get((offer.architecture, task.scale), (0.0, 0.0))
        if not megapixels:
            return None
        one = seconds / megapixels * self.read_megapixels(offer.net, size)
        return one * max(1, len(offer.gammas))

    def saw(self, offer: Offer, task: Task, size: tuple[int, int], seconds: float) -> None:
        """Take in what one network needed: the larger the photo and the newer, the more it counts.

        What is smaller than the trial at the start tells nothing about photos.
        """
        megapixels = self.read_megapixels(offer.net, size)
        if megapixels < TRIAL**2 / 1e6:
            return
        key = offer.architecture, task.scale
        with self.lock:
            before = self.seen.get(key, (0.0, 0.0))
            self.seen[key] = (before[0] / 2 + seconds, before[1] / 2 + megapixels)

    def read_megapixels(self, net: nn.Module, size: tuple[int, int]) -> float:
        """Megapixels that a network reads for a photo, margins of tiles included."""
        margin = getattr(net, "margin", None)
        if margin is None:
            return size[0] * size[1] / 1e6
        sides = [sum(s.last - s.first for s in spans(n, self.tile, margin)) for n in size]
        return sides[0] * sides[1] / 1e6

    def measure(
        self,
        offers: Sequence[Offer],
        device: torch.device,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Try each architecture on a small picture; a GPU is busy only with a whole tile.

        Args:
            offers: the enhancers.
            device: where they compute.
            is_over: whether to stop, as the server ends.
        """
        side = self.tile if device.type == "cuda" else min(self.tile, TRIAL)
        side = max(side, TRIAL)
        picture = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
        for offer in offers:
            for task in offer.tasks:
                if (offer.architecture, task.scale) in self.seen:
                    continue
                _, net = offer.networks(task.scale)[0]
                times = []
                for _ in range(1 + TRIALS):
                    if is_over():
                        return
                    began = time.perf_counter()
                    restore(net, picture, device=device, tile=None)
                    times.append(time.perf_counter() - began)
                # The first one warms up.
                self.saw(offer, task, (side, side), statistics.median(times[1:]))


def load_offers(
    checkpoints: Sequence[str],
    pairs: Sequence[Sequence[str]],
    steps: int,
    device: torch.device,
    trusted: Sequence[str] = (),
) -> list[Offer]:
    """Loads the networks that a configuration names.

    Args:
        checkpoints: files of enhancers.
        pairs: files of two trainings of one network each.
        steps: networks of a row, the two ends included.
        device: where they compute.
        trusted: see `load_network`.

    Raises:
        ValueError: if a file is no enhancer, a pair's networks differ, or two have one name.
    """
    loaded = [load_network(path, "enhancer", trusted) for path in checkpoints]
    offers = [
        Offer(name, note(net, record), net, record.trained_degradation or {})
        for (name, net), (_, record) in zip(
            named(loaded, list(checkpoints)).items(), loaded, strict=True
        )
    ]
    offers += [load_row(pair, steps, trusted) for pair in pairs]
    for offer in offers:
        offer.net.to(device)
    names = [offer.id for offer in offers]
    for offer in offers:
        if names.count(offer.id) > 1:
            raise ValueError(f"two of the models would be called {offer.name}")
    return offers


def load_row(pair: Sequence[str], steps: int, trusted: Sequence[str]) -> Offer:
    """The networks between two trainings."""
    loaded = [load_network(path, "enhancer", trusted) for path in pair]
    (first, one), (second, two) = loaded
    same_network(one, two)
    if one.trained_degradation != two.trained_degradation:
        raise ValueError(f"pairs={list(pair)}: were trained to undo different degradations")
    low, high = one.gamma, two.gamma
    assert low is not None  # they are enhancers
    assert high is not None
    if not low < high:
        raise ValueError(
            f"pairs={list(pair)}: gamma has to rise from the first to the second, "
            f"not {low:g} to {high:g}"
        )
    ends = tuple({k: v.clone() for k, v in net.state_dict().items()} for net, _ in loaded)
    return Offer(
        f"{one.class_name} gamma={low:g} to {high:g}",
        f"weights between the two trainings, {steps} steps; {note(second, two)}",
        first,
        two.trained_degradation or {},
        ends,  # type: ignore[arg-type]
        [round(low + (high - low) * k / (steps - 1), 4) for k in range(steps)],
    )


def note(net: nn.Module, record: Record) -> str:
    """A line about a network."""
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    return f"{millions:.2f} M parameters, trained on {record.data}"


def scorer_facts(scorer: NIMA, record: Record) -> dict[str, Any]:
    """What the pages and results say about the scorer, as `ScorerFacts` describes."""
    return {
        "name": record.backbone,
        "trained_on": record.data,
        "buckets": scorer.num_buckets,
    }
