"""What every decoder of image files returns."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Samples = NDArray[np.unsignedinteger]  # uint8 or uint16, H x W x C


class Decoded(NamedTuple):
    """The first page of an image file.

    `rgb` is H x W x 3 and `alpha` H x W x 1 or None, not premultiplied. Both are full-range uint8
    or uint16, as stored: `orientation` (1 to 8) is not applied yet.
    """

    rgb: Samples
    alpha: Samples | None
    orientation: int
    exif: Callable[[], Image.Exif]
    profile: bytes | None
    notes: tuple[str, ...]  # what was left out

    def upright(self) -> "Decoded":
        """Apply the orientation; other values than 2 to 8 change nothing."""
        alpha = None if self.alpha is None else turn(self.alpha, self.orientation)
        return self._replace(rgb=turn(self.rgb, self.orientation), alpha=alpha, orientation=1)


def turn(image: Samples, orientation: int) -> Samples:
    """Turn an image upright by the value of the orientation tag (TIFF 6.0, section 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image[::-1] if orientation in (3, 4, 7, 8) else image


def page_notes(num_more: int) -> tuple[str, ...]:
    """Return a note about pages after the first, if there are any."""
    if not num_more:
        return ()
    return (f"the first of {num_more + 1} pages or frames; the others are left out",)
