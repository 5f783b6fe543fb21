"""Batches of LR/HR pairs: whole photos, patches, or only the locations of patches."""

from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.drawn import DegradationDraws
from datamodules.sampling import orient
from images.pixels import to_unit


class Pair(NamedTuple):
    """LR and HR images of one photo, 3 x H x W uint8, and its name."""

    lr: Tensor
    hr: Tensor
    name: str

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr.shape[-1] // self.lr.shape[-1]


class PairBatch(NamedTuple):
    """Photos or patches of equal size: uint8 from the loader, float32 in [0, 1] for the network."""

    lr_BCHW: Tensor
    hr_BCHW: Tensor

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr_BCHW.shape[-1] // self.lr_BCHW.shape[-1]

    def to_unit(self) -> "PairBatch":
        """Convert to float32 in [0, 1]."""
        return PairBatch(to_unit(self.lr_BCHW), to_unit(self.hr_BCHW))


class PatchBatch(NamedTuple):
    """Patches as cropped, with codes (0 to 7) for how to flip and rotate each."""

    lr_BHWC: Tensor
    hr_BHWC: Tensor
    code_B: Tensor

    def to_unit(self) -> PairBatch:
        """Flip, rotate and convert to float32 in [0, 1].

        Done on the training device, because transferring bytes is faster than transferring floats.
        """
        lr_BCHW, hr_BCHW = (orient(x, self.code_B) for x in (self.lr_BHWC, self.hr_BHWC))
        return PairBatch(to_unit(lr_BCHW), to_unit(hr_BCHW))


class UndegradedBatch(NamedTuple):
    """HR patches with a margin, codes as in `PatchBatch`, and how to make LR patches of them."""

    hr_BHWC: Tensor
    code_B: Tensor
    draws: DegradationDraws
    size: int  # side of an LR patch without the margin
    scale: int

    def to_unit(self) -> PairBatch:
        """Flip, rotate, convert to float32 in [0, 1], degrade, and cut the margins off."""
        hr_BCHW = to_unit(orient(self.hr_BHWC, self.code_B))
        lr_BCHW = self.draws.apply(hr_BCHW, self.scale)
        return PairBatch(self.crop(lr_BCHW, 1), self.crop(hr_BCHW, self.scale))

    def crop(self, image_BCHW: Tensor, scale: int) -> Tensor:
        """Cut the patches out: `size` pixels at the corners, both times the scale."""
        size = self.size * scale
        corners = enumerate((self.draws.corner_B2 * scale).tolist())
        return torch.stack([image_BCHW[k, :, y : y + size, x : x + size] for k, (y, x) in corners])


class PatchLocations(NamedTuple):
    """Locations of patches in a store on the training device (see `Resident`)."""

    scale: int
    item_B: Tensor
    top_B: Tensor  # in the LR image
    left_B: Tensor
    code_B: Tensor
    draws: DegradationDraws | None = None  # how to degrade the patches, if they are

    def to_unit(self) -> PairBatch:
        """Raise an error, because only the data module can crop these patches.

        Raises:
            ValueError: always, explaining what to call in a plain loop.
        """
        raise ValueError(
            "data.on_device=true makes the data module cut the patches: "
            "use data.on_after_batch_transfer(batch.to(device), 0)"
        )
