"""Random choices for a batch, each item's from its own stream."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Uniform:
    """Turns uniform numbers into choices, in the order in which it is asked.

    Every choice takes one number of each item, whether it matters or not, so that later choices do
    not depend on earlier ones.

    Args:
        streams: one generator for each item of the batch.
        num: numbers to draw from each.
    """

    def __init__(self, streams: Sequence[np.random.Generator], num: int) -> None:
        numbers = np.stack([stream.random(num) for stream in streams], axis=1)
        self.columns: list[Floats] = list(numbers[::-1])

    def happens(self, probability: float) -> NDArray[np.bool_]:
        """Return true with this probability."""
        happens: NDArray[np.bool_] = self.columns.pop() < probability
        return happens

    def between(self, low: float | Floats, high: float | Floats) -> Floats:
        """Return a number from `low` to `high`."""
        number: Floats = low + (high - low) * self.columns.pop()
        return number

    def around_one(self, low: float, high: float) -> Floats:
        """Return a number from `low` to 1 or, as often, one from 1 to `high`."""
        below = self.happens(0.5)
        return self.between(np.where(below, low, 1.0), np.where(below, 1.0, high))

    def whole(self, low: int | Integers, high: int | Integers) -> Integers:
        """Return a whole number from `low` to `high`, both included."""
        steps: Integers = np.floor((high - low + 1) * self.columns.pop()).astype(np.int64)
        return low + steps

    def pick(self, shares: Sequence[float]) -> Integers:
        """Return an index, drawn by shares."""
        ends = np.cumsum(shares) / np.sum(shares)
        index: Integers = np.searchsorted(ends[:-1], self.columns.pop(), side="right")
        return index


def to_float(values: Floats) -> Tensor:
    """Convert to a float32 tensor."""
    return torch.from_numpy(values.astype(np.float32))
