"""Keep photos on the training device and crop patches there."""

import torch
from torch import Tensor

from datamodules.batches import PatchBatch, PatchLocations, UndegradedBatch
from datamodules.store import Images


class Resident:
    """Holds all photos (LR by scale) on the training device and crops LR patches of one size.

    Args:
        hr: HR photos.
        lr: LR photos by scale.
        patch_size: side of an LR patch in pixels.
        margin: LR pixels around the patches of a realistic degradation.
        device: the training device.
    """

    def __init__(
        self,
        hr: Images,
        lr: dict[int, Images],
        patch_size: int,
        margin: int,
        device: torch.device,
    ) -> None:
        self.patch_size = patch_size
        self.margin = margin
        self.device = device
        self.hr = self.put(hr)
        self.lr = {s: self.hr if images is hr else self.put(images) for s, images in lr.items()}

    def put(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Copy images to the device: all pixels, the start of each image, and its row length."""
        pixels, starts = images.flat(self.device)
        rows = torch.from_numpy(images.sizes[:, 1] * 3)
        return pixels, torch.from_numpy(starts).to(self.device), rows.to(self.device)

    def patches(self, locations: PatchLocations) -> PatchBatch | UndegradedBatch:
        """Crop patches, bit-identical to those that the loader would crop."""
        size, scale, item_B = self.patch_size + 2 * self.margin, locations.scale, locations.item_B
        top_B, left_B, code_B = locations.top_B, locations.left_B, locations.code_B
        corner = top_B * scale, left_B * scale
        hr_BHWC = self.gather(self.hr, item_B, *corner, size * scale)
        if locations.draws is not None:
            return UndegradedBatch(hr_BHWC, code_B, locations.draws, self.patch_size, scale)
        lr_BHWC = self.gather(self.lr[scale], item_B, top_B, left_B, size)
        return PatchBatch(lr_BHWC, hr_BHWC, code_B)

    def gather(
        self,
        images: tuple[Tensor, Tensor, Tensor],
        item_B: Tensor,
        top_B: Tensor,
        left_B: Tensor,
        size: int,
    ) -> Tensor:
        """Crop patches of one size, B x size x size x 3."""
        pixels, starts_N, rows_N = images
        start_B, row_B = starts_N[item_B], rows_N[item_B]
        corner_B = start_B + top_B * row_B + left_B * 3
        row_BH = torch.arange(size, device=self.device) * row_B[:, None]
        index_BHW = (corner_B[:, None] + row_BH)[..., None] + torch.arange(
            size * 3, device=self.device
        )
        return pixels[index_BHW].view(len(item_B), size, size, 3)
