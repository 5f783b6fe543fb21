"""Expected computing times of enhancers, measured at the start and on every job."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from networks.tiling import restore, spans
from web.enhancers import Enhancer, Task

TRIAL_SIDE = 96  # pixels of the picture on which speed is measured at the start, on a CPU
NUM_TRIALS = 3  # measurements of an architecture, of which the median counts


class Speeds:
    """Seconds per megapixel, by architecture and scale.

    Weights do not change the speed, so all networks of an architecture share their measurements.
    Pixels in the margins of tiles count as often as they are read.
    """

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.lock = threading.Lock()
        self.seen: dict[tuple[str, int], tuple[float, float]] = {}  # seconds, megapixels

    def get(
        self, enhancer: Enhancer, task: Task, size: tuple[int, int] = (1000, 1000)
    ) -> float | None:
        """Return the expected seconds for a photo of this height and width; None if not measured.

        The times of a series are added up.
        """
        with self.lock:
            seconds, megapixels = self.seen.get((enhancer.architecture, task.scale), (0.0, 0.0))
        if not megapixels:
            return None
        one = seconds / megapixels * self.read_megapixels(enhancer.net, size)
        return one * max(1, len(enhancer.gammas))

    def add(self, enhancer: Enhancer, task: Task, size: tuple[int, int], seconds: float) -> None:
        """Add the time of one network; larger photos and newer measurements have more weight.

        Photos smaller than the trial at the start are ignored: overhead dominates their times.
        """
        megapixels = self.read_megapixels(enhancer.net, size)
        if megapixels < TRIAL_SIDE**2 / 1e6:
            return
        key = enhancer.architecture, task.scale
        with self.lock:
            before = self.seen.get(key, (0.0, 0.0))
            self.seen[key] = (before[0] / 2 + seconds, before[1] / 2 + megapixels)

    def read_megapixels(self, net: nn.Module, size: tuple[int, int]) -> float:
        """Return the megapixels that a network reads for a photo, including margins of tiles."""
        margin = getattr(net, "margin", None)
        if margin is None:
            return size[0] * size[1] / 1e6
        sides = [sum(s.last - s.first for s in spans(n, self.tile, margin)) for n in size]
        return sides[0] * sides[1] / 1e6

    def measure(
        self,
        enhancers: Sequence[Enhancer],
        device: torch.device,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Measure each architecture on a small picture, or on a whole tile to occupy a GPU."""
        side = self.tile if device.type == "cuda" else min(self.tile, TRIAL_SIDE)
        side = max(side, TRIAL_SIDE)
        picture = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
        for enhancer in enhancers:
            for task in enhancer.tasks:
                if (enhancer.architecture, task.scale) in self.seen:
                    continue
                _, net = enhancer.networks(task.scale)[0]
                times = []
                for _ in range(1 + NUM_TRIALS):
                    if is_over():
                        return
                    began = time.perf_counter()
                    restore(net, picture, device=device, tile=None)
                    times.append(time.perf_counter() - began)
                # The first one is a warm-up.
                self.add(enhancer, task, (side, side), statistics.median(times[1:]))
