"""A metric: how far the mean colour has moved."""

from torch import Tensor


def cast(sr: Tensor, hr: Tensor) -> Tensor:
    """Compare the mean colours of each image, in 0..255 units; B values."""
    return 255 * (sr.mean(dim=(2, 3)) - hr.mean(dim=(2, 3))).norm(dim=1)


cast.higher_is_better = False
