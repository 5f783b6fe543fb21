"""Base of the degradations that are drawn anew for each training patch.

Everything random is drawn on the CPU, each image from a stream of its own, and applied to whole
batches on the training device.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from datamodules.realistic_stages import Numbers
from datamodules.sampling import name_stream
from images.pixels import to_bytes, to_unit


class DegradationDraws(Protocol):
    """All random choices for a batch: a tuple of tensors, which follow the batch to its device."""

    @property
    def corner_B2(self) -> Numbers:
        """Return row and column of each patch in LR, which is larger by twice the margin."""

    def apply(self, hr_BCHW: Tensor, scale: int) -> Tensor:
        """Degrade HR images in [0, 1] to LR images in [0, 1], with values of 8 bits."""


class DrawnDegradation(ABC):
    """Degradation of HR images to LR images, drawn for each patch and epoch.

    Validation photos are degraded once, by draws that depend on their names alone, not on the run's
    seed.

    Attributes:
        margin: LR pixels that are degraded around a training patch and cut off.
    """

    margin: int

    @abstractmethod
    def label(self) -> str:
        """Return the name of the choice `data.degradation=`, for folders and descriptions."""

    @abstractmethod
    def draw(
        self,
        streams: Sequence[np.random.Generator],
        size: tuple[int, int],
        scale: int,
        *,
        spare: int = 0,
    ) -> DegradationDraws:
        """Draw everything for a batch.

        Args:
            streams: one for each image.
            size: height and width of the HR images, multiples of the scale.
            scale: HR pixels per LR pixel.
            spare: LR pixels to be cut off in height and width.
        """

    def check_scales(self, scales: Sequence[int]) -> None:  # noqa: B027  # optional
        """Raise a ValueError if LR images cannot be made at one of the scales."""

    def make_lr(self, hr: Tensor, scale: int, name: str) -> Tensor:
        """Make the LR photo (3 x H x W uint8) of a whole HR photo by draws from its name."""
        height, width = (side - side % scale for side in hr.shape[-2:])
        draws = self.draw([name_stream(name)], (height, width), scale)
        return to_bytes(draws.apply(to_unit(hr[None, :, :height, :width]), scale))[0]


def check_probability(key: str, value: float) -> None:
    """Raise a ValueError unless a value is a probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{key}={value}: a probability is from 0 to 1")


def check_range(
    key: str, ends: list[float] | list[int], low: float, high: float, *, around_one: bool = False
) -> None:
    """Raise a ValueError unless the ends are two increasing numbers within limits."""
    if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
        raise ValueError(f"{key}={list(ends)}: [low,high] from {low:g} to {high:g}")
    if around_one and not ends[0] <= 1 <= ends[1]:
        raise ValueError(f"{key}={list(ends)}: [low,high] with low up to 1 and high from 1")
