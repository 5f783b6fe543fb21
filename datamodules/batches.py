"""Batches of LR/HR pairs: whole photos, patches, and places of patches."""

from typing import NamedTuple

from torch import Tensor

from datamodules.sampling import orient
from images.pixels import to_unit


class Pair(NamedTuple):
    """One photo: 3 x H x W uint8 images and its name."""

    lr: Tensor
    hr: Tensor
    name: str

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr.shape[-1] // self.lr.shape[-1]


class PairBatch(NamedTuple):
    """Photos or patches of one size. uint8 from the loader, float32 in [0, 1] at the network."""

    lr_BCHW: Tensor
    hr_BCHW: Tensor

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr_BCHW.shape[-1] // self.lr_BCHW.shape[-1]

    def to_unit(self) -> "PairBatch":
        """The same as float32 in [0, 1]."""
        return PairBatch(to_unit(self.lr_BCHW), to_unit(self.hr_BCHW))


class PatchBatch(NamedTuple):
    """Patches as they are cut out; how each is to be flipped or rotated (0 to 7)."""

    lr_BHWC: Tensor
    hr_BHWC: Tensor
    code_B: Tensor

    def to_unit(self) -> PairBatch:
        """Flipped, rotated, and float32 in [0, 1]: on the training device, so that bytes travel."""
        lr_BCHW, hr_BCHW = (orient(x, self.code_B) for x in (self.lr_BHWC, self.hr_BHWC))
        return PairBatch(to_unit(lr_BCHW), to_unit(hr_BCHW))


class PatchPlaces(NamedTuple):
    """Where patches lie in a store that is on the training device (see `Resident`)."""

    scale: int
    item_B: Tensor
    top_B: Tensor  # in the LR image
    left_B: Tensor
    code_B: Tensor

    def to_unit(self) -> PairBatch:
        """Always fail: in a plain loop the data module has to cut these patches out.

        Raises:
            ValueError: saying how.
        """
        raise ValueError(
            "data.on_device=true leaves the cutting of patches to the data module: "
            "use data.on_after_batch_transfer(batch.to(device), 0)"
        )
