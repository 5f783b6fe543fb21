"""Expected computing times of enhancers, measured at the start and on every job."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence

import torch

from networks.tiling import restore, spans
from web.enhancers import Enhancer, Task

TRIAL_SIDE = 96  # pixels of the picture on which speed is measured at the start
FAST_SECONDS = 0.05  # if it takes less, overhead counts, so speed is measured on a whole tile
NUM_TRIALS = 3  # measurements of an architecture, of which the median counts
# Everything but the networks (enlarging bicubically, writing, scoring) takes so many seconds per
# megapixel of pictures until it has been measured. A picture costs as much as its pixels and those
# of `PICTURE`. Measured on one core of an AMD EPYC: 0.11 s and 0.13 s per megapixel.
REST_SECONDS = 0.15
PICTURE = 0.7  # megapixels


class Speeds:
    """Seconds per megapixel, by architecture and scale.

    Weights do not change the speed, so all networks of an architecture share their measurements.
    Pixels in the margins of tiles count as often as they are read. The page's script has the same
    formulas.
    """

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.lock = threading.Lock()
        self.seen: dict[tuple[str, int], tuple[float, float]] = {}  # seconds, megapixels
        self.rest_seen = REST_SECONDS, 1.0

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
        one = seconds / megapixels * self.read_megapixels(enhancer, size)
        return one * enhancer.num_networks

    def add(self, enhancer: Enhancer, task: Task, size: tuple[int, int], seconds: float) -> None:
        """Add the time of one network; larger photos and newer measurements have more weight.

        Photos smaller than the trial at the start are ignored: overhead dominates their times.
        """
        megapixels = self.read_megapixels(enhancer, size)
        if megapixels < TRIAL_SIDE**2 / 1e6:
            return
        key = enhancer.architecture, task.scale
        with self.lock:
            before = self.seen.get(key, (0.0, 0.0))
            self.seen[key] = (before[0] / 2 + seconds, before[1] / 2 + megapixels)

    @property
    def rest_seconds(self) -> float:
        """Return the seconds per megapixel of pictures for everything but the networks."""
        with self.lock:
            seconds, megapixels = self.rest_seen
        return seconds / megapixels

    def rest(self, task: Task, size: tuple[int, int], num: int) -> float:
        """Return the expected seconds for everything but the networks, of which there are `num`."""
        return self.rest_seconds * made_megapixels(task, size, num)

    def add_rest(self, task: Task, size: tuple[int, int], num: int, seconds: float) -> None:
        """Add the time that a photo took in addition to its `num` networks."""
        with self.lock:
            before = self.rest_seen
            megapixels = before[1] / 2 + made_megapixels(task, size, num)
            self.rest_seen = before[0] / 2 + seconds, megapixels

    def read_megapixels(self, enhancer: Enhancer, size: tuple[int, int]) -> float:
        """Return the megapixels that a network reads for a photo, including margins of tiles."""
        margin = enhancer.margin
        sides = [sum(s.last - s.first for s in spans(n, self.tile, margin)) for n in size]
        return sides[0] * sides[1] / 1e6

    def measure(
        self,
        enhancers: Sequence[Enhancer],
        device: torch.device,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Measure each architecture on a small picture, or on a whole tile if it is fast."""
        for enhancer in enhancers:
            for task in enhancer.tasks:
                if (enhancer.architecture, task.scale) in self.seen:
                    continue
                _, net = enhancer.networks(task.scale)[0]
                for side in (TRIAL_SIDE, max(TRIAL_SIDE, self.tile)):
                    picture = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
                    times = []
                    for _ in range(1 + NUM_TRIALS):
                        if is_over():
                            return
                        began = time.perf_counter()
                        restore(net, picture, device=device, tile=self.tile)
                        times.append(time.perf_counter() - began)
                    seconds = statistics.median(times[1:])  # the first one is a warm-up
                    if seconds > FAST_SECONDS:
                        break
                self.add(enhancer, task, (side, side), seconds)


def made_megapixels(task: Task, size: tuple[int, int], num: int) -> float:
    """Return the megapixels of a photo's pictures, which include the original and bicubic."""
    megapixels = size[0] * size[1] / 1e6
    num_large = num + (task.scale > 1)
    return megapixels + PICTURE + num_large * (megapixels * task.scale**2 + PICTURE)
