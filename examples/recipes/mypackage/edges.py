"""A term of the loss: the error of differences between neighbouring pixels."""

from torch import Tensor


def edges(sr: Tensor, hr: Tensor) -> Tensor:
    """Compare horizontal and vertical differences, in 0..255 units."""
    errors = [(sr.diff(dim=axis) - hr.diff(dim=axis)).abs().mean() for axis in (2, 3)]
    return 255 * (errors[0] + errors[1])
